"""One answer out of those of several shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rasd.jit import compiled
from rasd.tree import Bools, Int32s
from rasd.trie import Continuations, Origins

Int64s = NDArray[np.int64]

_MAX_COUNT: Final = 2**31 - 1
_EMPTY: Final = np.zeros(0, np.int32)
_NONE: Final = Continuations.none()


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
    return merge_all([answers], nodes)[0]


def merge_all(answers: Sequence[Sequence[Continuations]], nodes: int) -> list[Continuations]:
    """`merge` of the answers to each query of a step, in one compiled call."""
    rows = [_longest(each) for each in answers]
    sound = iter(_are_tries([answer for _, equals in rows for answer in equals]))
    merged: list[Continuations] = []
    groups: list[tuple[int, int, list[Continuations]]] = []
    for length, equals in rows:
        kept = [answer for answer in equals if next(sound)]
        if len(kept) == 1 and len(kept[0]) <= nodes:
            merged.append(kept[0])
        else:
            merged.append(_NONE)
            if kept:
                groups.append((len(merged) - 1, length, kept))
    for row, united in _united(groups, nodes):
        merged[row] = united
    return merged


def _longest(answers: Sequence[Continuations]) -> tuple[int, list[Continuations]]:
    """The longest match, and the answers that have it; 0 and none of them without one."""
    length, equals = 0, list[Continuations]()
    for answer in answers:
        if answer.match_length > length:
            length, equals = answer.match_length, [answer]
        elif answer.match_length == length > 0:
            equals.append(answer)
    return length, equals


def warm_up() -> None:
    """Compiles, or loads what was compiled before; the first call is then as quick as others."""
    merge_all([[Continuations(_EMPTY, _EMPTY, _EMPTY, 1, 1)] * 2], 1)


def _are_tries(answers: list[Continuations]) -> list[bool]:
    """Whether every node hangs from an earlier one, or from the anchor."""
    if not answers:
        return []
    even = [a.tokens.shape == a.parents.shape == a.counts.shape == (len(a),) for a in answers]
    parents = [a.parents if ok else _EMPTY for a, ok in zip(answers, even, strict=True)]
    bounds = np.array([0, *accumulate(map(len, parents))], np.int64)
    hang = _hang(np.concatenate(parents), bounds).tolist()
    return [ok and hangs for ok, hangs in zip(even, hang, strict=True)]


def _united(
    groups: list[tuple[int, int, list[Continuations]]], nodes: int
) -> Iterator[tuple[int, Continuations]]:
    """One trie per group of (row, match length, answers), with its row."""
    parts = [answer for _, _, answers in groups for answer in answers]
    if not parts:
        return
    found, ends = _unite_all(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.parents for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.array([0, *accumulate(map(len, parts))], np.int64),
        np.array([0, *accumulate(len(answers) for _, _, answers in groups)], np.int64),
        nodes,
    )
    for (row, length, answers), (a, b) in zip(groups, pairwise(ends.tolist()), strict=True):
        whole = len(answers) == 1 or all(len(answer) < nodes for answer in answers)
        yield (
            row,
            Continuations(
                found[0, a:b],
                found[1, a:b],
                found[2, a:b],
                sum(answer.total for answer in answers),
                length,
                whole and all(answer.exact for answer in answers),
                _origins([answer.origins for answer in answers], found[3, a:b]),
            ),
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
def _hang(parents: Int32s, bounds: Int64s) -> Bools:
    """Of several tries, as in `_unite`: whether each node of one hangs from an earlier one."""
    whole = np.ones(len(bounds) - 1, np.bool_)
    for part in range(len(bounds) - 1):
        for entry in range(bounds[part], bounds[part + 1]):
            if not -1 <= parents[entry] < entry - bounds[part]:
                whole[part] = False
    return whole


@compiled
def _unite_all(
    tokens: Int32s, parents: Int32s, counts: Int32s, bounds: Int64s, groups: Int64s, nodes: int
) -> tuple[Int32s, Int64s]:
    """`_unite` of the tries [groups[i], groups[i + 1]) for each i.

    Returns:
        int32[4, N]: what it returns for one group after the other; int64[G + 1]: from where to
        where.
    """
    ends = np.zeros(len(groups), np.int64)
    found = np.empty((4, len(tokens)), np.int32)
    for group in range(len(groups) - 1):
        its = bounds[groups[group] : groups[group + 1] + 1]
        low, high, end = its[0], its[-1], ends[group]
        best = _unite(tokens[low:high], parents[low:high], counts[low:high], its - low, nodes)
        for row in range(4):
            for column in range(best.shape[1]):
                found[row, end + column] = best[row, column]
        ends[group + 1] = end + best.shape[1]
    return found, ends


@compiled
def _unite(tokens: Int32s, parents: Int32s, counts: Int32s, bounds: Int64s, nodes: int) -> Int32s:
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
