"""The longest suffix of a text that lives in some segment, compiled; see `rasd.retrieval.kernels`.

A search waits for memory: a read costs over 100 ns, but ten that do not wait for one another take
little longer than one. So all segments, and several lengths of the suffix, are searched in step:
a *lane* is one segment and one length. It halves keys, to one key and the entries up to the next;
there checks tell which suffixes may be it, and only these are followed into the text.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rasd.jit import compiled
from rasd.retrieval.pointers import living_below, prefetch, uint32s_at, uint64s_at
from rasd.retrieval.suffixes import CHECK_FACTOR, CHECKED, KEY_EVERY, SEPARATOR, TOP_EVERY, Int64s
from rasd.tree import Int32s

# Columns of a table, as in `rasd.retrieval.kernels`.
_TEXT, _ENTRIES, _LENGTH, _PLACE, _LIVE, _KEYS, _TOPS, _BITS = range(8)

# Columns of a lane. What is looked for lies in [_LOW, _HIGH]; ranks that start with the text are
# below _TO, and those below _FROM do or sort before. _HIT says how _HIGH compares, if that is
# known. _FIRST is the first hit. The others are scratch; _ACTIVE, from row 0 on, lists lanes.
_SEGMENT, _SIZE, _LOW, _HIGH, _FROM, _TO, _HIT, _FIRST = range(8)
_START, _LEAST, _MOST, _ACTIVE = range(8, 12)
_COLUMNS = 16

# How a rank compares with the text, in their order: before it; starts with it and goes on; starts
# with it and its document ends there; behind it.
_UNKNOWN, _BEFORE, _GOES_ON, _ENDS, _BEHIND = range(-1, 4)

_WIDE = 18  # lanes that go together, or all segments
_SIFTED = 2 * KEY_EVERY  # entries whose checks are looked at, at most
_LINE = 64  # bytes of memory that come together


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
        behind = len(table)
        for i in range(1, tries + 1):
            if above <= known or tries == known - found:  # between a hit and none
                size = found + i * (above - found) // (tries + 1)
            else:  # short ones are likelier
                start = found + 3 if best == 0 else 2 * found
                size = min(start << (i - 1), known - tries + i)
            for holder in range(holding):
                lanes[behind, _SEGMENT], lanes[behind, _SIZE] = lanes[holder, _SEGMENT], size
                behind += 1
        _probe(table, tails, end, lanes, len(table), behind)
        asked = holding
        for first in range(len(table), behind, asked):
            if not _any(table, tails, end, lanes, first, first + asked):
                above = lanes[first, _SIZE]
                break
            found = best = lanes[first, _SIZE]
            holding = 0
            for lane in range(first, first + asked):
                if _GOES_ON <= lanes[lane, _HIT] <= _ENDS:
                    _copy(lanes, lane, holding)
                    holding += 1
    return best, holding


@compiled
def _copy(lanes: Int64s, source: int, target: int) -> None:
    for column in range(_ACTIVE):
        lanes[target, column] = lanes[source, column]


@compiled
def _any(table: Int64s, tails: Int32s, end: int, lanes: Int64s, first: int, last: int) -> bool:
    """Whether a living suffix of some segment starts with what its lane looked for, and goes on."""
    for lane in range(first, last):
        if lanes[lane, _HIT] == _GOES_ON and table[lanes[lane, _SEGMENT], _LIVE] == 0:
            return True
    for lane in range(first, last):
        if lanes[lane, _HIT] == _GOES_ON:
            spare = len(lanes) - 1
            _copy(lanes, lane, spare)
            lanes[spare, _HIGH], lanes[0, _ACTIVE] = lanes[lane, _TO], spare
            _halve(table, tails, end, lanes, 1, _ENDS)
            blocks = table[lanes[lane, _SEGMENT], _LIVE]
            if living_below(blocks, lanes[lane, _LOW]) < living_below(blocks, lanes[spare, _LOW]):
                return True
    return False


# --- a round of lanes -------------------------------------------------------------------------


@compiled
def _probe(table: Int64s, tails: Int32s, end: int, lanes: Int64s, first: int, last: int) -> None:
    """Finds, for lanes [first, last), the first rank that is not _BEFORE: _LOW, and its _HIT."""
    count = widest = 0
    for lane in range(first, last):
        lanes[lane, _HIT], lanes[lane, _LOW], lanes[lane, _HIGH] = _BEHIND, 0, 0
        if _aim(table, tails, end, lanes, lane):
            lanes[lane, _HIT], lanes[count, _ACTIVE] = _UNKNOWN, lane
            count += 1
            widest = max(widest, lanes[lane, _HIGH])
    _narrow(table, lanes, count, widest, _TOPS)
    for i in range(count):
        _descend(table, lanes, lanes[i, _ACTIVE])
    _narrow(table, lanes, count, TOP_EVERY - 1, _KEYS)
    for i in range(count):
        _bracket(table, lanes, lanes[i, _ACTIVE])
    left = 0
    for i in range(count):
        lane = lanes[i, _ACTIVE]
        if lanes[lane, _SIZE] >= CHECKED and lanes[lane, _TO] - lanes[lane, _LOW] <= _SIFTED:
            _sift(table, tails, end, lanes, lane)
        lanes[left, _ACTIVE] = lane
        left += lanes[lane, _LOW] < lanes[lane, _HIGH]
    _halve(table, tails, end, lanes, left, _GOES_ON)
    for lane in range(first, last):
        segment, size, low = lanes[lane, _SEGMENT], lanes[lane, _SIZE], lanes[lane, _LOW]
        if lanes[lane, _HIT] == _UNKNOWN and low < table[segment, _LENGTH]:
            start = _start(table, segment, low)
            lanes[lane, _HIT] = _compare(table, segment, start, tails, end, size)


@compiled
def _aim(table: Int64s, tails: Int32s, end: int, lanes: Int64s, lane: int) -> bool:
    """Sets the keys that bound a lane's hits; false if there can be none."""
    segment, size = lanes[lane, _SEGMENT], lanes[lane, _SIZE]
    bits = table[segment, _BITS]
    tokens, key = 64 // bits, np.int64(0)
    for i in range(tokens):
        token = np.int64(tails[end - size + i]) if i < size else np.int64(0)
        if token >> bits:
            return False
        key = (key << bits) | token
    free = bits * max(tokens - size, 0)
    lanes[lane, _LEAST], lanes[lane, _MOST] = key, key | ((np.int64(1) << free) - 1)
    keys = (table[segment, _LENGTH] + KEY_EVERY - 1) // KEY_EVERY
    lanes[lane, _HIGH] = (keys + TOP_EVERY - 1) // TOP_EVERY
    return keys > 0  # type: ignore[no-any-return]


