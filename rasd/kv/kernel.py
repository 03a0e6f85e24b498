"""Machine code for attention on a CPU: it reads keys and values once, where they lie.

torch's kernels want equal lengths in one call, and a call for each sequence and layer costs more
than its arithmetic. Here one call per layer turns the new rows, stores their keys and values and
attends, for all sequences; (block of rows, key head) pairs are units that threads take one by one.
bf16 is held as uint16; sums are float32. Only numba reads this file: compiled when a packed decoder
is first loaded on a machine, it takes some seconds. `rasd.kv.few` calls it.
"""

# mypy: disable-error-code="no-untyped-call, no-untyped-def, untyped-decorator"
from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numba import carray, literally, njit

from rasd.kv.many import attend_many, hide
from rasd.kv.pack import fetch
from rasd.kv.primitives import (
    FAST,
    as_float,
    compiled,
    exp,
    narrow,
    pointer,
    take,
    widen,
)
from rasd.kv.tile import COLUMNS, PAIRS

BLOCK: Final = COLUMNS  # slots whose scores are computed together; they stay in the first cache
ITEM: Final = (
    *("start", "stop", "committed", "size", "slots", "tail"),
    *("begin", "narrow", "own", "width", "open"),
)
"""Columns of a block of an item's rows: the rows; the item's committed slots, and how many slots
in all some of the rows may see; where the item's entries begin among all items' slots, and the
rows' among all tails; the first slot that some row sees, and from which on all rows see all; which
of the item's slots is the first row's own; entries of a row in the tails; the first slot behind
``narrow`` that some row may not see."""

FIELDS: Final = (
    *("counter", "cache_slots", "rows", "kv_heads", "groups", "scale", "items", "item_count"),
    *("slots", "slot_count", "low", "tail", "tail_size", "cos", "sin", "keys", "values"),
    *("states", "state_width", "new_values", "value_width", "out", "parts", "most_few"),
)
"""What a kernel is given, int64 each: numbers, addresses of arrays, and the bits of ``scale``.
``parts``: `STORE`, `ATTEND`, or both where every item is one block; above ``most_few`` queries of a
key head a block is computed by tiles."""

STORE: Final = 1
ATTEND: Final = 2


@njit(fastmath=FAST)
def _turn(state, cos, sin, scale, out, dim):
    """A head turned by a row's angles and scaled."""
    literally(dim)
    half = dim // 2
    for d in range(half):
        low, high = widen(state[d]), widen(state[d + half])
        out[d] = narrow((low * widen(cos[d]) + high * widen(sin[d])) * scale, out[0])
        turned = high * widen(cos[d + half]) + low * widen(sin[d + half])
        out[d + half] = narrow(turned * scale, out[0])


@njit
def _store(item, head, groups, states, new_values, angles, slots, stores, dim):  # noqa: PLR0913
    """Stores the new keys, turned, and values of a block."""
    literally(dim)
    first = (len(stores[0]) * groups + head) * dim
    for row in range(item[0], item[1]):
        slot = slots[item[4] + item[8] + row - item[0]]
        cos, sin = angles[0][row], angles[1][row]
        _turn(
            states[row, first : first + dim], cos, sin, np.float32(1.0), stores[0][head, slot], dim
        )
        for d in range(dim):
            stores[1][head, slot, d] = new_values[row, head * dim + d]


