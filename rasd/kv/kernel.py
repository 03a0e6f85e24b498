"""Machine code for attention of few rows on a CPU: it reads keys and values once, where they lie.

torch's kernels want equal lengths in one call, and a call for each sequence and layer costs more
than its arithmetic. Here one call per layer turns the new rows, stores their keys and values and
attends, for all sequences; (sequence, key head) pairs are units that threads take one by one.
bf16 is held as uint16; all arithmetic is in float32.

Only numba reads this file: it is compiled when a packed decoder is first loaded on a machine, which
takes some seconds, and kept on disk. `rasd.kv.few` calls it.
"""

# mypy: disable-error-code="no-untyped-call, no-untyped-def, untyped-decorator"
from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numba import carray, literally, njit

from rasd.kv.primitives import (
    FAST,
    as_float,
    compiled,
    exp,
    narrow,
    pointer,
    prefetch,
    take,
    widen,
)

BLOCK: Final = 64  # slots whose scores are computed together; they stay in the first cache
ITEM: Final = ("start", "stop", "committed", "size", "slots", "tail", "begin", "narrow")
"""Columns of an item: its rows; its committed and all its slots; where its entries begin among all
items' slots and tails; the first slot that some row sees, and from which on all rows see all."""

FIELDS: Final = (
    *("counter", "cache_slots", "rows", "kv_heads", "groups", "scale", "items", "item_count"),
    *("slots", "slot_count", "low", "tail", "tail_size", "cos", "sin", "keys", "values"),
    *("states", "state_width", "new_values", "value_width", "out"),
)
"""What a kernel is given, int64 each: numbers, addresses of arrays, and the bits of ``scale``."""


@njit(fastmath=FAST)
def _enter(item, head, groups, states, new_values, angles, slots, stores, query, scale, dim):  # noqa: PLR0913
    """Turns an item's new keys and queries; stores keys and values, and fills ``query``."""
    literally(dim)
    start, stop, size = item[0], item[1], item[3]
    kv_heads, half = len(stores[0]), dim // 2
    for row in range(start, stop):
        slot = slots[item[4] + size - stop + row]
        cos, sin = angles[0][row], angles[1][row]
        for part in range(groups + 1):  # the group's queries, then their key
            first = (head * groups + part if part < groups else kv_heads * groups + head) * dim
            for d in range(dim):
                here = widen(states[row, first + d])
                there = widen(states[row, first + (d + half if d < half else d - half)])
                turned = here * widen(cos[d]) + there * widen(sin[d])
                if part < groups:
                    query[(row - start) * groups + part, d] = turned * scale
                else:
                    stores[0][head, slot, d] = narrow(turned, states[row, 0])
        for d in range(dim):
            stores[1][head, slot, d] = new_values[row, head * dim + d]


@njit(fastmath=FAST)
def _score(query, states, scores, count, dim):
    """Dot products of the queries with a block's keys; two by four share what they load."""
    literally(dim)
    for r in range(0, len(query), 2):
        for j in range(0, count, 4):
            a = b = c = e = f = g = h = i = np.float32(0.0)
            for d in range(dim):
                p, q = query[r, d], query[r + 1, d]
                a += p * states[j, d]
                b += p * states[j + 1, d]
                c += p * states[j + 2, d]
                e += p * states[j + 3, d]
                f += q * states[j, d]
                g += q * states[j + 1, d]
                h += q * states[j + 2, d]
                i += q * states[j + 3, d]
            scores[r, j], scores[r, j + 1], scores[r, j + 2], scores[r, j + 3] = a, b, c, e
            scores[r + 1, j], scores[r + 1, j + 1] = f, g
            scores[r + 1, j + 2], scores[r + 1, j + 3] = h, i


@njit(fastmath=FAST)
def _weigh(scores, best, total, output, count):
    """Scores of a block to weights, relative to the best so far; what was summed is scaled."""
    for r in range(len(scores)):
        top = best[r]
        for j in range(count):
            top = max(top, scores[r, j])
        if top == -np.inf:  # nothing of this block is seen, nor of those before
            scores[r, :count] = 0.0
            continue
        if top > best[r]:
            shrink = exp(best[r] - top)
            total[r] *= shrink
            for d in range(output.shape[1]):
                output[r, d] *= shrink
            best[r] = top
        added = np.float32(0.0)
        for j in range(count):
            weight = exp(scores[r, j] - top)
            scores[r, j] = weight
            added += weight
        total[r] += added


