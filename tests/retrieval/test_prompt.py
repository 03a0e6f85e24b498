"""Prompt lookup against the text read from end to end."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rasd.config import RetrievalConfig
from rasd.retrieval.prompt import MAX_HITS, PromptRetriever
from rasd.stages import RetrieveQuery, RetrieveRequest
from rasd.trie import Continuations
from tests.retrieval import brute
from tests.retrieval.test_search import SETTINGS

EMPTY = np.zeros(0, np.int32)


def lookup(retriever: PromptRetriever, sequence: int = 0) -> Continuations:
    request = RetrieveRequest(7, [RetrieveQuery(sequence, EMPTY, ())])
    reply = retriever.retrieve(request).wait(0)
    assert (reply.step, reply.partial) == (7, ())
    return reply.found[0]


@given(
    parts=st.lists(st.lists(st.integers(0, 2), max_size=30), max_size=12),
    settings=SETTINGS,
)
def test_is_exact_after_every_observation(
    parts: list[list[int]], settings: RetrievalConfig
) -> None:
    retriever = PromptRetriever(settings)
    text: list[int] = []
    for part in parts:
        text += part
        retriever.observe(0, np.asarray(part, np.int32))
        wanted = brute.prompt_lookup(text, settings, MAX_HITS)
        assert brute.as_lists(lookup(retriever)) == brute.as_lists(wanted)


@given(
    parts=st.lists(
        st.tuples(
            st.lists(st.integers(0, 2), max_size=40),
            st.lists(st.lists(st.integers(0, 2), max_size=8), max_size=3),
        ),
        max_size=8,
    ),
    settings=SETTINGS,
)
def test_tokens_ahead_are_taken_for_decided_and_forgotten(
    parts: list[tuple[list[int], list[list[int]]]], settings: RetrievalConfig
) -> None:
    """Several queries of one sequence in one request; `PromptRetriever` never changes by them."""
    retriever = PromptRetriever(settings)
    text: list[int] = []
    for part, aheads in parts:
        text += part
        retriever.observe(0, np.asarray(part, np.int32))
        queries = [
            RetrieveQuery(0, EMPTY, (), ahead=np.asarray(ahead, np.int32)) for ahead in aheads
        ]
        reply = retriever.retrieve(RetrieveRequest(1, queries)).wait(0)
        for ahead, found in zip(aheads, reply.found, strict=True):
            wanted = brute.prompt_lookup(text + ahead, settings, MAX_HITS)
            assert brute.as_lists(found) == brute.as_lists(wanted)
        wanted = brute.prompt_lookup(text, settings, MAX_HITS)
        assert brute.as_lists(lookup(retriever)) == brute.as_lists(wanted)


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(200, 1200),
    ids=st.integers(1, 4),
    settings=SETTINGS,
)
def test_only_the_most_recent_hits_count(
    seed: int, size: int, ids: int, settings: RetrievalConfig
) -> None:
    """Long enough that the arrays double and more than `MAX_HITS` places match."""
    tokens = np.random.default_rng(seed).integers(0, ids, size).astype(np.int32)
    retriever = PromptRetriever(settings)
    retriever.observe(0, tokens[:190])
    for token in tokens[190:]:
        retriever.observe(0, token.reshape(1))
    wanted = brute.prompt_lookup(tokens.tolist(), settings, MAX_HITS)
    assert brute.as_lists(lookup(retriever)) == brute.as_lists(wanted)


@given(
    text=st.lists(st.integers(0, 2), min_size=1, max_size=120),
    settings=SETTINGS,
)
def test_a_node_stands_at_its_most_recent_place(text: list[int], settings: RetrievalConfig) -> None:
    retriever = PromptRetriever(settings)
    retriever.observe(0, np.asarray(text, np.int32))
    request = RetrieveRequest(7, [RetrieveQuery(0, EMPTY, (), origins=True)])
    found = retriever.retrieve(request).wait(0).found[0]
    assert brute.as_lists(found) == brute.as_lists(lookup(retriever))
    if len(found) == 0:
        return
    origins = found.origins
    assert origins is not None
    assert set(origins.corpora.tolist()) == {-1}
    assert (origins.documents.shape, origins.documents.dtype) == ((len(found), 16), np.uint8)
    suffix = text[len(text) - found.match_length :]
    paths: list[list[int]] = []
    for node, parent in enumerate(found.parents.tolist()):
        above = paths[parent] if parent >= 0 else suffix
        paths.append([*above, int(found.tokens[node])])
        places = [
            end
            for end in range(len(paths[node]), len(text) + 1)
            if text[end - len(paths[node]) : end] == paths[node]
        ]
        assert origins.offsets[node] == places[-1] - 1


def test_origins_are_left_out_where_nobody_asks() -> None:
    retriever = PromptRetriever(RetrievalConfig())
    retriever.observe(0, np.array([1, 2, 3, 1, 2], np.int32))
    assert lookup(retriever).origins is None
    nothing = RetrieveRequest(7, [RetrieveQuery(9, EMPTY, (), origins=True)])
    assert len(retriever.retrieve(nothing).wait(0).found[0]) == 0


def test_a_text_that_repeats_itself_goes_on_repeating() -> None:
    retriever = PromptRetriever(RetrievalConfig(suffix_max=4, depth=3))
    retriever.observe(0, np.array([5, 5, 5, 5], np.int32))
    found = lookup(retriever)
    assert (found.tokens.tolist(), found.counts.tolist()) == ([5], [1])
    assert (found.total, found.match_length) == (1, 3)


def test_sequences_are_apart_and_forgotten() -> None:
    retriever = PromptRetriever(RetrievalConfig())
    retriever.observe(1, np.array([1, 2, 3, 1, 2], np.int32))
    retriever.observe(2, np.array([1, 2], np.int32))
    assert lookup(retriever, 1).tokens.tolist() == [3, 1, 2]
    assert len(lookup(retriever, 2)) == len(lookup(retriever, 3)) == 0
    retriever.release(1)
    retriever.release(9)
    assert len(lookup(retriever, 1)) == 0
    retriever.observe(1, np.array([7], np.int32))
    assert len(lookup(retriever, 1)) == 0
    retriever.close()


def test_ids_above_16_bits() -> None:
    retriever = PromptRetriever(RetrievalConfig(suffix_min=1))
    high = 2**31 - 2
    retriever.observe(0, np.array([high, high - 65_536, 7, high], np.int32))
    assert lookup(retriever).tokens.tolist() == [high - 65_536, 7, high]
