"""What a prompt selects, from admission to release; pure, beside the plain definitions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.config import DenseConfig, RetrievalConfig
from rasd.errors import WireError
from rasd.retrieval.dense import choices as module
from rasd.retrieval.dense.choices import Choices, Copied
from rasd.retrieval.dense.packed import pack_passages, unpack_passages
from rasd.retrieval.dense.passages import PROMPT_TOKENS, Passage
from rasd.retrieval.dense.select import Run, joined, narrowed, select, united, widened
from rasd.stages import RetrieveQuery
from rasd.trie import Continuations, Origins, build_trie
from tests.retrieval import brute

VOCABULARY = 50
SETTINGS = RetrievalConfig(suffix_min=1, depth=4, nodes=32)
ONE, TWO = bytes(16), bytes(range(16))


def passage(corpus: int, document: bytes, offset: int, size: int, score: float = 0.5) -> Passage:
    tokens = np.arange(offset, offset + size, dtype=np.uint32) % VOCABULARY
    return Passage(corpus, document, offset, score, tokens)


def query(*corpora: str, tail: Any = (1, 2), sequence: int = 0, **more: Any) -> RetrieveQuery:
    return RetrieveQuery(sequence, np.array(tail, np.int32), corpora, **more)


def asked(settings: DenseConfig, corpora: tuple[str, ...] = ("a", "b")) -> Choices:
    made = Choices(settings, SETTINGS, VOCABULARY)
    made.observe(0, np.array([1, 2, 3], np.int32))
    made.wishes([query(*corpora)])
    return made


# --- selecting ----------------------------------------------------------------------------

passages = st.lists(
    st.builds(
        passage,
        st.integers(0, 1),
        st.sampled_from([ONE, TWO]),
        st.integers(0, 60),
        st.integers(1, 20),
        st.floats(0, 1, width=16),
    ),
    max_size=12,
)


@given(found=passages)
def test_joined_passages_hold_each_token_once(found: list[Passage]) -> None:
    wanted = {
        (p.corpus, p.document, p.offset + i): int(token)
        for p in found
        for i, token in enumerate(p.tokens)
    }
    runs = joined(found)
    held = [
        ((run.corpus, run.document, run.offset + i), int(token))
        for run in runs
        for i, token in enumerate(run.tokens)
    ]
    assert len(held) == len(wanted) and dict(held) == wanted
    ends = {(run.corpus, run.document, run.offset + len(run.tokens)) for run in runs}
    assert ends.isdisjoint((run.corpus, run.document, run.offset) for run in runs)


@given(one=passages, other=passages, count=st.integers(0, 6), deciding=st.integers(1, 6))
def test_the_best_are_selected(
    one: list[Passage], other: list[Passage], count: int, deciding: int
) -> None:
    made = select({"one": one, "other": other}, count, deciding)
    every = sorted(
        [("one", p) for p in one] + [("other", p) for p in other], key=lambda hit: -hit[1].score
    )
    for source in ("one", "other"):
        wanted = {p.corpus for name, p in every[:deciding] if name == source}
        assert made.reads[source] == wanted
    copied = joined(p for _, p in every[:count])
    assert [r.tokens.tolist() for r in made.runs] == [r.tokens.tolist() for r in copied]


def test_a_narrowed_query_is_answered_as_the_whole() -> None:
    whole = query("a", "b", "c", origins=True)
    assert narrowed(whole, frozenset()) is None
    assert narrowed(whole, frozenset([0, 1, 2])) is whole
    narrow = narrowed(whole, frozenset([2]))
    assert narrow is not None and narrow.corpora == ("c",)
    found = build_trie([[3, 4]], 1)
    documents = np.zeros((2, 16), np.uint8)
    origins = Origins(np.zeros(2, np.int32), documents, np.array([7, 8], np.int32))
    wide = widened(replace(found, origins=origins), narrow, whole)
    assert wide.origins is not None and wide.origins.corpora.tolist() == [2, 2]
    assert widened(found, narrow, whole) is found


def test_copied_passages_answer_where_they_match_longer() -> None:
    two, three = build_trie([[1]], 2), build_trie([[2]], 3)
    assert united(None, [two]) == [two]
    assert united(Continuations.none(), [two]) == [two]
    assert united(two, []) == [two]
    assert united(two, [two, three]) == [two, three]
    assert united(three, [two]) == [three]
    assert united(three, [three, two]) == [three, two]


# --- the life of a sequence ---------------------------------------------------------------


def test_a_prompt_is_asked_about_once() -> None:
    made = Choices(DenseConfig(passages=5), SETTINGS, VOCABULARY)
    assert made.wishes([query("a")]) == []  # it was not observed
    prompt = np.arange(PROMPT_TOKENS + 9, dtype=np.int32)
    made.observe(0, prompt)
    made.observe(0, prompt[:3])
    (wish,) = made.wishes([query("a", "b")])
    assert wish.prompt.tolist() == prompt[9:].tolist()
    assert (wish.sequence, wish.corpora, wish.count) == (0, ("a", "b"), 5)
    assert made.wishes([query("a", "b")]) == []
    made.release(0)
    made.release(0)
    made.answered(0, {0: [passage(0, ONE, 0, 9)]})  # too late
    assert made.copied(query("a")) is None


@pytest.mark.parametrize(
    ("settings", "wanted", "count"),
    [
        ({"passages": 0}, None, 0),
        ({"passages": 0}, 7, 7),
        ({"passages": 9}, None, 9),
        ({"passages": 9}, 0, 0),
        ({"passages": 0, "ask": "selected"}, None, 16),
        ({"passages": 40, "ask": "selected"}, None, 40),
        ({"passages": 40, "ask": "none"}, 0, 0),
    ],
)
def test_what_is_wanted(settings: dict[str, Any], wanted: int | None, count: int) -> None:
    made = Choices(DenseConfig(**settings), SETTINGS, VOCABULARY)
    made.observe(0, np.array([1], np.int32))
    made.observe(1, np.array([1], np.int32))
    wishes = made.wishes([query("a", passages=wanted), query(sequence=1, passages=wanted)])
    assert [wish.count for wish in wishes] == ([count] if count else [])


def test_who_is_asked() -> None:
    answers = {"x": [passage(1, ONE, 0, 9)], "y": []}
    whole = query("a", "b")
    made = {ask: asked(DenseConfig(passages=4, ask=ask)) for ask in ("all", "selected", "none")}
    for each in made.values():
        assert all(each.asks(whole, source) is whole for source in "xyz")  # nothing is known yet
        each.answered(0, answers)
    corpora = {
        ask: [q and q.corpora for q in (each.asks(whole, source) for source in "xyz")]
        for ask, each in made.items()
    }
    assert corpora == {
        "all": [("a", "b")] * 3,
        "selected": [("b",), None, ("a", "b")],  # z did not answer
        "none": [None] * 3,
    }
    other = query("a", "b", sequence=9)
    assert all(each.asks(other, "x") is other for each in made.values())


@pytest.mark.parametrize("answers", [{}, {"x": []}])
def test_where_nothing_is_found_everybody_is_asked(answers: dict[str, list[Passage]]) -> None:
    for ask in ("all", "selected", "none"):
        made = asked(DenseConfig(ask=ask))
        made.answered(0, answers)
        whole = query("a", "b")
        assert made.asks(whole, "x") is whole and made.copied(whole) is None


def test_a_request_that_wants_no_copies_asks_as_ever() -> None:
    made = Choices(DenseConfig(ask="selected"), SETTINGS, VOCABULARY)
    made.observe(0, np.array([1], np.int32))
    made.wishes([query("a", passages=0)])
    made.answered(0, {"x": [passage(0, ONE, 0, 9)]})
    assert made.copied(query("a")) is None


@given(tail=st.lists(st.integers(0, VOCABULARY - 1), max_size=4))
def test_copies_are_searched_like_a_corpus(tail: list[int]) -> None:
    found = [passage(1, ONE, 3, 30), passage(0, TWO, 40, 20), passage(1, ONE, 20, 30)]
    made = asked(DenseConfig(passages=3))
    made.answered(0, {"x": found})
    answer = made.copied(query("a", "b", tail=tail, origins=True))
    texts = [run.tokens.tolist() for run in joined(found)]
    wanted = brute.search(texts, tail, SETTINGS)
    assert answer is not None and brute.as_lists(answer) == brute.as_lists(wanted)
    assert answer.origins is not None
    places = zip(
        answer.origins.corpora.tolist(),
        answer.origins.documents,
        answer.origins.offsets.tolist(),
        answer.tokens.tolist(),
        strict=True,
    )
    held = {
        (p.corpus, p.document, p.offset + i, int(t)) for p in found for i, t in enumerate(p.tokens)
    }
    assert {(c, d.tobytes(), o, t) for c, d, o, t in places} <= held


def test_few_sequences_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SEQUENCES", 3)
    made = Choices(DenseConfig(), SETTINGS, VOCABULARY)
    for sequence in range(5):
        made.observe(sequence, np.array([1], np.int32))
    wishes = made.wishes([query("a", sequence=sequence) for sequence in range(5)])
    assert [wish.sequence for wish in wishes] == [2, 3, 4]


def test_copies_without_origins_have_none() -> None:
    run = Run(0, ONE, 0, np.arange(5, dtype=np.uint32))
    assert Copied([run], SETTINGS, VOCABULARY).search(query("a")).origins is None


# --- crossing a socket --------------------------------------------------------------------


@given(found=passages)
def test_passages_come_back_as_they_went(found: list[Passage]) -> None:
    back = unpack_passages(pack_passages(found), 2, VOCABULARY)
    assert [(p.corpus, p.document, p.offset, p.score, p.tokens.tolist()) for p in back] == [
        (p.corpus, p.document, p.offset, p.score, p.tokens.tolist()) for p in found
    ]


def test_passages_that_cannot_be_are_refused() -> None:
    sound = pack_passages([passage(1, ONE, 0, 5), passage(0, TWO, 0, 4)])
    wrong: list[dict[str, Any]] = [
        {"ends": np.array([5, 8], np.int32)},
        {"ends": np.array([9, 9], np.int32)},
        {"ends": np.array([[5, 9]], np.int32)},
        {"ends": np.array([9], np.int32)},
        {"corpora": np.array([2, 0], np.int32)},
        {"corpora": np.array([-1, 0], np.int32)},
        {"offsets": np.array([0, -1], np.int32)},
        {"scores": np.array([0, np.nan], np.float32)},
        {"documents": np.zeros((2, 8), np.uint8)},
        {"tokens": sound.tokens - 1},
        {"tokens": sound.tokens + VOCABULARY},
        {"tokens": sound.tokens[None]},
    ]
    for change in wrong:
        with pytest.raises(WireError):
            unpack_passages(replace(sound, **change), 2, VOCABULARY)
