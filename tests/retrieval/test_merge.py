"""Answers of shards, merged, against all their paths put into one trie."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rasd.retrieval.merge import merge
from rasd.trie import Continuations, build_trie
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
    assert brute.as_lists(merge(tries, nodes)) == brute.as_lists(wanted)


@given(parts=st.lists(PATHS, min_size=2, max_size=4), nodes=NODES)
def test_counts_of_cut_tries_are_a_lower_bound(parts: list[list[list[int]]], nodes: int) -> None:
    merged = merge([brute.best_first(build_trie(paths, 2), nodes) for paths in parts], nodes)
    exact = path_counts(build_trie([path for paths in parts for path in paths], 2))
    assert 0 < len(merged) <= nodes
    assert merged.total == sum(map(len, parts))
    for path, count in path_counts(merged).items():
        assert count <= exact[path]


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