@njit
def _ask(item, head, groups, states, angles, scale, query, dim):
    """Fills the queries of a block, turned: row by row, in each the group's heads; then zeros."""
    literally(dim)
    for row in range(item[0], item[1]):
        for part in range(groups):
            first = (head * groups + part) * dim
            to, state = query[(row - item[0]) * groups + part], states[row, first : first + dim]
            _turn(state, angles[0][row], angles[1][row], scale, to, dim)
    query[(item[1] - item[0]) * groups :] = 0


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
def _read(states, slots, first, count, block, dim):
    """A block of keys or values as float32; zeros fill it up to a multiple of four."""
    literally(dim)
    for j in range(count):
        slot = slots[first + j]
        for d in range(dim):
            block[j, d] = widen(states[slot, d])
    block[count : (count + 3) // 4 * 4] = 0.0


@njit
def _attend_few(item, head, groups, query, stores, sight, output, total, dim):  # noqa: PLR0913
    """Sums what the queries of one block and key head see, and their weights."""
    literally(dim)
    slots, low, tail = sight
    keys, values = stores[0][head], stores[1][head]
    size, best = item[3], np.full(len(query), -np.inf, np.float32)
    scores, block = np.empty((len(query), BLOCK), np.float32), np.empty((BLOCK, dim), np.float32)
    for first in range(item[6], size, BLOCK):
        count, at = min(BLOCK, size - first), item[4] + first
        fetch(values, slots, at, count, dim)
        _read(keys, slots, at, count, block, dim)
        _score(query, block, scores, count, dim)
        hide(item, first, count, groups, low, tail, scores)
        _weigh(scores, best, total, output, count)
        fetch(keys, slots, at + count, min(BLOCK, size - first - count), dim)
        scores[:, count : (count + 3) // 4 * 4] = 0.0
        _read(values, slots, at, count, block, dim)
        _add(scores, block, output, count, dim)


@njit(fastmath=FAST, error_model="numpy")  # no error may keep others from their rows
def _give(item, head, groups, output, total, out, dim):
    """What was summed, over the sum of its weights."""
    literally(dim)
    for r in range((item[1] - item[0]) * groups):
        row, column = item[0] + r // groups, (head * groups + r % groups) * dim
        share = np.float32(1.0) / total[r]
        for d in range(dim):
            out[row, column + d] = narrow(output[r, d] * share, out[0, 0])


@njit
def _attend(item, head, groups, most_few, states, angles, scale, room, stores, sight, out, dim):  # noqa: PLR0913
    """What the queries of one block and key head see, into ``out``.

    ``room``: for a block's keys or values, and an array of the type that tiles multiply.
    """
    literally(dim)
    count = (item[1] - item[0]) * groups
    few = count <= most_few
    count += count % 2 if few else 0  # and one of zeros
    output, total = np.zeros((count, dim), np.float32), np.zeros(count, np.float32)
    if few:
        query = np.empty((count, dim), np.float32)
        _ask(item, head, groups, states, angles, scale, query, dim)
        _attend_few(item, head, groups, query, stores, sight, output, total, dim)
    else:
        asked = np.empty((count, dim), room[1].dtype)
        _ask(item, head, groups, states, angles, np.float32(1.0), asked, dim)
        attend_many(item, head, groups, asked, room[0], stores, sight, scale, output, total, dim)
    _give(item, head, groups, output, total, out, dim)


@cache
def attention(kind: Any, dim: int) -> Any:
    """A C function that takes `FIELDS` and works until no unit is left; threads may share them.

    Args:
        kind: numpy's type of all states: uint16 for bf16, or float32.
        dim: of a head; a multiple of `LANES` if tiles are used.
    """
    paired = PAIRS and kind is np.uint16
    part, whole, per = (np.uint16, np.uint32, 2) if paired else (np.float32, np.float32, 1)

    def kernel(fields):
        rows, kv_heads, groups, few = fields[2], fields[3], fields[4], fields[23]
        scale = as_float(np.int32(fields[5]))
        room = np.empty(BLOCK * dim // per, whole), np.empty(0, part)
        items = carray(pointer(fields[6]), (fields[7], 11), np.int64)
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
        angles, stores, sight = (cos, sin), (keys, values), (slots, low, tail)
        unit = take(fields)
        while unit < len(items) * kv_heads:
            item, head = items[unit // kv_heads], unit % kv_heads
            if fields[22] & STORE:
                _store(item, head, groups, states, new_values, angles, slots, stores, dim)
            if fields[22] & ATTEND:
                _attend(
                    item, head, groups, few, states, angles, scale, room, stores, sight, out, dim
                )
            unit = take(fields)

    return compiled(kernel)
