"""The hot loops over suffix arrays, compiled.

A *table* int64[S, 4] names the segments: the address of their tokens (uint32), the address of
their suffixes (int32), how many suffixes there are, and the address of the blocks that say which
of them live (see `rasd.retrieval.live`), or 0 if all do. Addresses, because compiled code cannot
take a list of arrays whose length is known only at run time. Whoever makes a table keeps the
arrays alive, ends each text in a separator, and holds only suffixes that start inside it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from rasd.jit import compiled
from rasd.retrieval.segment import SEPARATOR
from rasd.tree import Int32s

Int64s = NDArray[np.int64]

_TEXT, _SUFFIXES, _LENGTH, _LIVE = 0, 1, 2, 3

_MAX: Final = 2**31 - 1  # of a token, and of a count
_GAP: Final = 2**31
_KEY, _PARENT, _DEPTH, _BOUNDS = 0, 1, 2, 3


def address(array: NDArray[Any]) -> int:
    """Where the array lies, for a table."""
    return int(array.__array_interface__["data"][0])


def warm_up() -> None:
    """Compiles, or loads what was compiled before; the first call is then as quick as others."""
    table, bounds = np.zeros((0, 4), np.int64), np.zeros((0, 2), np.int64)
    longest(table, np.zeros(0, np.int32), 1)
    expand(table, bounds, 0, 1, 1)
    occurrence(table, np.zeros(0, np.int32))


@intrinsic  # type: ignore[untyped-decorator]
def _words(context: Any, address: Any) -> Any:
    """An address as a pointer to uint32."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint32)(types.int64), code


@intrinsic  # type: ignore[untyped-decorator]
def _blocks(context: Any, address: Any) -> Any:
    """An address as a pointer to uint64."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint64)(types.int64), code


@intrinsic  # type: ignore[untyped-decorator]
def _ones(context: Any, word: Any) -> Any:
    """How many bits of a uint64 are set."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), code


@compiled
def _live(table: Int64s, segment: int, low: int, high: int) -> Any:
    """int64: how many suffixes in [low, high) live."""
    if table[segment, _LIVE] == 0:
        return high - low
    return _live_below(table, segment, high) - _live_below(table, segment, low)


@compiled
def _live_below(table: Int64s, segment: int, rank: int) -> Any:
    blocks = _blocks(table[segment, _LIVE])
    word = blocks[(rank >> 6) * 2 + 1] & ((np.uint64(1) << np.uint64(rank & 63)) - np.uint64(1))
    return np.int64(blocks[(rank >> 6) * 2]) + np.int64(_ones(word))


@compiled
def _middle(table: Int64s, segment: int, low: int, high: int) -> int:
    """The rank of a live suffix with as many live ones before it as behind, at least one there."""
    if table[segment, _LIVE] == 0:
        return (low + high) >> 1
    wanted = _live_below(table, segment, low) + (_live(table, segment, low, high) >> 1)
    while high - low > 1:
        middle = (low + high) >> 1
        if _live_below(table, segment, middle) <= wanted:
            low = middle
        else:
            high = middle
    return low


@compiled
def _token(table: Int64s, segment: int, rank: int, offset: int) -> Any:
    """int64: the token ``offset`` behind the start of the suffix at ``rank``."""
    start = np.int64(_words(table[segment, _SUFFIXES])[rank])
    return np.int64(_words(table[segment, _TEXT])[start + offset])


# --- the longest suffix with a hit ------------------------------------------------------------


@compiled
def longest(table: Int64s, tail: Int32s, shortest: int) -> tuple[int, Int64s]:
    """The longest suffix of ``tail`` that lives in some segment with a token behind it, and where.

    Returns:
        Its length, 0 if it is below ``shortest``, and bounds int64[S, 2]: per segment the first
        rank that starts with it and the one behind the last.
    """
    known = 0  # a negative id occurs nowhere
    while known < len(tail) and tail[len(tail) - 1 - known] >= 0:
        known += 1
    found = max(shortest, 1) - 1
    for segment in range(len(table)):
        above, step = known + 1, 1
        while above - found > 1:  # what holds a text holds its suffixes: double, then halve
            middle = found + min(step, (above - found) >> 1)
            query = tail[len(tail) - middle :]
            if _goes_on(table, segment, query):
                found, step = middle, 2 * step
            else:
                above = middle
    bounds = np.zeros((len(table), 2), np.int64)
    if found < max(shortest, 1):
        return 0, bounds
    query = tail[len(tail) - found :]
    for segment in range(len(table)):
        low = _bound(table, segment, query, 0, table[segment, _LENGTH], 0)
        bounds[segment, 0], bounds[segment, 1] = low, _end(table, segment, query, low)
    return found, bounds


