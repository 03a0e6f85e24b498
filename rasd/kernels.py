"""The hot loops over trees and tries, and of draws: a step runs them for every sequence. Compiled.

Arrays are contiguous and of the types of `DraftTree`: others are compiled anew, which takes
seconds. Nothing here is modified in place. Children of a node are chained: ``first`` holds the
newest child, ``following`` the one before it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rasd.jit import compiled

Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]
Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
UInt8s = NDArray[np.uint8]
Bools = NDArray[np.bool_]
# Of bf16's bits, as int16, which keeps loops in narrow vectors: the sign's place, the others, those
# of infinity, above which there are no numbers, and the sign alone.
_SIGN, _REST = np.int16(15), np.int16(0x7FFF)
_INFINITE, _LEAST = np.int16(0x7F80), np.int16(-0x8000)
Arrays = tuple[Int32s, Int32s, Float32s, UInt8s]
"""Tokens, parents, scores and sources of a tree."""


def warm_up() -> None:
    """Compiles, or loads what was compiled before; the first step is then as quick as others."""
    one, none = np.zeros(1, np.int32), np.zeros(0, np.int32)
    root = (one, one - 1, one.astype(np.float32), one.astype(np.uint8))
    fuse(root, root)
    prune(one, one - 1, one, one - 1, one, one.reshape(1, 1), 1)
    select(root, np.ones(1, np.bool_))
    below(none, none, none, 1, 1, 1.0, 1, 1)
    depths(one - 1)
    is_forest(one, one - 1, 1)
    reach(one, one - 1, 1, 1)
    largest(np.zeros(1, np.int16))


@compiled
def fuse(one: Arrays, two: Arrays) -> tuple[Int32s, Int32s, Float32s, UInt8s, Int32s]:
    """See `rasd.tree.fuse`. Also returns where each node of the second tree went, int32[N]."""
    size, most = len(one[0]), len(one[0]) + len(two[0])
    tokens, parents = np.empty(most, np.int32), np.empty(most, np.int32)
    sources, chances = np.zeros(most, np.uint8), np.empty(most, np.float64)
    first, following = np.full(most, -1, np.int32), np.full(most, -1, np.int32)
    place = np.zeros(len(two[0]), np.int32)
    for node in range(size):
        tokens[node], parents[node], sources[node] = one[0][node], one[1][node], one[3][node]
        chances[node] = _chance(one[1], one[2], node)
        if node > 0:
            following[node], first[parents[node]] = first[parents[node]], node
    for i in range(1, len(place)):
        parent, chance = place[two[1][i]], _chance(two[1], two[2], i)
        node = _child(tokens, first, following, parent, two[0][i])
        if node < 0:
            node = size
            size += 1
            tokens[node], parents[node], chances[node] = two[0][i], parent, chance
            following[node], first[parent] = first[parent], node
        else:
            chances[node] = 1.0 - (1.0 - chances[node]) * (1.0 - chance)
        sources[node] |= two[3][i]
        place[i] = node
    for node in range(1, size):
        chances[node] *= chances[parents[node]]
    scores = chances[:size].astype(np.float32)
    return tokens[:size], parents[:size], scores, sources[:size], place


@compiled
def _chance(parents: Int32s, scores: Float32s, node: int) -> float:
    """A node's chance given its parent; 1 for the root."""
    if node == 0:
        return 1.0
    above = np.float64(scores[parents[node]])
    return min(np.float64(scores[node]) / above, 1.0) if above > 0 else 0.0


@compiled
def _child(tokens: Int32s, first: Int32s, following: Int32s, node: int, token: int) -> int:
    """The child of ``node`` with ``token``, or -1."""
    child = first[node]
    while child >= 0 and tokens[child] != token:
        child = following[child]
    return child  # type: ignore[no-any-return]


@compiled
def prune(
    tokens: Int32s,
    parents: Int32s,
    drafted: Int32s,
    above: Int32s,
    expanded: Int32s,
    top_ids: Int32s,
    top_k: int,
) -> Bools:
    """Which nodes of a retrieved tree live; see `rasd.tree.prune`.

    ``drafted`` and ``above`` are tokens and parents of the draft.
    """
    first, following = np.full(len(above), -1, np.int32), np.full(len(above), -1, np.int32)
    for node in range(1, len(above)):
        following[node], first[above[node]] = first[above[node]], node
    row_of = np.full(len(above), -1, np.int32)
    for row in range(len(expanded)):
        row_of[expanded[row]] = row
    alive = np.ones(len(parents), np.bool_)
    same = np.full(len(parents), -1, np.int32)  # the drafted node that a retrieved one is
    same[0] = 0
    for i in range(1, len(parents)):
        node = same[parents[i]]
        alive[i] = alive[parents[i]]
        if node < 0:
            continue
        if alive[i] and row_of[node] >= 0:
            best = top_ids[row_of[node]]
            at = 0
            while at < min(top_k, len(best)) and best[at] != tokens[i]:
                at += 1
            alive[i] = at < min(top_k, len(best))
        same[i] = _child(drafted, first, following, node, tokens[i])
    return alive


