"""The longest suffix of a text that lives in some segment, compiled; see `rasd.retrieval.kernels`.

A search waits for memory: a step of halving a suffix array reads a suffix and then its text, over
100 ns away each, but ten reads that do not wait for one another take little longer than one. So
all segments, and several lengths, are halved in step: a *lane* is one segment and one length.
The sampled keys leave a lane only the last steps to do so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rasd.jit import compiled
from rasd.retrieval.pointers import living_below, uint32s_at, uint64s_at
from rasd.retrieval.suffixes import KEY_EVERY, SEPARATOR
from rasd.tree import Int32s

Int64s = NDArray[np.int64]

# Columns of a table, as in `rasd.retrieval.kernels`.
_TEXT, _SUFFIXES, _LENGTH, _LIVE, _KEYS, _BITS = range(6)

# Columns of a lane. What is looked for lies in [_LOW, _HIGH], and no step is wider than _STEP.
# Ranks that start with the text are below _TO, and those below _FROM do or sort before. _HIT says
# how _HIGH compares, if anybody has looked. _FIRST keeps the first hit while _LOW moves behind the
# last. The others are scratch; _ACTIVE, from the first row on, lists lanes.
_SEGMENT, _SIZE, _LOW, _HIGH, _STEP, _FROM, _TO, _HIT = range(8)
_FIRST, _MIDDLE, _START, _TOKEN, _LEAST, _MOST, _ACTIVE = range(8, 15)
_COLUMNS = 16

# How a rank compares with the text, in their order: before it; starts with it and goes on; starts
# with it and its document ends there; behind it.
_UNKNOWN, _BEFORE, _GOES_ON, _ENDS, _BEHIND = -1, 0, 1, 2, 3

_FAR = 2**60
_WIDE = 18  # lanes that go together at least, unless all lengths are tried


@compiled
def longest(table: Int64s, tails: Int32s, ends: Int64s, shortest: int) -> tuple[Int64s, Int64s]:
    """The longest suffix of each tail that lives in some segment with a token behind it, and where.

    Tail ``i`` is ``tails[ends[i - 1] : ends[i]]``.

    Returns:
        matched int64[B], lengths, 0 if below ``shortest``; and bounds int64[B, S, 2]: per
        segment the first rank that starts with it and the one behind the last.
    """
    matched = np.zeros(len(ends), np.int64)
    bounds = np.zeros((len(ends), len(table), 2), np.int64)
    lanes = np.empty((2 * len(table) + _WIDE + 1, _COLUMNS), np.int64)
    begin = 0
    for i in range(len(ends) if len(table) > 0 else 0):
        end, known = ends[i], 0  # a negative id occurs nowhere
        while known < end - begin and tails[end - 1 - known] >= 0:
            known += 1
        matched[i], hits = _search(table, tails, end, max(shortest, 1), known, lanes)
        if matched[i] > 0:
            _close(table, tails, end, lanes, hits)
            for lane in range(hits):
                bounds[i, lanes[lane, _SEGMENT], 0] = lanes[lane, _FIRST]
                bounds[i, lanes[lane, _SEGMENT], 1] = lanes[lane, _LOW]
        begin = end
    return matched, bounds


@compiled
def occurrences(table: Int64s, texts: Int32s, ends: Int64s) -> Int64s:
    """int64[N, 2]: a segment where text ``i`` lives, and where it starts there; -1 if nowhere."""
    found = np.full((len(ends), 2), -1, np.int64)
    lanes = np.empty((len(table) + 1, _COLUMNS), np.int64)
    begin = 0
    for i in range(len(ends)):
        for segment in range(len(table)):
            lanes[segment, _SEGMENT], lanes[segment, _SIZE] = segment, ends[i] - begin
        _probe(table, texts, ends[i], lanes, 0, len(table))
        _close(table, texts, ends[i], lanes, len(table))
        for segment in range(len(table)):
            low, high = lanes[segment, _FIRST], lanes[segment, _LOW]
            if found[i, 0] < 0 and _live(table, segment, low, high) > 0:
                while high - low > 1:
                    middle = (low + high) >> 1
                    lives = _live(table, segment, low, middle) > 0
                    low, high = (low, middle) if lives else (middle, high)
                found[i, 0], found[i, 1] = segment, uint32s_at(table[segment, _SUFFIXES])[low]
        begin = ends[i]
    return found


@compiled
def _search(
    table: Int64s, tails: Int32s, end: int, shortest: int, known: int, lanes: Int64s
) -> tuple[int, int]:
    """The longest length in [shortest, known] with a hit, or 0, and how many segments hold it.

    Their lanes come first. What holds a text holds its suffixes, so only they are asked for more.
    """
    found, above, best, holding = shortest - 1, known + 1, 0, len(table)
    for segment in range(holding):
        lanes[segment, _SEGMENT] = segment
    while above - found > 1:
        tries = min(max(_WIDE // holding, 1), above - found - 1)
        first = behind = len(table)
        for i in range(1, tries + 1):
            if above <= known or tries == known - found:  # between a hit and none
                size = found + i * (above - found) // (tries + 1)
            else:  # short ones are likelier
                size = min((found + 3 if best == 0 else 2 * found) << (i - 1), known - tries + i)
            for holder in range(holding):
                lanes[behind, _SEGMENT], lanes[behind, _SIZE] = lanes[holder, _SEGMENT], size
                behind += 1
        _probe(table, tails, end, lanes, first, behind)
        asked = holding
        while first < behind:
            if not _any(table, tails, end, lanes, first, first + asked):
                above = lanes[first, _SIZE]
                break
            found = best = lanes[first, _SIZE]
            holding = _keep(lanes, first, first + asked)
            first += asked
    return best, holding


@compiled
def _keep(lanes: Int64s, first: int, last: int) -> int:
    """Copies the lanes that have hits to the front; returns how many."""
    kept = 0
    for lane in range(first, last):
        if _GOES_ON <= lanes[lane, _HIT] <= _ENDS:
            for column in range(_COLUMNS - 1):
                lanes[kept, column] = lanes[lane, column]
            kept += 1
    return kept


@compiled
def _any(table: Int64s, tails: Int32s, end: int, lanes: Int64s, first: int, last: int) -> bool:
    """Whether a living suffix of some segment starts with what its lane looked for, and goes on."""
    for lane in range(first, last):
        if lanes[lane, _HIT] == _GOES_ON and table[lanes[lane, _SEGMENT], _LIVE] == 0:
            return True
    for lane in range(first, last):
        if lanes[lane, _HIT] == _GOES_ON:
            spare, segment = len(lanes) - 1, lanes[lane, _SEGMENT]
            for column in range(_COLUMNS - 1):
                lanes[spare, column] = lanes[lane, column]
            lanes[spare, _HIGH], lanes[spare, _STEP] = lanes[lane, _TO], 1
            lanes[0, _ACTIVE] = spare
            _halve(table, tails, end, lanes, 1, _ENDS)
            if _live(table, segment, lanes[lane, _LOW], lanes[spare, _LOW]) > 0:
                return True
    return False


@compiled
def _probe(table: Int64s, tails: Int32s, end: int, lanes: Int64s, first: int, last: int) -> None:
    """Finds, for lanes [first, last), the first rank that is not _BEFORE: _LOW, and its _HIT."""
    count, widest = 0, 0
    for lane in range(first, last):
        lanes[lane, _HIT], lanes[lane, _LOW], lanes[lane, _HIGH] = _BEHIND, 0, 0
        if _aim(table, tails, end, lanes, lane):
            lanes[lane, _HIT] = _UNKNOWN
            lanes[count, _ACTIVE] = lane
            count += 1
            widest = max(widest, lanes[lane, _HIGH])
    _narrow(table, lanes, count, widest)
    left = 0
    for i in range(count):
        lane = lanes[i, _ACTIVE]
        _bracket(table, lanes, lane)
        lanes[left, _ACTIVE] = lane
        left += lanes[lane, _LOW] < lanes[lane, _HIGH]
    _halve(table, tails, end, lanes, left, _GOES_ON)
    for lane in range(first, last):
        segment, size, low = lanes[lane, _SEGMENT], lanes[lane, _SIZE], lanes[lane, _LOW]
        if lanes[lane, _HIT] == _UNKNOWN:
            lanes[lane, _HIT] = _BEHIND
            if low < table[segment, _LENGTH]:
                start = uint32s_at(table[segment, _SUFFIXES])[low]
                lanes[lane, _HIT] = _compare(table, segment, start, tails, end, size)


@compiled
def _aim(table: Int64s, tails: Int32s, end: int, lanes: Int64s, lane: int) -> bool:
    """Sets the keys that bound a lane's hits; false if there can be none."""
    segment, size = lanes[lane, _SEGMENT], lanes[lane, _SIZE]
    bits = table[segment, _BITS]
    tokens = 64 // bits
    key = np.int64(0)
    for i in range(tokens):
        token = np.int64(tails[end - size + i]) if i < size else np.int64(0)
        if token >> bits:
            return False
        key = (key << bits) | token
    free = bits * max(tokens - size, 0)
    lanes[lane, _LEAST], lanes[lane, _MOST] = key, key | ((np.int64(1) << free) - 1)
    lanes[lane, _HIGH] = (table[segment, _LENGTH] + KEY_EVERY - 1) // KEY_EVERY
    return lanes[lane, _HIGH] > 0  # type: ignore[no-any-return]


