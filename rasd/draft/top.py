"""The most probable tokens after rows of logits; by machine code on a CPU.

A softmax of torch's over a vocabulary and its choice of the best take as long as a fifth of the
head's weights. Here the largest of every 32 logits tell where the best can be at all.
Rows are the units that threads take. Only numba reads what is compiled.
"""

# mypy: disable-error-code="no-untyped-call, no-untyped-def, untyped-decorator"
from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
import torch
from numba import carray, njit
from torch import Tensor

from rasd.draft.expand import Top
from rasd.kv.primitives import FAST, compiled, exp, pointer, take
from rasd.kv.threads import Call

TOP_FIELDS: Final = ("counter", "rows", "width", "known", "x", "x_width", "ids", "logprobs")
"""``width`` of a row, ``known`` of its logits are wanted; addresses; ``x_width`` from a row to the
next."""

DEEP: Final = 32  # logits of a row that share a column
_INFINITE: Final = np.int32(0x7F800000)  # bits of a float that is not finite, at least
_MAGNITUDE: Final = np.int32(0x7FFFFFFF)


def most_probable(logits: Tensor, known: int) -> Top:
    """The ``known`` best tokens of every row, best first; of equal ones the first.

    Args:
        logits: [R, V]. A row with one that is no number, or infinite, has no probabilities: all
            its log-probabilities are no numbers.
    """
    if logits.device.type != "cpu" or logits.dtype != torch.float32 or logits.stride(1) != 1:
        top = logits.log_softmax(-1, dtype=torch.float32).topk(known)
        return Top(top.indices.cpu().numpy(), top.values.cpu().numpy())
    rows, width = logits.shape
    ids, logprobs = np.empty((rows, known), np.int64), np.empty((rows, known), np.float32)
    Call(top_kernel(), TOP_FIELDS)(
        rows=rows,
        width=width,
        known=known,
        x=logits.data_ptr(),
        x_width=logits.stride(0),
        ids=ids.ctypes.data,
        logprobs=logprobs.ctypes.data,
    )
    return Top(ids, logprobs)


@njit
def _order(bits):
    """A float's bits as an integer that grows with it."""
    return bits ^ ((bits >> np.int32(31)) & _MAGNITUDE)


@njit
def _columns(bits, tops):
    """The largest of every column, ordered; whether all are numbers or minus infinity."""
    width, columns, most = len(bits), len(tops), np.int32(0)
    tops[:] = np.int32(-0x80000000)
    for first in range(0, width, columns):
        some = bits[first : first + columns]  # slices become vectors, offsets do not
        to = tops[: len(some)]
        for i in range(len(some)):
            to[i] = max(np.int32(_order(some[i])), to[i])
    for i in range(width):
        most = max(most, bits[i] & _MAGNITUDE)
    return most < _INFINITE or (most == _INFINITE and tops.max() < _INFINITE)


@njit
def _bound(values, count):
    """The largest number that ``count`` of the values reach, at most all of them."""
    low, high = np.int64(-0x80000000), np.int64(0x7FFFFFFF)
    while low < high:
        middle = (low + high + 1) >> 1
        least, reached = np.int32(middle), np.int32(0)
        for i in range(len(values)):
            reached += np.int32(values[i] >= least)
        if reached >= count:
            low = middle
        else:
            high = middle - 1
    return np.int32(low)


@njit
def _gather(bits, tops, least, places, keys):
    """Those that reach ``least``, in order; gives how many."""
    width, columns, count, found = len(bits), len(tops), 0, 0
    high = np.empty(columns, np.int64)
    for i in range(columns):
        if tops[i] >= least:
            high[found] = i
            found += 1
    for first in range(0, width, columns):
        for i in high[:found]:
            if first + i < width:
                key = _order(bits[first + i])
                if key >= least:
                    places[count], keys[count] = first + i, key
                    count += 1
    return count


@njit
def _best(places, keys, ids):
    """The first of the keys' best, in order; of equal ones those before others."""
    least = _bound(keys, len(ids))
    above = 0
    for key in keys:
        above += key > least
    equals, count = len(ids) - above, 0
    chosen = np.empty(len(ids), np.int32)
    for i in range(len(keys)):
        key = keys[i]
        if key < least or (key == least and equals == 0):
            continue
        equals -= key == least
        at = count
        while at > 0 and chosen[at - 1] < key:
            chosen[at], ids[at] = chosen[at - 1], ids[at - 1]
            at -= 1
        chosen[at], ids[at] = key, places[i]
        count += 1


@njit(fastmath=FAST)
def _total(x, top):
    """Sum of e to the distance from the largest."""
    total = np.float32(0.0)
    for i in range(len(x)):
        total += exp(x[i] - top)
    return total


@cache
def top_kernel() -> Any:
    """Takes `TOP_FIELDS`."""

    def kernel(fields):
        rows, width, known = fields[1], fields[2], fields[3]
        x = carray(pointer(fields[4]), (rows, fields[5]), np.float32)
        bits = carray(pointer(fields[4]), (rows, fields[5]), np.int32)
        ids = carray(pointer(fields[6]), (rows, known), np.int64)
        logprobs = carray(pointer(fields[7]), (rows, known), np.float32)
        tops = np.empty(max(width // DEEP, known), np.int32)
        places, keys = np.empty(width, np.int64), np.empty(width, np.int32)
        row = take(fields)
        while row < rows:
            if _columns(bits[row, :width], tops):
                least = _bound(tops, known)
                count = _gather(bits[row, :width], tops, least, places, keys)
                _best(places[:count], keys[:count], ids[row])
                top = x[row, ids[row, 0]]
                logs = top + np.log(_total(x[row, :width], top))
                for i in range(known):
                    logprobs[row, i] = x[row, ids[row, i]] - logs
            else:
                for i in range(known):
                    ids[row, i], logprobs[row, i] = i, np.nan
            row = take(fields)

    return compiled(kernel)