@compiled
def select(tree: Arrays, keep: Bools) -> Arrays:
    """The kept nodes, renumbered. ``keep`` is prefix-closed and holds the root."""
    size = np.count_nonzero(keep)
    tokens, parents = np.empty(size, np.int32), np.empty(size, np.int32)
    scores, sources = np.empty(size, np.float32), np.empty(size, np.uint8)
    place = np.full(len(keep) + 1, -1, np.int32)  # the last entry serves parent -1
    at = 0
    for node in range(len(keep)):
        if keep[node]:
            tokens[at], parents[at] = tree[0][node], place[tree[1][node]]
            scores[at], sources[at] = tree[2][node], tree[3][node]
            place[node] = at
            at += 1
    return tokens, parents, scores, sources


@compiled
def below(
    trie_tokens: Int32s,
    trie_parents: Int32s,
    counts: Int32s,
    total: int,
    match_length: int,
    doubt: float,
    root: int,
    source: int,
) -> Arrays:
    """A trie as a tree below ``root``; see `rasd.trie.score_continuations`."""
    size = len(counts) + 1
    tokens, parents = np.empty(size, np.int32), np.empty(size, np.int32)
    scores, sources = np.ones(size, np.float64), np.empty(size, np.uint8)
    lengths = np.empty(size, np.int64)
    tokens[0], parents[0], sources[0], lengths[0] = root, -1, 0, match_length
    for node in range(1, size):
        above = trie_parents[node - 1] + 1
        of = np.int64(total) if above == 0 else np.int64(counts[above - 1])
        share = min(counts[node - 1] / max(of, 1), 1.0)
        trust = lengths[above] / (lengths[above] + doubt)
        tokens[node], parents[node], sources[node] = trie_tokens[node - 1], above, source
        scores[node] = scores[above] * share * trust
        lengths[node] = lengths[above] + 1
    return tokens, parents, scores.astype(np.float32), sources


@compiled
def depths(parents: Int32s) -> Int32s:
    """int32[N]: steps from a node with parent -1."""
    out = np.zeros(len(parents), np.int32)
    for node in range(len(parents)):
        if parents[node] >= 0:
            out[node] = out[parents[node]] + 1
    return out


@compiled
def is_forest(tokens: Int32s, parents: Int32s, vocabulary: int) -> bool:
    """Whether every node hangs from an earlier one or -1, siblings differ, and tokens exist."""
    size = len(tokens)
    # The last entry serves parent -1.
    first, following = np.full(size + 1, -1, np.int32), np.full(size, -1, np.int32)
    for node in range(size):
        parent = parents[node]
        if not -1 <= parent < node or not 0 <= tokens[node] < vocabulary:
            return False
        if _child(tokens, first, following, parent, tokens[node]) >= 0:
            return False
        following[node], first[parent] = first[parent], node
    return True


@compiled
def reach(tokens: Int32s, parents: Int32s, decided: int, vocabulary: int) -> tuple[int, int]:
    """How deep a work's deepest node is, and -1; what is wrong if the second is a node.

    Returns:
        (0, node) where a token does not exist, (1, node) where a node hangs wrongly: the first
        ``decided`` nodes are a chain, and the others hang from its end.
    """
    deep, deepest = np.zeros(len(parents), np.int32), 0
    for node in range(len(parents)):
        if not 0 <= tokens[node] < vocabulary:
            return 0, node
        parent = parents[node]
        if node < decided and parent != node - 1:
            return 1, node
        if node >= decided and not decided - 1 <= parent < node:
            return 1, node
        if parent >= 0:
            deep[node] = deep[parent] + 1
            deepest = max(deepest, deep[node])
    return deepest, -1


@compiled
def largest(bits: NDArray[np.int16]) -> int:
    """Place of the first largest of bf16 numbers, given as bits; what is no number is largest."""
    top, most = _LEAST, np.int16(0)
    for place in range(len(bits)):  # not over the values: only this becomes a loop over vectors
        value = bits[place]
        top = max(top, np.int16(value ^ ((value >> _SIGN) & _REST)))  # in the order of the numbers
        most = max(most, np.int16(value & _REST))
    one = other = np.int16(top ^ ((top >> _SIGN) & _REST))
    if top == 0 or top == -1:  # the two zeros
        one, other = np.int16(0), _LEAST
    for place in range(len(bits)):
        value = bits[place]
        if most > _INFINITE:
            if value & _REST > _INFINITE:
                return place
        elif value == one or value == other:
            return place
    return 0
