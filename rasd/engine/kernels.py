"""The hot loops of `rasd.engine.branches`, compiled.

What is *known* of a node is a row float32[7] of columns: `Q`, the drafter's probability of the
token at its parent, `BENEATH` the best ones it told, or `UNKNOWN`; and for prompt and corpus each
`COUNT`, how often the node occurred, `OF` how many occurrences its parent, and `LENGTH`, the
tokens that match before it; zeros where the source does not propose the node.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rasd.jit import compiled

Int32s = NDArray[np.int32]
Float32s = NDArray[np.float32]
UInt8s = NDArray[np.uint8]

Q: Final = 0
COUNT: Final = 1
OF: Final = 2
LENGTH: Final = 3
COLUMNS: Final = 7
PER_SOURCE: Final = 3
BENEATH: Final = 0.0
UNKNOWN: Final = -1.0

Branches = tuple[Int32s, Int32s, UInt8s, Int32s, Int32s, Float32s]
"""Tokens, parents, sources, origins, rows of the drafter's distributions (-1 where there is
none), and what is known, float32[N, 7]."""


def warm_up() -> None:
    """Compiles, or loads what was compiled before; the first step is then as quick as others."""
    one, floats = np.zeros(1, np.int32), np.zeros(1, np.float32)
    branches = start(0, (one, one - 1, floats), one, 1, 1)
    top = (one.reshape(1, 1), floats.reshape(1, 1))
    insert(branches, 0, (one, one - 1, one), (1, 1), (2, COUNT, -1), 1, top)
    ends(one - 1, floats, one.astype(np.uint8), 1)


@compiled
def start(
    root: int,
    draft: tuple[Int32s, Int32s, Float32s],
    expanded: Int32s,
    source: int,
    depth: int,
) -> Branches:
    """The branches of a draft, its tokens, parents and scores; none deeper than ``depth``."""
    tokens, parents, scores = draft
    size = len(tokens)
    out = _empty(size)
    place, deep = np.full(size, -1, np.int32), np.zeros(size, np.int32)
    out[0][0], out[1][0], out[2][0], place[0], at = root, -1, 0, 0, 1
    for node in range(1, size):
        above = parents[node]
        deep[node] = deep[above] + 1
        if deep[node] > depth:
            continue
        out[0][at], out[1][at], out[2][at] = tokens[node], place[above], source
        place[node] = at
        of = np.float64(scores[above])
        out[5][at, Q] = min(np.float64(scores[node]) / of, 1.0) if of > 0 else 0.0
        at += 1
    for row in range(len(expanded)):
        if place[expanded[row]] >= 0:
            out[4][place[expanded[row]]] = row
    return out[0][:at], out[1][:at], out[2][:at], out[3][:at], out[4][:at], out[5][:at]


@compiled
def insert(
    branches: Branches,
    base: int,
    trie: tuple[Int32s, Int32s, Int32s],
    sizes: tuple[int, int],
    of_source: tuple[int, int, int],
    depth: int,
    top: tuple[Int32s, Float32s],
) -> Branches:
    """A trie, its tokens, parents and counts, below the node ``base``.

    What matches longer is believed where a source speaks twice.

    Args:
        sizes: occurrences in all, and how many tokens match before them.
        of_source: its bit, its first column, and the origin of its first node, -1 for none.
        top: the drafter's best tokens and their log-probabilities, of each row.
    """
    source, column, first_row = of_source
    size, count = len(branches[0]), len(trie[0])
    out, first, following = _with_room(branches, count)
    tokens, parents, sources, origins, rows, known = out
    above_all = _depth(parents, base)
    place, deep = np.full(count, -1, np.int32), np.full(count, above_all + 1, np.int64)
    for i in range(count):
        above = trie[1][i]
        parent = base if above < 0 else place[above]
        if above >= 0:
            deep[i] = deep[above] + 1
        if parent < 0 or deep[i] > depth:
            continue
        node = _child(tokens, first, following, parent, trie[0][i])
        if node < 0:
            node = size
            size += 1
            tokens[node], parents[node] = trie[0][i], parent
            known[node, Q] = _drafted(rows[parent], tokens[node], top[0], top[1])
            following[node], first[parent] = first[parent], node
        place[i] = node
        sources[node] |= source
        if first_row >= 0 and origins[node] < 0:
            origins[node] = first_row + i
        of = np.int64(sizes[0]) if above < 0 else np.int64(trie[2][above])
        length = sizes[1] + deep[i] - above_all - 1
        _believe(known[node], column, np.int64(trie[2][i]), of, length)
    return tokens[:size], parents[:size], sources[:size], origins[:size], rows[:size], known[:size]


@compiled
def _believe(known: Float32s, column: int, count: Any, of: Any, length: Any) -> None:
    """Enters what a source says of a node, unless it said more already."""
    if count > 0 and length >= known[column + LENGTH - COUNT]:
        known[column] = min(count, of)
        known[column + OF - COUNT] = of
        known[column + LENGTH - COUNT] = length


@compiled
def _with_room(branches: Branches, more: int) -> tuple[Branches, Int32s, Int32s]:
    """A copy with room for ``more`` nodes; the newest child of each node, the one before it."""
    size = len(branches[0])
    out = _empty(size + more)
    first, following = np.full(size + more, -1, np.int32), np.full(size + more, -1, np.int32)
    for node in range(size):
        out[0][node], out[1][node], out[2][node] = (
            branches[0][node],
            branches[1][node],
            branches[2][node],
        )
        out[3][node], out[4][node] = branches[3][node], branches[4][node]
        for i in range(COLUMNS):
            out[5][node, i] = branches[5][node, i]
        if node > 0:
            above = branches[1][node]
            following[node], first[above] = first[above], node
    return out, first, following


@compiled
def _child(tokens: Int32s, first: Int32s, following: Int32s, node: int, token: int) -> int:
    """The child of ``node`` with ``token``, or -1."""
    child = first[node]
    while child >= 0 and tokens[child] != token:
        child = following[child]
    return child  # type: ignore[no-any-return]


@compiled
def _depth(parents: Int32s, node: int) -> int:
    depth = 0
    while node > 0:
        depth, node = depth + 1, parents[node]
    return depth


@compiled
def _empty(size: int) -> Branches:
    known = np.zeros((size, COLUMNS), np.float32)
    origins, rows = np.full(size, -1, np.int32), np.full(size, -1, np.int32)
    tokens, parents = np.empty(size, np.int32), np.empty(size, np.int32)
    return tokens, parents, np.zeros(size, np.uint8), origins, rows, known


@compiled
def _drafted(row: int, token: int, top_ids: Int32s, top_logprobs: Float32s) -> float:
    """The drafter's probability of a token where it did not propose it."""
    if row < 0:
        return UNKNOWN
    for at in range(top_ids.shape[1]):
        if top_ids[row, at] == token:
            chance = np.exp(np.float64(top_logprobs[row, at]))
            return min(chance, 1.0) if chance >= 0 else BENEATH  # not a number is no chance
    return BENEATH


@compiled
def ends(parents: Int32s, scores: Float32s, sources: UInt8s, drafted: int) -> Float32s:
    """float32[N]: the probability that the accepted path ends at a node; 0 for the root, for
    nodes that are not ``drafted``, and for those that have other children than drafted ones."""
    out = scores.copy()
    for node in range(1, len(parents)):
        out[parents[node]] -= scores[node]
    for node in range(1, len(parents)):
        if sources[node] & ~drafted:
            out[parents[node]] = 0.0
        if not sources[node] & drafted:
            out[node] = 0.0
    out[0] = 0.0
    return out