@compiled
def _goes_on(table: Int64s, segment: int, query: Int32s) -> bool:
    """Whether a live suffix starts with ``query`` and its document does not end there.

    Separators sort last: where the first of a range meets one, all of the range does.
    """
    low = _bound(table, segment, query, 0, table[segment, _LENGTH], 0)
    if low == table[segment, _LENGTH] or _compare(table, segment, low, query) != 0:
        return False
    if table[segment, _LIVE] == 0:
        return _token(table, segment, low, len(query)) != SEPARATOR  # type: ignore[no-any-return]
    high = _end(table, segment, query, low)
    high = _first(table, segment, low, high, len(query), SEPARATOR)
    return _live(table, segment, low, high) > 0  # type: ignore[no-any-return]


@compiled
def occurrence(table: Int64s, query: Int32s) -> tuple[Any, Any]:
    """A segment with a living ``query``, and where one starts in it; -1 and -1 if there is none."""
    for segment in range(len(table)):
        low = _bound(table, segment, query, 0, table[segment, _LENGTH], 0)
        high = _end(table, segment, query, low)
        if _live(table, segment, low, high) > 0:
            rank = _middle(table, segment, low, high)
            return segment, np.int64(_words(table[segment, _SUFFIXES])[rank])
    return -1, -1


@compiled
def _end(table: Int64s, segment: int, query: Int32s, low: int) -> int:
    """The first rank from ``low`` on that does not start with ``query``; most are near."""
    high, step = low, 1
    while high < table[segment, _LENGTH] and _compare(table, segment, high, query) == 0:
        low, high, step = high + 1, high + step, 2 * step
    return _bound(table, segment, query, low, min(high, table[segment, _LENGTH]), 1)


@compiled
def _bound(table: Int64s, segment: int, query: Int32s, low: int, high: int, order: int) -> int:
    """The first rank in [low, high) that compares with ``query`` as ``order`` or above."""
    while low < high:
        middle = (low + high) >> 1
        if _compare(table, segment, middle, query) < order:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _compare(table: Int64s, segment: int, rank: int, query: Int32s) -> int:
    """0 if the suffix starts with ``query``, -1 if it sorts before, 1 if behind."""
    for i in range(len(query)):  # ends at a separator at the latest: no query holds one
        token = _token(table, segment, rank, i)
        if token != query[i]:
            return -1 if token < query[i] else 1
    return 0


# --- the trie of continuations ----------------------------------------------------------------

# The frontier is a heap of entries: *nodes* found but not yet taken, and *gaps*, stretches of
# ranks with a taken prefix that nobody has looked at. From _BOUNDS on an entry holds, per
# segment, its first rank and the one behind its last. _KEY orders the heap: count, then gaps
# before nodes, then the smallest token; equal keys are ordered by _PARENT.


@compiled
def expand(
    table: Int64s, bounds: Int64s, matched: int, depth: int, nodes: int
) -> tuple[Int32s, int]:
    """The trie of what follows ``matched`` tokens at the ranks ``bounds`` int64[S, 2].

    Best-first: the highest count, then the smallest token, then the earliest parent. A gap may
    hide a child as large as itself, so it is due before any node that is not larger; then the
    child in its middle is cut out, which leaves two smaller gaps. Hits are never walked. Only
    live ones count.

    Returns:
        int32[3, M]: tokens, parents and counts of M <= nodes nodes; and the number of hits.
    """
    entries = np.empty((4 * nodes + 8, _BOUNDS + bounds.size), np.int64)
    heap = np.empty(len(entries), np.int64)
    total = 0
    for i in range(len(bounds)):
        total += _live(table, i, bounds[i, 0], bounds[i, 1])
        entries[0, _BOUNDS + 2 * i], entries[0, _BOUNDS + 2 * i + 1] = bounds[i]
    entries[0, _KEY], entries[0, _PARENT], entries[0, _DEPTH] = _key(total, _GAP), -1, 0
    size, used, taken = _push(entries, heap, 0, 0), 1, 0
    found = np.empty((3, nodes), np.int32)
    while size > 0 and taken < nodes:
        entry = heap[0]
        size = _pop(entries, heap, size)
        if entries[entry, _KEY] & _GAP:
            if used + 2 > len(heap):
                entries, heap = _doubled(entries, heap)
            _split(table, entries, entry, used, matched)
            size = _push(entries, heap, size, used)
            size = _push(entries, heap, size, used + 1)
            used += 2
        else:
            found[0, taken] = _MAX - (entries[entry, _KEY] & _MAX)
            found[1, taken] = entries[entry, _PARENT]
            found[2, taken] = entries[entry, _KEY] >> 32
            entries[entry, _PARENT] = taken
            entries[entry, _KEY] |= _GAP  # all that follows it
            taken += 1
        if entries[entry, _DEPTH] < depth or not entries[entry, _KEY] & _GAP:
            size = _push(entries, heap, size, entry)
    return found[:, :taken], total