@compiled
def _narrow(table: Int64s, lanes: Int64s, count: int, widest: int) -> None:
    """Moves _LOW and _HIGH of the active lanes, on keys, to the first that is not below _LEAST."""
    while widest > 0:  # no branch depends on a key, so that all lanes wait together
        widest >>= 1
        for i in range(count):
            lane = lanes[i, _ACTIVE]
            low, high = lanes[lane, _LOW], lanes[lane, _HIGH]
            half = (high - low) >> 1
            key = uint64s_at(table[lanes[lane, _SEGMENT], _KEYS])[low + half]
            below = (key < np.uint64(lanes[lane, _LEAST])) & (high > low)
            lanes[lane, _LOW] = low + half + 1 if below else low
            lanes[lane, _HIGH] = high if below else low + half


@compiled
def _bracket(table: Int64s, lanes: Int64s, lane: int) -> None:
    """From the first key that is not below _LEAST to bounds of ranks."""
    segment, low = lanes[lane, _SEGMENT], lanes[lane, _LOW]
    length, most = table[segment, _LENGTH], np.uint64(lanes[lane, _MOST])
    keys = uint64s_at(table[segment, _KEYS])
    behind, step, high = low, 1, (length + KEY_EVERY - 1) // KEY_EVERY
    while behind < high:
        middle = behind + min(step, (high - behind) >> 1)
        if keys[middle] <= most:
            behind, step = middle + 1, min(2 * step, _FAR)
        else:
            high, step = middle, _FAR
    short = lanes[lane, _SIZE] <= 64 // table[segment, _BITS]
    lanes[lane, _LOW] = max((low - 1) * KEY_EVERY + 1, 0)
    lanes[lane, _TO] = min(behind * KEY_EVERY, length)
    lanes[lane, _HIGH] = min(low * KEY_EVERY, length) if short else lanes[lane, _TO]
    lanes[lane, _FROM] = (behind - 1) * KEY_EVERY + 1 if short and behind > low else 0
    lanes[lane, _STEP] = _FAR