@compiled
def _narrow(table: Int64s, lanes: Int64s, count: int, widest: int, keys: int) -> None:
    """Moves _LOW and _HIGH of the active lanes to the first key that is not below _LEAST."""
    while widest > 0:  # no branch depends on a key, so that all lanes wait together
        widest >>= 1
        for i in range(count):
            lane = lanes[i, _ACTIVE]
            low, high = lanes[lane, _LOW], lanes[lane, _HIGH]
            half = (high - low) >> 1
            key = uint64s_at(table[lanes[lane, _SEGMENT], keys])[low + half]
            below = (key < np.uint64(lanes[lane, _LEAST])) & (high > low)
            lanes[lane, _LOW] = low + half + 1 if below else low
            lanes[lane, _HIGH] = high if below else low + half


@compiled
def _descend(table: Int64s, lanes: Int64s, lane: int) -> None:
    """From the first top that is not below _LEAST to the keys between it and the top before."""
    segment, top = lanes[lane, _SEGMENT], lanes[lane, _LOW]
    keys = (table[segment, _LENGTH] + KEY_EVERY - 1) // KEY_EVERY
    lanes[lane, _LOW] = max((top - 1) * TOP_EVERY + 1, 0)
    lanes[lane, _HIGH] = min(top * TOP_EVERY, keys)
    for at in range(8 * lanes[lane, _LOW], 8 * lanes[lane, _HIGH] + 8, _LINE):
        prefetch(table[segment, _KEYS] + at)


