"""Slow twins: the definitions, read off all documents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rasd.config import RetrievalConfig
from rasd.trie import Continuations, build_trie


def best_first(trie: Continuations, nodes: int) -> Continuations:
    """The ``nodes`` best: highest count, then smallest token, then earliest parent."""
    taken: list[int] = []
    rank = {-1: -1}
    while len(taken) < nodes:
        ready = [
            (-int(trie.counts[i]), int(trie.tokens[i]), rank[int(trie.parents[i])], i)
            for i in range(len(trie))
            if i not in rank and int(trie.parents[i]) in rank
        ]
        if not ready:
            break
        node = min(ready)[-1]
        rank[node] = len(taken)
        taken.append(node)
    parents = [rank[int(trie.parents[i])] for i in taken]
    return Continuations(
        trie.tokens[taken],
        np.asarray(parents, np.int32),
        trie.counts[taken],
        trie.total,
        trie.match_length,
    )


def search(
    documents: Sequence[Sequence[int]], tail: Sequence[int], settings: RetrievalConfig
) -> Continuations:
    """What follows every occurrence of the longest suffix that goes on somewhere."""
    tail = list(tail)
    for length in range(min(settings.suffix_max, len(tail)), settings.suffix_min - 1, -1):
        paths = occurrences(documents, tail[len(tail) - length :], settings.depth)
        if any(paths):
            return best_first(build_trie(paths, length), settings.nodes)
    return Continuations.none()


def occurrences(
    documents: Sequence[Sequence[int]], query: Sequence[int], depth: int
) -> list[list[int]]:
    """Up to ``depth`` tokens behind each occurrence, empty where its document ends."""
    n = len(query)
    return [
        list(document[i + n : i + n + depth])
        for document in documents
        for i in range(len(document) - n + 1)
        if list(document[i : i + n]) == list(query)
    ]


def prompt_lookup(text: Sequence[int], settings: RetrievalConfig, limit: int) -> Continuations:
    """As `search`, in the text itself, of the ``limit`` most recent occurrences."""
    for length in range(min(settings.suffix_max, len(text) - 1), settings.suffix_min - 1, -1):
        query = text[len(text) - length :]
        paths = [path for path in occurrences([text], query, settings.depth) if path]
        if paths:
            return best_first(build_trie(paths[-limit:], length), settings.nodes)
    return Continuations.none()


def same(one: Continuations, other: Continuations) -> bool:
    """Whether both say the same, node by node."""
    return as_lists(one) == as_lists(other)


def as_lists(found: Continuations) -> tuple[list[int], list[int], list[int], int, int]:
    """For comparing and for printing."""
    return (
        found.tokens.tolist(),
        found.parents.tolist(),
        found.counts.tolist(),
        found.total,
        found.match_length,
    )
