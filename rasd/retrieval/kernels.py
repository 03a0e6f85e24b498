"""The hot loops over suffix arrays, compiled.

A *table* int64[S, 3] names the segments: the address of their tokens (uint32), the address of
their suffixes (int32) and how many suffixes there are. Addresses, because compiled code cannot
take a list of arrays whose length is known only at run time. Whoever makes a table keeps the
arrays alive, ends each text in a separator, and holds only suffixes that start inside it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from rasd.retrieval.jit import compiled
from rasd.retrieval.segment import SEPARATOR
from rasd.tree import Int32s

Int64s = NDArray[np.int64]

_TEXT, _SUFFIXES, _LENGTH = 0, 1, 2

_MAX: Final = 2**31 - 1  # of a token, and of a count
_GAP: Final = 2**31
_KEY, _PARENT, _DEPTH, _BOUNDS = 0, 1, 2, 3


def address(array: NDArray[Any]) -> int:
    """Where the array lies, for a table."""
    return int(array.__array_interface__["data"][0])


def warm_up() -> None:
    """Compiles, or loads what was compiled before; the first call is then as quick as others."""
    table, bounds = np.zeros((0, 3), np.int64), np.zeros((0, 2), np.int64)
    longest(table, np.zeros(0, np.int32), 1)
    expand(table, bounds, 0, 1, 1)


@intrinsic  # type: ignore[untyped-decorator]
def _words(context: Any, address: Any) -> Any:
    """An address as a pointer to uint32."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint32)(types.int64), code


@compiled
def _token(table: Int64s, segment: int, rank: int, offset: int) -> Any:
    """int64: the token ``offset`` behind the start of the suffix at ``rank``."""
    start = np.int64(_words(table[segment, _SUFFIXES])[rank])
    return np.int64(_words(table[segment, _TEXT])[start + offset])


# --- the longest suffix with a hit ------------------------------------------------------------


@compiled
def longest(table: Int64s, tail: Int32s, shortest: int) -> tuple[int, Int64s]:
    """The longest suffix of ``tail`` that some segment holds with a token behind it, and where.

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
            rank = _bound(table, segment, query, 0, table[segment, _LENGTH], 0)
            if rank < table[segment, _LENGTH] and _goes_on(table, segment, rank, query):
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
def _goes_on(table: Int64s, segment: int, rank: int, query: Int32s) -> bool:
    """Whether the suffix starts with ``query`` and its document does not end there.

    Separators sort last: where the first of a range meets one, all of the range does.
    """
    if _compare(table, segment, rank, query) != 0:
        return False
    return _token(table, segment, rank, len(query)) != SEPARATOR  # type: ignore[no-any-return]


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
    child in its middle is cut out, which leaves two smaller gaps. Hits are never walked.

    Returns:
        int32[3, M]: tokens, parents and counts of M <= nodes nodes; and the number of hits.
    """
    entries = np.empty((4 * nodes + 8, _BOUNDS + bounds.size), np.int64)
    heap = np.empty(len(entries), np.int64)
    total = 0
    for i in range(len(bounds)):
        total += bounds[i, 1] - bounds[i, 0]
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
    widest = _BOUNDS
    for at in range(_BOUNDS, entries.shape[1], 2):
        if _width(entries, gap, at) > _width(entries, gap, widest):
            widest = at
    middle = (entries[gap, widest] + entries[gap, widest + 1]) >> 1
    token = _token(table, (widest - _BOUNDS) >> 1, middle, offset)
    sizes = np.zeros(3, np.int64)
    for at in range(_BOUNDS, entries.shape[1], 2):
        segment, low, high = (at - _BOUNDS) >> 1, entries[gap, at], entries[gap, at + 1]
        first = _first(table, segment, low, high, offset, token)
        last = _first(table, segment, first, high, offset, token + 1)
        entries[smaller, at], entries[smaller, at + 1] = low, first
        entries[gap, at], entries[gap, at + 1] = first, last
        entries[larger, at], entries[larger, at + 1] = last, high
        sizes[0] += first - low
        sizes[1] += last - first
        sizes[2] += high - last
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
def _width(entries: Int64s, entry: int, at: int) -> int:
    return entries[entry, at + 1] - entries[entry, at]  # type: ignore[no-any-return]


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
