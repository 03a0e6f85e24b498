"""Where accepted tokens are said to stand, they stand; whatever happens to the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rasd.config import EngineConfig, RetrievalConfig, SpeculationConfig
from rasd.engine.api import EngineSettings, Output, Request
from rasd.engine.engine import Engine
from rasd.engine.sound import sound_continuations
from rasd.engine.speculate import Proposals, build_tree
from rasd.errors import RasdError
from rasd.retrieval.prompt import PromptRetriever
from rasd.stages import Pending, RetrieveReply, RetrieveRequest
from rasd.trie import Continuations, Origins, build_trie
from tests.engine.test_engine import House, check_answer
from tests.fakes import VOCABULARY, FakeRetriever, behave, foresee, plain_tokens, request

CORPORA = ("laws", "docs")


@dataclass
class Library(FakeRetriever):
    """A `FakeRetriever` that notes the documents it has found its answers in.

    Attributes:
        documents: tokens by digest; the first byte of it is the corpus.
        origins: whether it says them, then even where nobody asks.
    """

    documents: dict[bytes, list[int]] = field(default_factory=dict)
    origins: bool = True

    def retrieve(self, request: RetrieveRequest) -> Pending[RetrieveReply]:
        self.asked += 1
        found = [self._found(query.tail.tolist(), query.corpora) for query in request.queries]
        return behave(self.how, self.clock, request.step, found, RetrieveReply)

    def _found(self, tail: list[int], corpora: Sequence[str]) -> Continuations:
        """Two paths, in documents of their own that begin in different ways."""
        paths = [foresee(tail, self.depth, self.how), foresee(tail, self.depth, "half")]
        trie = build_trie([paths[0], *paths], len(tail))
        if not self.origins:
            return trie
        rows: list[tuple[int, bytes, int]] = []
        depths: list[int] = []
        for node, parent in enumerate(trie.parents.tolist()):
            depths.append(depths[parent] + 1 if parent >= 0 else 0)
            chain = [node]
            while trie.parents[chain[-1]] >= 0:
                chain.append(int(trie.parents[chain[-1]]))
            below = [int(trie.tokens[i]) for i in reversed(chain)]
            rows.append(self._shelve(tail, below, node % len(corpora)))
        return replace(trie, origins=as_origins(rows))

    def _shelve(self, tail: list[int], below: list[int], corpus: int) -> tuple[int, bytes, int]:
        number = len(self.documents)
        digest = bytes([corpus]) + number.to_bytes(15, "little")
        start = [VOCABULARY + number % 7] * (number % 5)  # tokens that no text has
        self.documents[digest] = [*start, *tail, *below]
        return corpus, digest, len(start) + len(tail) + len(below) - 1


def as_origins(rows: Sequence[tuple[int, bytes, int]]) -> Origins:
    return Origins(
        np.array([corpus for corpus, _, _ in rows], np.int32),
        np.array([list(digest) for _, digest, _ in rows], np.uint8).reshape(-1, 16),
        np.array([offset for _, _, offset in rows], np.int32),
    )


@dataclass
class Lending(House):
    """A house whose corpora are a `Library`, and whose prompt lookup is the real one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.library = Library(self.corpus or "silent", self.clock)
        corpus = self.library if self.corpus else None
        prompt = PromptRetriever(RetrievalConfig(suffix_min=1)) if self.prompt else None
        self.engine = Engine(
            self.targets[0],
            EngineSettings(
                EngineConfig(max_sequences=self.max_sequences, chunk_tokens=self.chunk_tokens),
                self.speculation(),
                RetrievalConfig(),
            ),
            drafter=self.drafters[0] if self.drafters else None,
            prompt=prompt,
            corpus=corpus,
            eos=frozenset({1}),
            clock=self.clock,
        )
        self.retrievers = [corpus]


def asking(sequence: int, prompt: Sequence[int], **values: Any) -> Request:
    values = {"corpora": CORPORA, "return_origins": True, "ignore_eos": True, **values}
    return request(sequence, prompt, **values)


def check_origins(house: Lending, one: Request, outputs: list[Output]) -> int:
    """Compares what is quoted with where it is said to stand; gives the tokens quoted."""
    text = [*one.prompt.tolist(), *one.output.tolist()]
    quoted = 0
    for output in outputs:
        origin = output.origin
        if origin is not None:
            assert 1 <= origin.tokens <= len(output.tokens)
            if origin.corpus < 0:
                source, bit = [*text, *output.tokens], 2
                assert origin.offset < len(text)
            else:
                assert one.params.corpora is not None
                assert origin.corpus == origin.document[0] < len(one.params.corpora)
                source, bit = house.library.documents[origin.document], 4
            stop = origin.offset + origin.tokens
            assert source[origin.offset : stop] == output.tokens[: origin.tokens]
            assert source[origin.offset - 1] == text[-1]
            assert all(bits & bit for bits in output.sources[: origin.tokens])
            quoted += origin.tokens
        retrieved = sum(bool(bits & 6) for bits in output.sources)
        assert (origin.tokens if origin else 0) == retrieved
        text += output.tokens
    return quoted


@pytest.mark.parametrize("corpus", ["right", "half", "late", None])
@pytest.mark.parametrize("drafter", ["right", "half", None])
def test_quotes_stand_where_they_are_said_to(corpus: str | None, drafter: str | None) -> None:
    house = Lending(corpus=corpus, drafter=drafter)
    asked = [asking(i, [2, 3 + i], max_tokens=60) for i in range(4)]
    answers = house.run(*asked)
    quoted = 0
    for one in asked:
        check_answer(one, answers[one.sequence])
        quoted += check_origins(house, one, answers[one.sequence])
    assert quoted > 20
    kinds = {o.origin.corpus for a in answers.values() for o in a if o.origin}
    assert kinds <= ({-1, 0, 1} if corpus else {-1})


