"""Machine code for attention of many rows: small products of packed matrices. Only numba reads it.

Here a block of slots is packed once and multiplied with all rows of a unit; for a few rows packing
would cost more than it saves. Products are of bf16 where the CPU has them; sums are float32.
"""

# mypy: disable-error-code="no-untyped-call, no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import Final

import numpy as np
from numba import literally, njit

from rasd.kv.primitives import FAST, exp, narrow
from rasd.kv.tile import COLUMNS, largest, word

# Scores of rows that see nothing are never subtracted, so nothing here is no number.
_FASTER: Final = FAST | {"nnan"}


@njit
def pack_keys(keys, slots, first, count, packed, per, dim):
    """[dim / per, slots] of [slots, dim]; ``per`` numbers in a word."""
    literally(dim)
    for j in range(count):
        key = keys[slots[first + j]]
        for p in range(dim // per):
            packed[p, j] = word(key[p * per], key[p * per + per - 1], packed[0, 0])


@njit
def pack_values(values, slots, first, count, packed, per, dim):
    """[slots / per, dim] of [slots, dim]; the last word is filled with zeros."""
    literally(dim)
    for p in range(count // per):
        one, other = slots[first + p * per], slots[first + p * per + per - 1]
        for d in range(dim):
            packed[p, d] = word(values[one, d], values[other, d], packed[0, 0])
    if count % per:
        last = values[slots[first + count - 1]]
        for d in range(dim):
            packed[count // per, d] = word(last[d], narrow(np.float32(0.0), last[d]), packed[0, 0])


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
