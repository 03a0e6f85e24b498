"""Where the nodes of a trie occur, compiled; see `rasd.retrieval.kernels`."""

from __future__ import annotations

from typing import Any

import numpy as np

from rasd.jit import compiled
from rasd.retrieval.pointers import living_below, uint32s_at
from rasd.retrieval.suffixes import Int64s
from rasd.tree import Int32s

_TEXT, _ENTRIES, _LENGTH, _PLACE, _LIVE = range(5)  # of a table, as in `rasd.retrieval.kernels`


@compiled
def occurrences(
    table: Int64s, bounds: Int64s, offset: int, tokens: Int32s, parents: Int32s
) -> Int64s:
    """One living occurrence of each node of a trie, below the ranks ``bounds`` int64[S, 2].

    Args:
        offset: tokens at the start of these suffixes that are not part of the trie.
        tokens: int32[M]; parents: int32[M], parents[i] < i, -1 for what hangs from the anchor.

    Returns:
        int64[M, 2]: a segment, and the place of the node's token in its text; -1 if there is none.
    """
    found = np.full((len(tokens), 2), -1, np.int64)
    path = np.empty(len(tokens), np.int64)
    for leaf in range(len(tokens) - 1, -1, -1):
        if found[leaf, 0] >= 0:
            continue
        depth, node = 0, leaf
        while node >= 0:
            depth += 1
            path[len(path) - depth] = tokens[node]
            node = parents[node]
        for segment in range(len(table)):
            rank = _living(
                table, segment, bounds[segment, 0], bounds[segment, 1], offset, path, depth
            )
            if rank >= 0:
                node, place = leaf, _start(table, segment, rank) + offset + depth - 1
                while node >= 0:  # what holds a path holds its beginnings
                    found[node, 0], found[node, 1] = segment, place
                    node, place = parents[node], place - 1
                break
    return found


@compiled
def _living(
    table: Int64s, segment: int, low: int, high: int, offset: int, path: Int64s, depth: int
) -> int:
    """A living rank in [low, high) that goes on with ``depth`` tokens of the path, or -1."""
    first = _first(table, segment, low, high, offset, path, depth, 0)
    behind = _first(table, segment, first, high, offset, path, depth, 1)
    blocks = table[segment, _LIVE]
    if first == behind or (blocks and living_below(blocks, first) == living_below(blocks, behind)):
        return -1
    while blocks and behind - first > 1:
        middle = (first + behind) >> 1
        lives = living_below(blocks, first) < living_below(blocks, middle)
        first, behind = (first, middle) if lives else (middle, behind)
    return first


@compiled
def _first(
    table: Int64s,
    segment: int,
    low: int,
    high: int,
    offset: int,
    path: Int64s,
    depth: int,
    order: int,
) -> int:
    """The first rank in [low, high) that compares with the path as ``order`` or above."""
    while low < high:
        middle = (low + high) >> 1
        start = _start(table, segment, middle) + offset
        below = _compare(table, segment, start, path, depth) < order
        low, high = (middle + 1, high) if below else (low, middle)
    return low


@compiled
def _compare(table: Int64s, segment: int, start: int, path: Int64s, depth: int) -> int:
    """0 if the text there starts with the path, -1 if it sorts before, 1 if behind."""
    text = uint32s_at(table[segment, _TEXT])
    for i in range(depth):  # ends at a separator at the latest: no path holds one
        token, wanted = np.int64(text[start + i]), path[len(path) - depth + i]
        if token != wanted:
            return -1 if token < wanted else 1
    return 0


@compiled
def _start(table: Int64s, segment: int, rank: int) -> Any:
    """int64: where the suffix of a rank starts."""
    entry = np.int64(uint32s_at(table[segment, _ENTRIES])[rank])
    return entry & ((1 << table[segment, _PLACE]) - 1)
