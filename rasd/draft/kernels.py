"""The hot loops of `rasd.draft.expand`, compiled: they run for every level and every sequence.

Arrays are contiguous and of the types named: others are compiled anew, which takes seconds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rasd.jit import compiled

Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]
Float32s = NDArray[np.float32]


def warm_up() -> None:
    """Compiles, or loads what was compiled before."""
    scores, one = np.zeros((1, 1), np.float32), np.zeros(1, np.int64)
    promising(scores, one, 1, scores.copy(), one + 1)
    select(one, scores, one - 1, one.reshape(1, 1), 1)
    root = np.zeros(1, np.int32)
    follow(root, root - 1, root)
    finite(np.zeros((1, 1), np.uint16))


@compiled
def promising(
    totals: Float32s, owners: Int64s, top_k: int, best: Float32s, limits: Int64s
) -> Int64s:
    """Which candidates of a level to expand: each sequence's ``top_k`` best, if they may stay.

    Args:
        totals: [R, k], the candidates below R nodes; owners: [R], ascending, their sequences.
        best: [B, N], every sequence's best scores so far, descending; extended in place.
        limits: [B], how many candidates each sequence will keep, at most N. A candidate that is
            not among them now never will be, nor what is below it, which scores no higher.

    Returns:
        Indices into the flat totals: by sequence, then best first; equals in order.
    """
    width = totals.shape[1]
    flat = totals.ravel()
    picked = np.empty(len(flat), np.int64)
    count = start = 0
    while start < len(owners):
        owner, stop = owners[start], start
        while stop < len(owners) and owners[stop] == owner:
            stop += 1
        mine = flat[start * width : stop * width]
        order = np.argsort(-mine, kind="mergesort")
        limit = limits[owner]
        merged = best[owner].copy()
        old = new = 0
        for i in range(limit):
            if new < len(order) and mine[order[new]] > best[owner, old]:
                merged[i] = mine[order[new]]
                new += 1
            else:
                merged[i] = best[owner, old]
                old += 1
        best[owner] = merged
        for i in order[:top_k]:
            if limit > 0 and mine[i] >= merged[limit - 1]:
                picked[count] = start * width + i
                count += 1
        start = stop
    return picked[:count]


@compiled
def select(
    rows: Int64s, scores: Float32s, above: Int64s, tokens: Int64s, nodes: int
) -> tuple[Int32s, Int32s, Float32s, Int32s, Int64s]:
    """See `rasd.draft.expand.select`.

    Args:
        rows: the sequence's rows, ascending; the root's first.
        scores, tokens: [R, k], candidates below all rows; above: [R], the candidate that each row
            expands, -1 for a root.

    Returns:
        tokens, parents and log-probabilities of the kept nodes, the root's -1, -1 and 0 first;
        then the kept nodes that are expanded, ascending, and their rows.
    """
    width = scores.shape[1]
    flat_scores, flat_tokens = scores.ravel(), tokens.ravel()
    candidates = np.empty(len(rows) * width, np.int64)
    for i in range(len(rows)):
        for j in range(width):
            candidates[i * width + j] = rows[i] * width + j
    order = np.argsort(-flat_scores[candidates], kind="mergesort")[:nodes]
    kept = candidates[np.sort(order)]
    out_tokens = np.full(len(kept) + 1, -1, np.int32)
    parents = np.full(len(kept) + 1, -1, np.int32)
    logprobs = np.zeros(len(kept) + 1, np.float32)
    node_of = np.full(flat_scores.size, -1, np.int32)
    for i in range(len(kept)):
        node_of[kept[i]] = i + 1
        parent = above[kept[i] // width]
        parents[i + 1] = 0 if parent < 0 else node_of[parent]
        out_tokens[i + 1] = flat_tokens[kept[i]]
        logprobs[i + 1] = flat_scores[kept[i]]
    row_of = np.full(len(kept) + 1, -1, np.int64)
    for row in rows:
        if above[row] < 0:
            row_of[0] = row
        elif node_of[above[row]] > 0:
            row_of[node_of[above[row]]] = row
    expanded = np.flatnonzero(row_of >= 0)
    return out_tokens, parents, logprobs, expanded.astype(np.int32), row_of[expanded]


@compiled
def follow(tokens: Int32s, parents: Int32s, text: Int32s) -> Int32s:
    """int32[N]: of every node whether the text behind the root goes along it.

    1 if it does, 0 if not, -1 where the text is too short to tell. The root's is 1.
    """
    depths = np.zeros(len(tokens), np.int64)
    along = np.ones(len(tokens), np.int32)
    for i in range(1, len(tokens)):
        parent = parents[i]
        depths[i] = depths[parent] + 1
        along[i] = along[parent]
        if along[parent] == 1:
            if depths[i] > len(text):
                along[i] = -1
            elif text[depths[i] - 1] != tokens[i]:
                along[i] = 0
    return along


@compiled
def finite(bits: NDArray[np.uint16]) -> bool:
    """Whether bfloat16 numbers, as bits [n, d], are all finite: no exponent is of ones alone."""
    most = 0
    for row in bits:
        for i in range(len(row)):
            most = max(most, row[i] & 0x7F80)
    return most < 0x7F80