@given(st.data())
@settings(max_examples=40)
def test_setbacks_and_new_targets_misattribute_nothing(data: st.DataObject) -> None:
    house = Lending(
        nodes=data.draw(st.integers(1, 8)),
        kv_slots=4 * data.draw(st.integers(12, 24)),
        corpus=data.draw(st.sampled_from(["right", "half", "late"])),
        drafter=data.draw(st.sampled_from(["half", None])),
    )
    asked = [
        asking(
            i,
            data.draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12)),
            max_tokens=data.draw(st.integers(1, 34)),
            temperature=data.draw(st.sampled_from([0.0, 0.3])),
            return_origins=data.draw(st.booleans()),
        )
        for i in range(data.draw(st.integers(1, 5)))
    ]
    for one in asked:
        house.engine.add(one)
    for _ in range(data.draw(st.integers(0, 12))):
        if house.engine.has_work:
            house.step()
        if data.draw(st.integers(0, 5)) == 0:
            house.replace_target()
    answers = house.run()
    for one in asked:
        check_answer(one, answers[one.sequence])
        if one.params.return_origins:
            check_origins(house, one, answers[one.sequence])
        else:
            assert all(output.origin is None for output in answers[one.sequence])


def test_a_resumed_request_is_quoted_from_where_it_is() -> None:
    tokens = plain_tokens(asking(0, [2, 3], max_tokens=40))
    rest = replace(asking(0, [2, 3], max_tokens=40), output=np.asarray(tokens[:15], np.int32))
    house = Lending()
    answer = house.run(rest)[0]
    assert check_origins(house, rest, answer) > 5


def test_a_library_that_says_nothing_quotes_nothing() -> None:
    house = Lending(prompt=None, drafter=None)
    house.library.origins = False
    answer = house.run(asking(0, [2, 3], max_tokens=30))[0]
    assert answer[-1].statistics.accepted["corpus"] > 5
    assert all(output.origin is None for output in answer)


# --- what a source may say ------------------------------------------------------------------------

ROWS = [(0, b"a" * 16, 3), (1, b"b" * 16, 9), (0, b"c" * 16, 4)]
TRIE = replace(build_trie([[5, 6], [7]], 3), origins=None)


def said(change: dict[str, Any]) -> Continuations:
    return replace(TRIE, origins=replace(as_origins(ROWS), **change))


def test_sound_origins_are_kept_where_asked_for() -> None:
    good = said({"offsets": np.array([3, 4, 9], np.int32)})
    kept = sound_continuations(good, VOCABULARY, range(2))
    assert kept is good
    bare = sound_continuations(good, VOCABULARY)
    assert bare is not None and bare.origins is None and len(bare) == 3
    assert sound_continuations(TRIE, VOCABULARY, range(2)) is TRIE
    nothing = Continuations.none()
    assert sound_continuations(nothing, VOCABULARY, range(2)) is nothing


@pytest.mark.parametrize(
    "change",
    [
        {"corpora": np.array([0, 2, 0], np.int32)},
        {"corpora": np.array([0, -1, 0], np.int32)},
        {"corpora": np.array([0, 1], np.int32)},
        {"corpora": np.array([0, 1, 0], np.int64)},
        {"corpora": [0, 1, 0]},
        {"documents": np.zeros((3, 15), np.uint8)},
        {"documents": np.zeros((2, 16), np.uint8)},
        {"documents": np.zeros((3, 16), np.int32)},
        {"documents": None},
        {"offsets": np.array([3, 3, 4], np.int32)},  # a match of three, and a node above
        {"offsets": np.array([2, 9, 4], np.int32)},
        {"offsets": np.array([-1, 9, 4], np.int32)},
        {"offsets": np.array([[3, 9, 4]], np.int32)},
    ],
)
def test_malformed_origins_are_refused(change: dict[str, Any]) -> None:
    assert sound_continuations(said(change), VOCABULARY, range(2)) is None
    assert sound_continuations(said(change), VOCABULARY) is not None  # nobody looks


def test_no_corpus_can_pass_for_the_prompt() -> None:
    own = said({"corpora": np.full(3, -1, np.int32), "offsets": np.array([3, 4, 9], np.int32)})
    assert sound_continuations(own, VOCABULARY, range(-1, 0)) is own
    assert sound_continuations(own, VOCABULARY, range(2)) is None


def test_rows_are_of_the_prompt_first() -> None:
    prompt = said({"corpora": np.full(3, -1, np.int32)})
    corpus = replace(said({}), tokens=TRIE.tokens + 1)
    proposals = Proposals(None, prompt, corpus)
    tree = build_tree(2, proposals, SpeculationConfig(), mode="rasd", nodes=20, depth=5)
    assert tree.origins is not None
    for token, source, row in zip(
        tree.tokens.tolist(), tree.sources.tolist(), tree.origins.tolist(), strict=True
    ):
        if source:
            found = prompt if source & 2 else corpus
            at = found.tokens.tolist().index(token)
            assert found.origins is not None
            wanted = (int(found.origins.corpora[at]), ROWS[at][1], ROWS[at][2])
            assert proposals.origin(row) == wanted
    # A source that is not used, or says nothing, does not shift the other's rows.
    for other in (prompt, replace(prompt, origins=None)):
        proposals = Proposals(None, other, corpus)
        tree = build_tree(2, proposals, SpeculationConfig(), mode="corpus", nodes=20, depth=5)
        assert tree.origins is not None
        assert [proposals.origin(row) for row in sorted(tree.origins[1:].tolist())] == ROWS
    with pytest.raises(RasdError, match="no source has origin 6"):
        proposals.origin(6)