@compiled
def _split(table: Int64s, entries: Int64s, gap: int, smaller: int, matched: int) -> None:
    """Turns a gap into the child in its middle; ``smaller`` and the next become what is left."""
    larger, offset = smaller + 1, matched + entries[gap, _DEPTH]
    widest, most = _BOUNDS, 0
    for at in range(_BOUNDS, entries.shape[1], 2):
        count = _live(table, (at - _BOUNDS) >> 1, entries[gap, at], entries[gap, at + 1])
        if count > most:
            widest, most = at, count
    segment = (widest - _BOUNDS) >> 1
    middle = _middle(table, segment, entries[gap, widest], entries[gap, widest + 1])
    token = _token(table, segment, middle, offset)
    sizes = np.zeros(3, np.int64)
    for at in range(_BOUNDS, entries.shape[1], 2):
        segment, low, high = (at - _BOUNDS) >> 1, entries[gap, at], entries[gap, at + 1]
        first = _first(table, segment, low, high, offset, token)
        last = _first(table, segment, first, high, offset, token + 1)
        entries[smaller, at], entries[smaller, at + 1] = low, first
        entries[gap, at], entries[gap, at + 1] = first, last
        entries[larger, at], entries[larger, at + 1] = last, high
        sizes[0] += _live(table, segment, low, first)
        sizes[1] += _live(table, segment, first, last)
        sizes[2] += _live(table, segment, last, high)
    for entry in (smaller, larger):
        entries[entry, _PARENT], entries[entry, _DEPTH] = (
            entries[gap, _PARENT],
            entries[gap, _DEPTH],
        )
    entries[smaller, _KEY], entries[larger, _KEY] = _key(sizes[0], _GAP), _key(sizes[2], _GAP)
    # Behind a separator the document has ended.
    entries[gap, _KEY] = _key(sizes[1], _MAX - token) if token <= _MAX else 0
    entries[gap, _DEPTH] += 1


@compiled
def _key(count: int, low_bits: int) -> int:
    """Orders the heap; 0 if there is nothing."""
    return (min(count, _MAX) << 32) | low_bits if count > 0 else 0


@compiled
def _first(table: Int64s, segment: int, low: int, high: int, offset: int, token: int) -> int:
    """The first rank in [low, high) with ``token`` or above at ``offset``, else ``high``."""
    while low < high:
        middle = (low + high) >> 1
        if _token(table, segment, middle, offset) < token:
            low = middle + 1
        else:
            high = middle
    return low


# --- the heap ---------------------------------------------------------------------------------


@compiled
def _before(entries: Int64s, one: int, other: int) -> bool:
    if entries[one, _KEY] != entries[other, _KEY]:
        return entries[one, _KEY] > entries[other, _KEY]  # type: ignore[no-any-return]
    return entries[one, _PARENT] < entries[other, _PARENT]  # type: ignore[no-any-return]


@compiled
def _push(entries: Int64s, heap: Int64s, size: int, entry: int) -> int:
    """Adds an entry unless it is empty; returns the new size."""
    if entries[entry, _KEY] == 0:
        return size
    at = size
    while at > 0 and _before(entries, entry, heap[(at - 1) >> 1]):
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = entry
    return size + 1


@compiled
def _pop(entries: Int64s, heap: Int64s, size: int) -> int:
    """Drops the first entry; returns the new size."""
    size -= 1
    entry, at, child = heap[size], 0, 1
    while child < size:
        if child + 1 < size and _before(entries, heap[child + 1], heap[child]):
            child += 1
        if not _before(entries, heap[child], entry):
            break
        heap[at] = heap[child]
        at, child = child, 2 * child + 1
    heap[at] = entry
    return size


@compiled
def _doubled(entries: Int64s, heap: Int64s) -> tuple[Int64s, Int64s]:
    """Both with twice the rows. Loops, because slices take six seconds to compile."""
    rows, columns = entries.shape
    more, larger = np.empty((2 * rows, columns), np.int64), np.empty(2 * rows, np.int64)
    for row in range(rows):
        larger[row] = heap[row]
        for column in range(columns):
            more[row, column] = entries[row, column]
    return more, larger
