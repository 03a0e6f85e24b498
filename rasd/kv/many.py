"""Machine code for attention of many rows: small products of packed matrices. Only numba reads it.

A block of slots is packed once and multiplied with all rows of a unit. Products are of bf16 where
the CPU has them, and then a single row costs what memory needs to bring its keys and values;
elsewhere few rows pay for more packing than it saves. Sums are float32, and of one order for any
number of rows: a row's result does not depend on the rows beside it.
"""

# mypy: disable-error-code="no-untyped-call, no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import Final

import numpy as np
from numba import literally, njit

from rasd.kv.pack import fetch, find, pack_keys, pack_values
from rasd.kv.primitives import FAST, exp, narrow
from rasd.kv.tile import COLUMNS, largest, multiply_add

# Scores of rows that see nothing are never subtracted, so nothing here is no number.
_FASTER: Final = FAST | {"nnan"}


@njit
def hide(item, first, count, groups, low, tail, scores):
    """-inf at the slots of a block that a row may not see."""
    committed = item[2]
    scores[:, count:] = -np.inf
    if first + count <= item[10] and first >= item[7]:
        return
    before = max(min(committed - first, count), 0)  # so many of the slots are committed
    for row in range(item[1] - item[0]):
        lowest = min(low[item[0] + row] - first, before)
        seen = item[5] + row * item[9] - committed + first
        for r in range(row * groups, (row + 1) * groups):
            for j in range(lowest):
                scores[r, j] = -np.inf
            for j in range(before, count):
                scores[r, j] = scores[r, j] if tail[seen + j] else np.float32(-np.inf)


@njit(fastmath=_FASTER)
def weigh_many(scores, weights, best, total, output, scale, dim):
    """Scores of a block to weights, relative to the best so far; what was summed is scaled.

    Slots behind the last have scores of -inf.
    """
    literally(dim)
    address, step = scores.ctypes.data, scores.strides[0]
    for r in range(len(scores)):
        top = max(best[r], largest(address + r * step) * scale)
        if top == -np.inf:  # nothing of this block is seen, nor of those before
            weights[r] = 0
            continue
        if top > best[r]:
            shrink = exp(best[r] - top)
            total[r] *= shrink
            for d in range(dim):
                output[r, d] *= shrink
            best[r] = top
        added = np.float32(0.0)
        for j in range(COLUMNS):
            weight = exp(scores[r, j] * scale - top)
            weights[r, j] = narrow(weight, weights[0, 0])
            added += weight
        total[r] += added


@njit
def attend_many(item, head, groups, query, packed, stores, sight, scale, output, total, dim):  # noqa: PLR0913
    """Sums what the queries of one block and key head see, and their weights.

    Args:
        query: [m, dim], turned and not scaled; ``packed`` is room for a block's keys or values.
        output, total: float32[m, dim] and [m], zeros.
    """
    literally(dim)
    slots, low, tail = sight
    keys, values = stores[0][head], stores[1][head]
    per, rows, size = packed.itemsize // query.itemsize, len(query), item[3]
    best = np.full(rows, -np.inf, np.float32)
    scores, weights = np.empty((rows, COLUMNS), np.float32), np.empty((rows, COLUMNS), query.dtype)
    side, other = packed.reshape(-1, COLUMNS), packed.reshape(-1, dim)
    places, ahead = np.zeros(COLUMNS, np.int64), np.zeros(COLUMNS, np.int64)
    find(keys, slots, item[4] + item[6], min(COLUMNS, size - item[6]), ahead)
    fetch(values, slots, item[4] + item[6], min(COLUMNS, size - item[6]), dim)
    for first in range(item[6], size, COLUMNS):
        count, places, ahead = min(COLUMNS, size - first), ahead, places
        find(keys, slots, item[4] + first + count, min(COLUMNS, size - first - count), ahead)
        pack_keys(keys, places, count, side, per, dim)
        scores[:] = 0.0
        multiply_add(query, side, scores, dim // per)
        hide(item, first, count, groups, low, tail, scores)
        weigh_many(scores, weights, best, total, output, scale, dim)
        pack_values((keys, values), places, ahead, count, other, per, dim)
        multiply_add(weights, other, output, (count + per - 1) // per)