@compiled
def _bracket(table: Int64s, lanes: Int64s, lane: int) -> None:
    """From the first key that is not below _LEAST to bounds of ranks."""
    segment, low = lanes[lane, _SEGMENT], lanes[lane, _LOW]
    length, keys = table[segment, _LENGTH], uint64s_at(table[segment, _KEYS])
    behind, step, high = low, 1, (length + KEY_EVERY - 1) // KEY_EVERY
    while behind < high:  # most keys hit are few
        middle = min(behind + step - 1, (behind + high) >> 1)
        if keys[middle] <= np.uint64(lanes[lane, _MOST]):
            behind, step = middle + 1, 2 * step
        else:
            high, step = middle, high
    short = lanes[lane, _SIZE] <= 64 // table[segment, _BITS]
    lanes[lane, _LOW] = max((low - 1) * KEY_EVERY + 1, 0)
    lanes[lane, _TO] = min(behind * KEY_EVERY, length)
    lanes[lane, _HIGH] = min(low * KEY_EVERY, length) if short else lanes[lane, _TO]
    lanes[lane, _FROM] = (behind - 1) * KEY_EVERY + 1 if short and behind > low else 0
    nearest = min(lanes[lane, _HIGH], lanes[lane, _LOW] + KEY_EVERY)
    for at in range(4 * lanes[lane, _LOW], 4 * nearest + 4, _LINE):
        prefetch(table[segment, _ENTRIES] + at)


@compiled
def _sift(table: Int64s, tails: Int32s, end: int, lanes: Int64s, lane: int) -> None:
    """Leaves of a lane's ranks those from the first to the last whose check is right."""
    segment, size = lanes[lane, _SEGMENT], lanes[lane, _SIZE]
    entries, place = uint32s_at(table[segment, _ENTRIES]), table[segment, _PLACE]
    check, bits = np.int64(0), np.int64(2**32 - 1)
    for i in range(end - size, end - size + CHECKED):
        check = (check * CHECK_FACTOR + tails[i]) & bits
    check = ((check ^ (check >> 15)) * CHECK_FACTOR) & bits
    first = behind = lanes[lane, _LOW]
    for rank in range(first, lanes[lane, _TO]):
        if (np.int64(entries[rank]) ^ check) >> place == 0:
            first, behind = (first if behind > lanes[lane, _LOW] else rank), rank + 1
    lanes[lane, _LOW], lanes[lane, _HIGH], lanes[lane, _TO] = first, behind, behind
    lanes[lane, _HIT], lanes[lane, _FROM] = _BEHIND, 0


@compiled
def _halve(table: Int64s, tails: Int32s, end: int, lanes: Int64s, count: int, order: int) -> None:
    """Moves _LOW of the ``count`` active lanes to the first rank that is not below ``order``."""
    while count > 0:
        for i in range(count):  # asks for all texts before it looks at one
            lane = lanes[i, _ACTIVE]
            segment, middle = lanes[lane, _SEGMENT], (lanes[lane, _LOW] + lanes[lane, _HIGH]) >> 1
            start = lanes[lane, _START] = _start(table, segment, middle)
            prefetch(table[segment, _TEXT] + 4 * start)
            prefetch(table[segment, _TEXT] + 4 * (start + min(lanes[lane, _SIZE], CHECKED + 1)))
        left = 0
        for i in range(count):
            lane = lanes[i, _ACTIVE]
            segment, middle = lanes[lane, _SEGMENT], (lanes[lane, _LOW] + lanes[lane, _HIGH]) >> 1
            start, size = lanes[lane, _START], lanes[lane, _SIZE]
            hit = _compare(table, segment, start, tails, end, size)
            if hit < order:
                lanes[lane, _LOW] = middle + 1
            else:
                lanes[lane, _HIGH], lanes[lane, _HIT] = middle, hit
            lanes[left, _ACTIVE] = lane
            left += lanes[lane, _LOW] < lanes[lane, _HIGH]
        count = left


@compiled
def _start(table: Int64s, segment: int, rank: int) -> Any:
    """int64: where the suffix of a rank starts."""
    entry = np.int64(uint32s_at(table[segment, _ENTRIES])[rank])
    return entry & ((1 << table[segment, _PLACE]) - 1)


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
            lanes[lane, _HIGH] = lanes[lane, _TO]
            lanes[count, _ACTIVE] = lane
            count += lanes[lane, _LOW] < lanes[lane, _HIGH]
    _halve(table, tails, end, lanes, count, _BEHIND)
