"""The log in memory against the list of its documents."""

from __future__ import annotations

from itertools import count, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.config import RetrievalConfig
from rasd.errors import InvalidRequest
from rasd.retrieval.search import Index
from rasd.retrieval.store import memory
from rasd.retrieval.store.memory import SMALL, LogDocument, Memory
from rasd.retrieval.store.names import name
from tests.retrieval import brute

SETTINGS = RetrievalConfig(suffix_min=1, suffix_max=6, depth=4, nodes=32)
VOCABULARY = 4

TEXTS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), max_size=4)
STEPS = st.lists(
    st.tuples(
        st.lists(TEXTS, max_size=3),  # sources that come
        st.sets(st.integers(0, 60), max_size=3),  # those of the documents that die
        st.sets(st.integers(0, 12), max_size=2),  # sources that go
    ),
    max_size=8,
)


def documents(source: int, texts: list[list[int]]) -> list[LogDocument]:
    """The digest repeats the ordinal."""
    return [
        LogDocument(
            name(source, ordinal),
            np.full(16, ordinal, np.uint8),
            np.array(text, np.uint32),
        )
        for ordinal, text in enumerate(texts)
    ]


def held(log: Memory) -> dict[int, list[int]]:
    """The living documents by name."""
    found: dict[int, list[int]] = {}
    for group in log.groups:
        segment = group.part.segment
        ends = [*segment.documents[1:].tolist(), len(segment.tokens)]
        for row, (start, end) in enumerate(zip(segment.documents.tolist(), ends, strict=True)):
            assert set(group.digests[row].tolist()) == {int(group.names[row]) & 0xFFFFFFFF}
            if not group.gone[row]:
                found[int(group.names[row])] = segment.tokens[start : end - 1].tolist()
    return found


@given(steps=STEPS, tail=st.lists(st.integers(0, 3), max_size=5))
def test_follows_the_log(
    steps: list[tuple[list[list[list[int]]], set[int], set[int]]], tail: list[int]
) -> None:
    log, sources, wanted = Memory(), set[int](), dict[int, list[int]]()
    numbers, dead = count(), set[int]()
    for come, die, go in steps:
        sources -= go
        added: list[LogDocument] = []
        for texts in come:
            sources.add(number := next(numbers))
            added += documents(number, texts)
        wanted |= {document.name: document.tokens.tolist() for document in added}
        keys = list(wanted)
        dead |= {keys[i] for i in die if i < len(keys)}
        wanted = {
            key: text for key, text in wanted.items() if key >> 32 in sources and key not in dead
        }
        before, contents = log, held(log)
        log = log.updated(
            added, sources=sources, dead=np.array([*dead], np.int64), vocabulary=VOCABULARY
        )
        assert held(log) == wanted
        assert held(before) == contents
        assert log.documents == len(wanted)
        assert log.tokens == sum(map(len, wanted.values()))
        found = Index(group.part for group in log.groups).search(np.array(tail, np.int32), SETTINGS)
        asked = brute.search([*wanted.values()], tail, SETTINGS)
        assert brute.as_lists(found) == brute.as_lists(asked)


def test_few_groups_and_little_sorting(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Sources of all sizes, one after the other."""
    rng, build, sorted_tokens = np.random.default_rng(seed), memory.build_segment, 0

    def counted(texts: list[np.ndarray], *, vocabulary: int) -> object:
        nonlocal sorted_tokens
        sorted_tokens += sum(map(len, texts))
        return build(texts, vocabulary=vocabulary)

    monkeypatch.setattr(memory, "build_segment", counted)
    log, total = Memory(), 0
    for source in range(60):
        size = int(rng.choice([100, 2_000, 30_000]))
        total += size
        text = rng.integers(0, 3, size).tolist()
        log = log.updated(
            documents(source, [text]), sources=range(source + 1), dead=NONE, vocabulary=VOCABULARY
        )
        sizes = [group.tokens for group in log.groups]
        assert all(more >= 2 * less for more, less in pairwise(sizes))
    # Each token grows its group by half whenever it is sorted, but for those in small groups.
    assert sorted_tokens <= total * (2 + np.log(total / SMALL) / np.log(1.5)) + 60 * SMALL


def test_what_is_mostly_dead_is_sorted_anew() -> None:
    log = Memory().updated(documents(0, [[1]] * 10), sources=[0], dead=NONE, vocabulary=VOCABULARY)
    some = log.updated([], sources=[0], dead=np.arange(4), vocabulary=VOCABULARY)
    most = some.updated([], sources=[0], dead=np.arange(6), vocabulary=VOCABULARY)
    rows = [len(log.groups[0].names), len(some.groups[0].names), len(most.groups[0].names)]
    assert rows == [10, 10, 4]
    none = most.updated([], sources=[0], dead=np.arange(10), vocabulary=VOCABULARY)
    assert none == Memory()


def test_groups_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LARGE", 100)
    monkeypatch.setattr(memory, "SMALL", 1)
    log = Memory()
    for source in range(9):
        log = log.updated(
            documents(source, [[1] * 30, [2] * 15]),
            sources=range(source + 1),
            dead=NONE,
            vocabulary=VOCABULARY,
        )
    huge = documents(9, [[1] * 150, [2] * 10, [3] * 10])
    log = log.updated(huge, sources=range(10), dead=NONE, vocabulary=VOCABULARY)
    assert log.tokens == 9 * 45 + 170
    assert max(group.tokens for group in log.groups) == 150
    assert sorted(group.tokens for group in log.groups)[-2] <= 100


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="holds 4"):
        Memory().updated(documents(0, [[4]]), sources=[0], dead=NONE, vocabulary=VOCABULARY)


NONE = np.zeros(0, np.int64)