@njit(fastmath=FAST)
def _add(scores, states, output, count, dim):
    """Sums a block's values by their weights; two rows by four values share what they load."""
    literally(dim)
    for r in range(0, len(output), 2):
        for j in range(0, count, 4):
            a, b, c, e = scores[r, j], scores[r, j + 1], scores[r, j + 2], scores[r, j + 3]
            f, g = scores[r + 1, j], scores[r + 1, j + 1]
            h, i = scores[r + 1, j + 2], scores[r + 1, j + 3]
            for d in range(dim):
                s, t, u, v = states[j, d], states[j + 1, d], states[j + 2, d], states[j + 3, d]
                output[r, d] += a * s + b * t + c * u + e * v
                output[r + 1, d] += f * s + g * t + h * u + i * v


@njit
def _hide(item, first, count, groups, low, tail, scores):
    """-inf at the slots of a block that a row may not see."""
    committed, size = item[2], item[3]
    for row in range(item[1] - item[0]):
        lowest = low[item[0] + row]
        seen = item[5] + row * (size - committed) - committed
        for j in range(count):
            slot = first + j
            hidden = slot < lowest if slot < committed else tail[seen + slot] == 0
            if hidden:
                for g in range(groups):
                    scores[row * groups + g, j] = -np.inf


@njit
def _fetch(states, slots, first, count, dim):
    """Asks memory for a block that is read next, while another is computed with."""
    literally(dim)
    step = 64 // states.itemsize
    for j in range(count):
        slot = slots[first + j]
        for d in range(0, dim, step):
            prefetch(states[slot, d:].ctypes.data)


@njit
def _read(states, slots, first, count, block, dim):
    """A block of keys or values as float32; zeros fill it up to a multiple of four."""
    literally(dim)
    for j in range(count):
        slot = slots[first + j]
        for d in range(dim):
            block[j, d] = widen(states[slot, d])
    block[count : (count + 3) // 4 * 4] = 0.0


@njit
def _attend(item, head, groups, query, stores, slots, low, tail, out, dim):  # noqa: PLR0913
    """What the queries of one item and key head see, into ``out``."""
    literally(dim)
    keys, values = stores[0][head], stores[1][head]
    rows, size = len(query), item[3]
    output, total = np.zeros((rows, dim), np.float32), np.zeros(rows, np.float32)
    best = np.full(rows, -np.inf, np.float32)
    scores, block = np.empty((rows, BLOCK), np.float32), np.empty((BLOCK, dim), np.float32)
    for first in range(item[6], size, BLOCK):
        count, at = min(BLOCK, size - first), item[4] + first
        _fetch(values, slots, at, count, dim)
        _read(keys, slots, at, count, block, dim)
        _score(query, block, scores, count, dim)
        if first + count > item[2] or first < item[7]:
            _hide(item, first, count, groups, low, tail, scores)
        _weigh(scores, best, total, output, count)
        _fetch(keys, slots, at + count, min(BLOCK, size - first - count), dim)
        scores[:, count : (count + 3) // 4 * 4] = 0.0
        _read(values, slots, at, count, block, dim)
        _add(scores, block, output, count, dim)
    for r in range((item[1] - item[0]) * groups):
        row, column = item[0] + r // groups, (head * groups + r % groups) * dim
        for d in range(dim):
            out[row, column + d] = narrow(output[r, d] / total[r], out[0, 0])


@cache
def attention(kind: Any, dim: int) -> Any:
    """A C function that takes `FIELDS` and works until no unit is left; threads may share them.

    Args:
        kind: numpy's type of all states: uint16 for bf16, or float32.
        dim: of a head.
    """

    def kernel(fields):
        rows, kv_heads, groups = fields[2], fields[3], fields[4]
        scale = as_float(np.int32(fields[5]))
        items = carray(pointer(fields[6]), (fields[7], 8), np.int64)
        slots = carray(pointer(fields[8]), (fields[9],), np.int64)
        low = carray(pointer(fields[10]), (rows,), np.int64)
        tail = carray(pointer(fields[11]), (fields[12],), np.uint8)
        cos = carray(pointer(fields[13]), (rows, dim), kind)
        sin = carray(pointer(fields[14]), (rows, dim), kind)
        keys = carray(pointer(fields[15]), (kv_heads, fields[1], dim), kind)
        values = carray(pointer(fields[16]), (kv_heads, fields[1], dim), kind)
        states = carray(pointer(fields[17]), (rows, fields[18]), kind)
        new_values = carray(pointer(fields[19]), (rows, fields[20]), kind)
        out = carray(pointer(fields[21]), (rows, kv_heads * groups * dim), kind)
        angles, stores = (cos, sin), (keys, values)
        unit = take(fields)
        while unit < len(items) * kv_heads:
            item, head = items[unit // kv_heads], unit % kv_heads
            count = (item[1] - item[0]) * groups  # and one of zeros, if that is odd
            query = np.zeros((count + count % 2, dim), np.float32)
            _enter(item, head, groups, states, new_values, angles, slots, stores, query, scale, dim)
            _attend(item, head, groups, query, stores, slots, low, tail, out, dim)
            unit = take(fields)

    return compiled(kernel)