@compiled
def _halve(table: Int64s, tails: Int32s, end: int, lanes: Int64s, count: int, order: int) -> None:
    """Moves _LOW of the ``count`` active lanes to the first rank that is not below ``order``."""
    while count > 0:
        for i in range(count):
            lane = lanes[i, _ACTIVE]
            low, high = lanes[lane, _LOW], lanes[lane, _HIGH]
            middle = low + min(lanes[lane, _STEP], (high - low) >> 1)
            lanes[lane, _MIDDLE] = middle
            lanes[lane, _START] = uint32s_at(table[lanes[lane, _SEGMENT], _SUFFIXES])[middle]
        for i in range(count):  # asks for all texts before it looks at one
            lane = lanes[i, _ACTIVE]
            text = uint32s_at(table[lanes[lane, _SEGMENT], _TEXT])
            lanes[lane, _TOKEN] = text[lanes[lane, _START]]
        left = 0
        for i in range(count):
            lane = lanes[i, _ACTIVE]
            segment, size = lanes[lane, _SEGMENT], lanes[lane, _SIZE]
            hit = _compare(table, segment, lanes[lane, _START], tails, end, size)
            if hit < order:
                lanes[lane, _LOW] = lanes[lane, _MIDDLE] + 1
                lanes[lane, _STEP] = min(2 * lanes[lane, _STEP], _FAR)
            else:
                lanes[lane, _HIGH], lanes[lane, _STEP] = lanes[lane, _MIDDLE], _FAR
                lanes[lane, _HIT] = hit
            lanes[left, _ACTIVE] = lane
            left += lanes[lane, _LOW] < lanes[lane, _HIGH]
        count = left


@compiled
def _compare(table: Int64s, segment: int, start: int, tails: Int32s, end: int, size: int) -> int:
    """How the suffix that starts there compares with the ``size`` tokens before ``end``."""
    text = uint32s_at(table[segment, _TEXT])
    for i in range(size):  # ends at a separator at the latest: no query holds one
        token, wanted = np.int64(text[start + i]), tails[end - size + i]
        if token != wanted:
            return _BEFORE if token < wanted else _BEHIND
    return _ENDS if text[start + size] == SEPARATOR else _GOES_ON


@compiled
def _close(table: Int64s, tails: Int32s, end: int, lanes: Int64s, last: int) -> None:
    """Moves _LOW of the lanes below ``last`` behind their hits."""
    count = 0
    for lane in range(last):
        low = lanes[lane, _FIRST] = lanes[lane, _LOW]
        if _GOES_ON <= lanes[lane, _HIT] <= _ENDS:
            lanes[lane, _LOW] = max(low + 1, lanes[lane, _FROM])
            lanes[lane, _HIGH], lanes[lane, _STEP] = lanes[lane, _TO], 1
            lanes[count, _ACTIVE] = lane
            count += lanes[lane, _LOW] < lanes[lane, _HIGH]
    _halve(table, tails, end, lanes, count, _BEHIND)


@compiled
def _live(table: Int64s, segment: int, low: int, high: int) -> Any:
    """int64: how many suffixes in [low, high) live."""
    blocks = table[segment, _LIVE]
    return living_below(blocks, high) - living_below(blocks, low) if blocks else high - low
