"""The trie of what follows some ranges of suffix arrays, compiled; see `rasd.retrieval.kernels`.

Best-first, from a *queue* of nodes found but not yet taken. What follows a node is a *gap*: some
*stretches* of ranks, at most one per segment, with the same beginning, that nobody has looked at.
A narrow gap is read: one token behind each of its hits; as these are sorted in each stretch, they
are merged into its children. None of the reads waits for another, so a dozen take as long as the
two that a step of halving takes. A wide gap is cut: the child in its middle becomes a node, which
leaves two smaller gaps; so the time does not follow the number of hits. *Work* int64[14] names
the scratch memory, as a table does the segments: how much of it is used, and addresses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rasd.jit import compiled
from rasd.retrieval.pointers import int64s_at, living_below, uint32s_at
from rasd.retrieval.suffixes import SEPARATOR

Int64s = NDArray[np.int64]

_TEXT, _SUFFIXES, _LENGTH, _LIVE = range(4)  # of a table, as in `rasd.retrieval.kernels`

# The queue lies from _HEAD on, best first; gaps, widest last. Stretches are [segment, first rank,
# one behind the last]. Of hits being read there are tokens uint32, ranks and places in the text;
# of their stretches, where the rest of each begins among them, and with what token.
_TAKEN, _HEAD, _QUEUED, _GAPS, _STRETCHES, _NODES, _DEPTH = range(7)
_QUEUE, _GAP, _STRETCH, _TOKENS, _RANKS, _STARTS, _RESTS = range(7, 14)
_WORK = 14

# Columns of the queue and of gaps. _KEY orders nodes: count, then the smallest token; equal ones
# are ordered by _PARENT. That of a gap is its count. Where the hits are: stretches [_FROM, _TO);
# or, of a node with one hit, the place _TO in the text of segment -1 - _FROM.
_KEY, _PARENT, _DEEP, _FROM, _TO = range(5)
_COLUMNS = 5

_MAX = 2**31 - 1  # of a token, and of a count
_NARROW = 4096  # hits of a gap that is read,
_FREQUENT = 512  # unless a node is known that occurs more often than this, and the gap does too


@compiled
def expand(
    table: Int64s, bounds: Int64s, offsets: Int64s, depth: int, nodes: int
) -> tuple[Any, Int64s, Int64s]:
    """The tries of what follows the suffixes of ranks ``bounds`` int64[B, S, 2].

    Best-first: the highest count, then the smallest token, then the earliest parent. A gap may
    hide a child as large as itself, so it is due before any node that is not larger. Only what
    lives counts.

    Args:
        offsets: int64[B]; tokens at the start of these suffixes that are not part of the tries.

    Returns:
        int32[3, B, nodes]: tokens, parents and counts; int64[B]: how many nodes; and int64[B]:
        how many hits.
    """
    found = np.empty((3, len(offsets), nodes), np.int32)
    sizes, totals = np.zeros(len(offsets), np.int64), np.zeros(len(offsets), np.int64)
    work, segments = np.zeros(_WORK, np.int64), len(table)
    work[_NODES], work[_DEPTH] = nodes, depth
    queue, gaps = np.empty((nodes + 1) * _COLUMNS, np.int64), np.empty(16 * _COLUMNS, np.int64)
    hits = _NARROW + segments  # a separator follows those of each stretch
    tokens, ranks = np.empty(hits, np.uint32), np.empty(hits, np.int64)
    starts, rests = np.empty(hits, np.int64), np.empty(3 * segments, np.int64)
    stretches = np.empty(3 * (2 * segments + _NARROW + 1), np.int64)
    for i in range(len(offsets)):
        work[_TAKEN] = work[_HEAD] = work[_QUEUED] = work[_GAPS] = work[_STRETCHES] = 0
        work[_STRETCH], work[_GAP] = stretches.ctypes.data, gaps.ctypes.data
        for segment, (low, high) in enumerate(bounds[i]):
            totals[i] += _live(table, segment, low, high)
            _add_stretch(work, segment, low, high)
        _add_gap(work, totals[i], -1, 0, 0, work[_STRETCHES])
        while True:  # addresses do not keep arrays: these are named wherever they are used
            work[_STRETCH], work[_GAP] = stretches.ctypes.data, gaps.ctypes.data
            work[_QUEUE], work[_TOKENS] = queue.ctypes.data, tokens.ctypes.data
            work[_RANKS], work[_STARTS] = ranks.ctypes.data, starts.ctypes.data
            work[_RESTS] = rests.ctypes.data
            if _grow(table, work, offsets[i], found, i, len(gaps) // _COLUMNS, len(stretches)):
                break
            gaps, stretches = _doubled(gaps), _doubled(stretches)
        sizes[i] = work[_TAKEN]
    return found, sizes, totals


@compiled
def _doubled(array: Int64s) -> Int64s:  # by a loop: slices take seconds to compile
    more = np.empty(2 * len(array), np.int64)
    for i in range(len(array)):
        more[i] = array[i]
    return more


@compiled
def _grow(
    table: Int64s, work: Int64s, offset: int, found: Any, answer: int, gaps: int, stretches: int
) -> bool:
    """Takes nodes until there are enough or no more; false if first there must be more memory."""
    queue = int64s_at(work[_QUEUE])
    while work[_TAKEN] < work[_NODES]:
        taken, head = work[_TAKEN], work[_HEAD] * _COLUMNS
        best = queue[head + _KEY] >> 32 if work[_QUEUED] > 0 else 0
        gap = (work[_GAPS] - 1) * _COLUMNS
        widest = int64s_at(work[_GAP])[gap + _KEY] if work[_GAPS] > 0 else 0
        if widest >= max(best, 1):
            read = widest <= (_NARROW if best <= _FREQUENT else _FREQUENT)
            need = 3 * (widest if read else 3 * len(table)) + 3
            if work[_GAPS] + 2 > gaps or work[_STRETCHES] + need > stretches:
                return False
            work[_GAPS] -= 1
            if read:
                _read(table, work, gap, offset)
            else:
                _cut(table, work, gap, offset)
        elif work[_QUEUED] > 0:
            found[0, answer, taken] = _MAX - (queue[head + _KEY] & _MAX)
            found[1, answer, taken] = queue[head + _PARENT]
            found[2, answer, taken] = best
            work[_TAKEN] += 1
            work[_HEAD] += 1
            work[_QUEUED] -= 1
            depth, first, last = queue[head + _DEEP], queue[head + _FROM], queue[head + _TO]
            if depth < work[_DEPTH] and first >= 0:
                _add_gap(work, best, taken, depth, first, last)
            elif depth < work[_DEPTH]:
                token = np.int64(uint32s_at(table[-1 - first, _TEXT])[last])
                if token != SEPARATOR:
                    _enqueue(work, 1, token, taken, depth + 1, first, last + 1)
        else:
            break
    return True


# --- gaps -------------------------------------------------------------------------------------


@compiled
def _add_stretch(work: Int64s, segment: int, low: int, high: int) -> None:
    """Adds a stretch unless it is empty."""
    stretches, used = int64s_at(work[_STRETCH]), work[_STRETCHES]
    stretches[used], stretches[used + 1], stretches[used + 2] = segment, low, high
    work[_STRETCHES] += 3 * (low < high)


@compiled
def _add_gap(work: Int64s, count: int, parent: int, depth: int, first: int, last: int) -> None:
    """Adds a gap unless it is empty."""
    gaps, at = int64s_at(work[_GAP]), work[_GAPS]
    while at > 0 and gaps[(at - 1) * _COLUMNS + _KEY] > count > 0:
        _copy(gaps, at - 1, at)
        at -= 1
    _set(gaps, at, count, parent, depth, first, last)
    work[_GAPS] += count > 0


@compiled
def _cut(table: Int64s, work: Int64s, gap: int, offset: int) -> None:
    """Puts the child in the middle of a gap into the queue, and what is left back."""
    gaps, stretches = int64s_at(work[_GAP]), int64s_at(work[_STRETCH])
    parent, depth, first, last = gaps[gap + 1], gaps[gap + 2], gaps[gap + 3], gaps[gap + 4]
    widest = first
    for at in range(first, last, 3):
        if stretches[at + 2] - stretches[at + 1] > stretches[widest + 2] - stretches[widest + 1]:
            widest = at
    middle = (stretches[widest + 1] + stretches[widest + 2]) >> 1
    token = _token(table, stretches[widest], middle, offset + depth)
    for part in range(3):
        begin, count = work[_STRETCHES], 0
        for at in range(first, last, 3):
            segment, low, high = stretches[at], stretches[at + 1], stretches[at + 2]
            if part < 2:  # the middle itself is known: whatever a file holds, a gap gets smaller
                bottom = middle + 1 if at == widest and part == 1 else low
                top = middle if at == widest and part == 0 else high
                high = _first(table, segment, bottom, top, offset + depth, token + part)
                stretches[at + 1] = high
            _add_stretch(work, segment, low, high)
            count += _live(table, segment, low, high)
        if part != 1:
            _add_gap(work, count, parent, depth, begin, work[_STRETCHES])
        elif token != SEPARATOR:  # behind it the document has ended
            _enqueue(work, count, token, parent, depth + 1, begin, work[_STRETCHES])


@compiled
def _first(table: Int64s, segment: int, low: int, high: int, offset: int, token: int) -> int:
    """The first rank in [low, high) with ``token`` or above at ``offset``, else ``high``."""
    while low < high:
        middle = (low + high) >> 1
        below = _token(table, segment, middle, offset) < token
        low, high = (middle + 1, high) if below else (low, middle)
    return low


@compiled
def _token(table: Int64s, segment: int, rank: int, offset: int) -> Any:
    """int64: the token ``offset`` behind the start of the suffix at ``rank``."""
    start = np.int64(uint32s_at(table[segment, _SUFFIXES])[rank])
    return np.int64(uint32s_at(table[segment, _TEXT])[start + offset])


@compiled
def _read(table: Int64s, work: Int64s, gap: int, offset: int) -> None:
    """Puts all children of a gap into the queue."""
    gaps, stretches = int64s_at(work[_GAP]), int64s_at(work[_STRETCH])
    parent, depth, first, last = gaps[gap + 1], gaps[gap + 2], gaps[gap + 3], gaps[gap + 4]
    tokens, ranks = uint32s_at(work[_TOKENS]), int64s_at(work[_RANKS])
    starts, rests, end = int64s_at(work[_STARTS]), int64s_at(work[_RESTS]), 0
    for at in range(first, last, 3):
        segment, begin = stretches[at], end
        suffixes, text = uint32s_at(table[segment, _SUFFIXES]), uint32s_at(table[segment, _TEXT])
        for rank in range(stretches[at + 1], stretches[at + 2]):
            ranks[end], starts[end] = rank, np.int64(suffixes[rank]) + offset + depth
            end += _live(table, segment, rank, rank + 1)
        for i in range(begin, end):
            tokens[i] = text[starts[i]]
        tokens[end] = SEPARATOR
        rests[at - first], rests[at - first + 1] = begin, np.int64(tokens[begin])
        end += 1
    token = 0
    while token != SEPARATOR:
        token = SEPARATOR
        for i in range(1, last - first, 3):
            token = min(token, rests[i])
        _take_run(work, token, parent, depth + 1, first, last)


@compiled
def _take_run(work: Int64s, token: int, parent: int, depth: int, first: int, last: int) -> None:
    """Moves the hits of a gap that go on with ``token``, first in their rests, into the queue."""
    stretches, rests = int64s_at(work[_STRETCH]), int64s_at(work[_RESTS])
    tokens, ranks = uint32s_at(work[_TOKENS]), int64s_at(work[_RANKS])
    begin, count, segment, start = work[_STRETCHES], 0, 0, 0
    for i in range(0, last - first, 3):
        if rests[i + 1] == token != SEPARATOR:
            low = at = rests[i]
            while tokens[at] == token:
                at += 1
            segment, start = stretches[first + i], int64s_at(work[_STARTS])[low]
            _add_stretch(work, segment, ranks[low], ranks[at - 1] + 1)
            count += at - low
            rests[i], rests[i + 1] = at, np.int64(tokens[at])
    if count == 1:
        _enqueue(work, 1, token, parent, depth, -1 - segment, start + 1)
    if count == 1 or not _enqueue(work, count, token, parent, depth, begin, work[_STRETCHES]):
        work[_STRETCHES] = begin


# --- the queue --------------------------------------------------------------------------------


@compiled
def _enqueue(
    work: Int64s, count: int, token: Any, parent: int, depth: int, first: int, last: int
) -> bool:
    """Adds a node, unless it is empty or as many better ones wait as can still be taken."""
    queue, head, queued = int64s_at(work[_QUEUE]), work[_HEAD], work[_QUEUED]
    key = (min(count, _MAX) << 32) | (_MAX - token)
    full = queued == work[_NODES] - work[_TAKEN]
    if count == 0 or (full and not _before(queue, key, parent, head + queued - 1)):
        return False
    queued -= full
    at = head + queued
    if head > 0 and queued > 0 and _before(queue, key, parent, head):
        head -= 1  # where a node was just taken: most are its only children
        at = head
    while at > head and _before(queue, key, parent, at - 1):
        _copy(queue, at - 1, at)
        at -= 1
    _set(queue, at, key, parent, depth, first, last)
    work[_HEAD], work[_QUEUED] = head, queued + 1
    return True


@compiled
def _set(rows: Any, at: int, key: int, parent: int, depth: int, first: int, last: int) -> None:
    for column, value in enumerate((key, parent, depth, first, last)):
        rows[at * _COLUMNS + column] = value


@compiled
def _copy(rows: Any, source: int, target: int) -> None:
    for column in range(_COLUMNS):
        rows[target * _COLUMNS + column] = rows[source * _COLUMNS + column]


@compiled
def _before(queue: Any, key: int, parent: int, at: int) -> Any:
    other = queue[at * _COLUMNS + _KEY]
    return key > other or (key == other and parent < queue[at * _COLUMNS + _PARENT])


@compiled
def _live(table: Int64s, segment: int, low: int, high: int) -> Any:
    """int64: how many suffixes in [low, high) live."""
    blocks = table[segment, _LIVE]
    return living_below(blocks, high) - living_below(blocks, low) if blocks else high - low
