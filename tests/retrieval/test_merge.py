"""Answers of shards, merged, against all their paths put into one trie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.retrieval.merge import merge, merge_all
from rasd.tree import CORPUS
from rasd.trie import Continuations, Origins, build_trie, score_continuations
from tests.retrieval import brute

PATHS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=12)
NODES = st.integers(1, 30)


@given(answers=st.lists(st.tuples(PATHS, st.integers(1, 3)), max_size=5), nodes=NODES)
def test_unites_the_longest(answers: list[tuple[list[list[int]], int]], nodes: int) -> None:
    """Complete tries of shards merge into exactly the trie of all their paths."""
    tries = [brute.best_first(build_trie(paths, length), 999) for paths, length in answers]
    length = max((length for _, length in answers), default=0)
    paths = [path for part, n in answers if n == length for path in part]
    wanted = brute.best_first(build_trie(paths, length), nodes)
    merged = merge(tries, nodes)
    assert brute.as_lists(merged) == brute.as_lists(wanted)
    parts = [trie for trie in tries if trie.match_length == length]
    assert merged.exact == (len(parts) < 2 or all(len(trie) < nodes for trie in parts))


@given(parts=st.lists(PATHS, min_size=2, max_size=4), nodes=NODES)
def test_counts_of_cut_tries_are_a_lower_bound(parts: list[list[list[int]]], nodes: int) -> None:
    merged = merge([brute.best_first(build_trie(paths, 2), nodes) for paths in parts], nodes)
    exact = path_counts(build_trie([path for paths in parts for path in paths], 2))
    assert 0 < len(merged) <= nodes
    assert merged.total == sum(map(len, parts))
    for path, count in path_counts(merged).items():
        assert count <= exact[path]
        assert count == exact[path] or not merged.exact


@given(parts=st.lists(PATHS, min_size=2, max_size=4), cuts=st.lists(NODES, min_size=4), nodes=NODES)
def test_a_child_counts_no_more_than_its_parent(
    parts: list[list[list[int]]], cuts: list[int], nodes: int
) -> None:
    """Also where the answers were cut at different places, so that shares stay below 1."""
    pairs = zip(parts, cuts, strict=False)
    merged = merge([brute.best_first(build_trie(paths, 2), cut) for paths, cut in pairs], nodes)
    for parent, count in zip(merged.parents.tolist(), merged.counts.tolist(), strict=True):
        assert 0 < count <= (merged.counts[parent] if parent >= 0 else merged.total)
    scores = score_continuations(merged, 9, CORPUS, doubt=0.0).scores
    shares = [
        count / (merged.counts[parent] if parent >= 0 else merged.total)
        for parent, count in zip(merged.parents.tolist(), merged.counts.tolist(), strict=True)
    ]
    for node, parent in enumerate(merged.parents.tolist()):
        assert scores[node + 1] == pytest.approx(scores[parent + 1] * shares[node], rel=1e-5)


@given(parts=st.lists(PATHS, min_size=1, max_size=4), nodes=NODES)
def test_origins_are_those_of_the_first_that_has_the_node(
    parts: list[list[list[int]]], nodes: int
) -> None:
    """Each answer's origins name the answer and the node's place in it."""
    tries = [brute.best_first(build_trie(paths, 2), 999) for paths in parts]
    merged = merge([located(trie, i) for i, trie in enumerate(tries)], nodes)
    places = [{path: i for i, path in enumerate(path_counts(trie))} for trie in tries]
    origins = merged.origins
    assert origins is not None
    for node, path in enumerate(path_counts(merged)):
        first = next(i for i, trie in enumerate(places) if path in trie)
        assert origins.corpora[node] == first
        assert origins.documents[node].tolist() == [first] * 16
        assert origins.offsets[node] == places[first][path]


def located(trie: Continuations, number: int) -> Continuations:
    n = len(trie)
    origins = Origins(
        np.full(n, number, np.int32),
        np.full((n, 16), number, np.uint8),
        np.arange(n, dtype=np.int32),
    )
    return replace(trie, origins=origins)


def test_without_origins_in_one_answer_there_are_none() -> None:
    one, other = located(build_trie([[1]], 2), 0), build_trie([[2]], 2)
    assert merge([one, other], 4).origins is None
    assert merge([one, build_trie([[2]], 1)], 4) is one


def test_what_was_a_lower_bound_stays_one() -> None:
    bound = replace(build_trie([[1]], 2), exact=False)
    assert not merge([bound, build_trie([[1]], 2)], 4).exact
    assert not merge([bound], 4).exact


@pytest.mark.parametrize("parents", [[-1, 1], [0, -1], [-1, 7], [-2, 0], [-1, 2**31 - 1], [-1]])
def test_what_is_no_trie_counts_as_empty(parents: list[int]) -> None:
    ones = np.ones(2, np.int32)
    wrong = Continuations(ones, np.array(parents, np.int32), ones, 1, 3)
    fine = build_trie([[2], [2, 3]], 3)
    assert brute.same(merge([wrong, fine], 4), fine)
    assert len(merge([wrong], 4)) == len(merge([wrong, wrong], 1)) == 0


def path_counts(trie: Continuations) -> dict[tuple[int, ...], int]:
    paths: list[tuple[int, ...]] = []
    for token, parent in zip(trie.tokens.tolist(), trie.parents.tolist(), strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    assert len(set(paths)) == len(paths), "siblings differ"
    return dict(zip(paths, trie.counts.tolist(), strict=True))


def test_edges() -> None:
    none = Continuations.none()
    assert len(merge([], 4)) == len(merge([none, none], 4)) == 0
    short, long = build_trie([[1], [1]], 2), build_trie([[2]], 5)
    assert brute.same(merge([short, none, long], 4), long)
    huge = Continuations(
        np.array([1], np.int32), np.array([-1], np.int32), np.array([2**31 - 1], np.int32), 5, 1
    )
    assert merge([huge, huge], 4).counts.tolist() == [2**31 - 1]


@given(
    steps=st.lists(st.lists(st.tuples(PATHS, st.integers(0, 3)), max_size=4), max_size=5),
    nodes=NODES,
)
def test_a_step_is_merged_as_each_of_its_queries(
    steps: list[list[tuple[list[list[int]], int]]], nodes: int
) -> None:
    """Also where some answers are no tries, and some queries have none."""
    queries = [
        [brute.best_first(build_trie(paths, length), nodes) for paths, length in answers]
        for answers in steps
    ]
    for answers in queries[::2]:
        answers[:1] = [replace(each, parents=each.parents + 1) for each in answers[:1]]
    together = merge_all(queries, nodes)
    assert len(together) == len(queries)
    for answers, merged in zip(queries, together, strict=True):
        alone = merge(answers, nodes)
        assert brute.as_lists(merged) == brute.as_lists(alone)
        assert merged.exact == alone.exact
