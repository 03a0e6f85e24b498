"""One answer out of those of several shards."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rasd.params import MAX_NODES
from rasd.jit import compiled
from rasd.tree import Int32s
from rasd.trie import Continuations, Origins

_MAX_COUNT: Final = 2**31 - 1
_ORDER: Final = np.arange(MAX_NODES, dtype=np.uint32)


def merge(answers: Sequence[Continuations], nodes: int) -> Continuations:
    """The longest match wins; tries of equally long matches are united and their counts summed.

    At most ``nodes`` are kept, best-first as each shard chose its own: highest count, then
    smallest token, then earliest parent. An answer of ``nodes`` nodes may have been cut, and
    what one shard found too rare to send may be frequent elsewhere; counts summed over such
    answers are a lower bound, and ``exact`` is false. Over answers with room left all is as if
    one shard had searched, but for ``total``, which counts only where the match goes on: hits
    of a shard in which every one ends a document are in no answer.

    A united node has the origin that the first answer gives it. An answer that is no trie
    counts as empty: whatever a shard sends, nothing is raised. Where one answer is enough it
    is returned as it is.
    """
    length, equals = 0, []
    for answer in answers:
        if answer.match_length > length:
            length, equals = answer.match_length, [answer]
        elif answer.match_length == length:
            equals.append(answer)
    if length == 0:
        return Continuations.none()
    sound = [answer for answer in equals if _is_trie(answer)]
    if not sound:
        return Continuations.none()
    if len(sound) == 1 and len(sound[0]) <= nodes:
        return sound[0]
    return _united(sound, nodes, length)


def warm_up() -> None:
    """Compiles, or loads what was compiled before; the first call is then as quick as others."""
    empty = np.zeros(0, np.int32)
    _unite(empty, empty, empty, np.zeros(2, np.int64), 1)


def _is_trie(answer: Continuations) -> bool:
    parents = answer.parents
    if not answer.tokens.shape == parents.shape == answer.counts.shape == (len(answer),):
        return False
    order = _ORDER if len(parents) <= len(_ORDER) else np.arange(len(parents), dtype=np.uint32)
    return bool(((parents + 1).view(np.uint32) <= order[: len(parents)]).all())


def _united(answers: list[Continuations], nodes: int, length: int) -> Continuations:
    bounds = np.array([0, *accumulate(map(len, answers))], np.int64)
    found = _unite(
        np.concatenate([answer.tokens for answer in answers]),
        np.concatenate([answer.parents for answer in answers]),
        np.concatenate([answer.counts for answer in answers]),
        bounds,
        nodes,
    )
    whole = len(answers) == 1 or all(len(answer) < nodes for answer in answers)
    return Continuations(
        found[0],
        found[1],
        found[2],
        sum(answer.total for answer in answers),
        length,
        whole and all(answer.exact for answer in answers),
        _origins([answer.origins for answer in answers], found[3]),
    )


def _origins(parts: list[Origins | None], firsts: Int32s) -> Origins | None:
    """The rows ``firsts`` of all parts in turn; None unless every answer has them."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return Origins(
        np.concatenate([part.corpora for part in known])[firsts],
        np.concatenate([part.documents for part in known])[firsts],
        np.concatenate([part.offsets for part in known])[firsts],
    )


@compiled
def _unite(
    tokens: Int32s, parents: Int32s, counts: Int32s, bounds: NDArray[np.int64], nodes: int
) -> Int32s:
    """The best ``nodes`` of several tries; trie i has the entries [bounds[i], bounds[i + 1]).

    Returns:
        int32[4, M]: tokens, parents, counts, and the first entry each node came from.
    """
    size = 16
    while size < 2 * len(tokens):
        size *= 2
    table = np.full(size, -1, np.int64)  # open addressing: an entry that stands for its node
    node = np.full(len(tokens) + 1, -1, np.int64)  # of each entry, that which stands for it
    sums = np.zeros(len(tokens), np.int64)
    child = np.full(len(tokens) + 1, -1, np.int64)  # first child; at the end, of the anchor
    sibling = np.full(len(tokens), -1, np.int64)
    above = np.zeros(len(tokens), np.int64)
    for part in range(len(bounds) - 1):
        for entry in range(bounds[part], bounds[part + 1]):
            parent = np.int64(len(tokens))
            if parents[entry] >= 0:
                parent = node[bounds[part] + parents[entry]]
            mixed = parent * 0x9E3779B1 + tokens[entry] * 0x85EBCA77
            slot = (mixed ^ (mixed >> 29)) & (size - 1)
            while table[slot] >= 0:
                known = table[slot]
                if above[known] == parent and tokens[known] == tokens[entry]:
                    break
                slot = (slot + 1) & (size - 1)
            if table[slot] < 0:
                table[slot], above[entry] = entry, parent
                sibling[entry], child[parent] = child[parent], entry
            node[entry] = table[slot]
            sums[node[entry]] += counts[entry]
    return _best_first(tokens, sums, child, sibling, nodes)


@compiled
def _best_first(
    tokens: Int32s,
    sums: NDArray[np.int64],
    child: NDArray[np.int64],
    sibling: NDArray[np.int64],
    nodes: int,
) -> Int32s:
    """Takes nodes by count, then token, then parent. See `_unite`."""
    heap = np.empty(len(tokens), np.int64)
    rank = np.full(len(tokens), -1, np.int32)  # of a node in the heap, that of its parent
    found = np.empty((4, min(nodes, len(tokens))), np.int32)
    size, taken, reached = 0, 0, np.int64(len(tokens))
    while True:
        entry = child[reached]
        while entry >= 0:
            rank[entry] = taken - 1
            at = size
            size += 1
            while at > 0 and _before(tokens, sums, rank, entry, heap[(at - 1) >> 1]):
                heap[at] = heap[(at - 1) >> 1]
                at = (at - 1) >> 1
            heap[at] = entry
            entry = sibling[entry]
        if size == 0 or taken == found.shape[1]:
            return found[:, :taken]
        reached = heap[0]
        size -= 1
        _sift(heap, size, tokens, sums, rank)
        found[0, taken] = tokens[reached]
        found[1, taken] = rank[reached]
        found[2, taken] = min(sums[reached], _MAX_COUNT)
        found[3, taken] = reached
        taken += 1


@compiled
def _sift(
    heap: NDArray[np.int64], size: int, tokens: Int32s, sums: NDArray[np.int64], rank: Int32s
) -> None:
    """Puts the entry behind the last, which was dropped, where the first was."""
    entry, at, below = heap[size], 0, 1
    while below < size:
        if below + 1 < size and _before(tokens, sums, rank, heap[below + 1], heap[below]):
            below += 1
        if not _before(tokens, sums, rank, heap[below], entry):
            break
        heap[at] = heap[below]
        at, below = below, 2 * below + 1
    heap[at] = entry


@compiled
def _before(tokens: Int32s, sums: NDArray[np.int64], rank: Int32s, one: int, other: int) -> bool:
    if sums[one] != sums[other]:
        return sums[one] > sums[other]  # type: ignore[no-any-return]
    if tokens[one] != tokens[other]:
        return tokens[one] < tokens[other]  # type: ignore[no-any-return]
    return rank[one] < rank[other]  # type: ignore[no-any-return]
