"""Which documents of a segment still count, asked by ranges of its suffix array.

Block ``i`` stands for the suffixes of rank 64 i to 64 i + 63 and holds two uint64: how many live
before it, and one bit for each of them, the lowest for the first. Both lie in one line of a
cache, so a range is counted by two reads, whatever its width. A quarter of a byte per token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rasd.errors import InvalidRequest
from rasd.jit import compiled
from rasd.retrieval.segment import SEPARATOR, Int64s, IntArray, Segment, UInt32s
from rasd.tree import Int32s

UInt64s = NDArray[np.uint64]

_LOOKUP: Final = 2048
"""Suffixes that are read off in the time that one is looked up."""
_STEPS: Final = 0.5
"""Steps along equal suffixes that looking up may take, for each suffix of the segment."""


@dataclass(frozen=True, slots=True)
class Live:
    """The living part of a segment. Immutable.

    Attributes:
        blocks: uint64[T // 64 + 1, 2], read-only; see above.
        documents, tokens: how many live.
        dead: int64[K], ordinals of the other documents, in order.
    """

    blocks: UInt64s
    documents: int
    tokens: int
    dead: Int64s

    @classmethod
    def without(cls, segment: Segment, dead: IntArray, before: Live | None = None) -> Live:
        """All but the documents int[n] named by their ordinals; naming one twice changes nothing.

        Reads the suffix array once. Where few tokens died, they are looked up in it instead:
        some microseconds each. Neither holds the GIL.

        Args:
            before: of the same segment, when some of the dead lived; only those are looked up.

        Raises:
            InvalidRequest: there is no such document.
        """
        count = len(segment.documents)
        gone = np.unique(np.asarray(dead, np.int64))
        if len(gone) and not 0 <= int(gone[0]) <= int(gone[-1]) < count:
            raise InvalidRequest(f"ordinals must be in [0, {count}); got {gone[0]} to {gone[-1]}")
        if before is None or not np.isin(before.dead, gone, assume_unique=True).all():
            before, fresh = None, gone
        else:
            fresh = np.setdiff1d(gone, before.dead, assume_unique=True)
        blocks = _looked_up(segment, fresh, before)
        if blocks is None:
            blocks = _read_off(segment, gone)
        tokens = _count(blocks)
        blocks.setflags(write=False)
        return cls(blocks, count - len(gone), tokens, gone)


def _spans(segment: Segment, ordinals: Int64s) -> Int64s:
    """int64[n, 2]: where the documents' tokens start and end, without the separator."""
    ends = np.append(segment.documents[1:], len(segment.tokens)) - 1
    return np.stack([segment.documents[ordinals], ends[ordinals]], axis=1).astype(np.int64)


def _looked_up(segment: Segment, fresh: Int64s, before: Live | None) -> UInt64s | None:
    """The blocks before, without the documents ``fresh``; None if that would take too long."""
    spans = _spans(segment, fresh)
    suffixes = len(segment.suffixes)
    if _LOOKUP * int((spans[:, 1] - spans[:, 0]).sum()) > suffixes:
        return None
    if before is None:
        blocks = np.full((suffixes // 64 + 1, 2), ~np.uint64(0))
        blocks[-1, 1] = (1 << suffixes % 64) - 1
    else:
        blocks = before.blocks.copy()
    found = _clear(segment.tokens, segment.suffixes, spans, blocks, int(_STEPS * suffixes))
    return blocks if found else None


def _read_off(segment: Segment, gone: Int64s) -> UInt64s:
    """The blocks without the documents ``gone``."""
    marks = np.zeros(len(segment.tokens) // 64 + 1, np.uint64)
    groups = np.zeros(len(marks) // 64 + 1, np.uint64)
    _mark(_spans(segment, gone), marks, groups)
    blocks = np.zeros((len(segment.suffixes) // 64 + 1, 2), np.uint64)
    _fill(segment.suffixes, marks, groups, blocks)
    return blocks


@compiled
def _count(blocks: UInt64s) -> int:
    """Writes how many live before each block; returns how many do in all."""
    living = np.int64(0)
    for block in range(len(blocks)):
        blocks[block, 0] = living
        word = blocks[block, 1]  # its ones, added up in pairs, fours, eights and all together
        word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
        fours = np.uint64(0x3333333333333333)
        word = (word & fours) + ((word >> np.uint64(2)) & fours)
        word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
        living += np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))
    return int(living)


# --- by reading all ---------------------------------------------------------------------------


@compiled
def _mark(spans: Int64s, marks: UInt64s, groups: UInt64s) -> None:
    """Sets a bit for each place in the spans, and one for each 64 places with any."""
    for row in range(len(spans)):
        for place in range(spans[row, 0], spans[row, 1]):
            marks[place >> 6] |= np.uint64(1) << np.uint64(place & 63)
            groups[place >> 12] |= np.uint64(1) << np.uint64((place >> 6) & 63)


@compiled
def _fill(suffixes: Int32s, marks: UInt64s, groups: UInt64s, blocks: UInt64s) -> None:
    """Writes a bit for each suffix whose place is not marked.

    Places come in no order; the groups fit a cache, and say enough about most of them.
    """
    for block in range(len(blocks)):
        word = np.uint64(0)
        for rank in range(64 * block, min(64 * block + 64, len(suffixes))):
            place = suffixes[rank]
            dead = groups[place >> 12] >> np.uint64((place >> 6) & 63)
            if dead & np.uint64(1):
                dead = marks[place >> 6] >> np.uint64(place & 63)
            word |= (~dead & np.uint64(1)) << np.uint64(rank & 63)
        blocks[block, 1] = word


# --- by looking up ----------------------------------------------------------------------------


@compiled
def _clear(tokens: UInt32s, suffixes: Int32s, spans: Int64s, blocks: UInt64s, steps: int) -> bool:
    """Clears the bits of suffixes that start in the spans; false if it takes more steps.

    It takes many where documents repeat each other: then suffixes are equal for long.
    """
    for row in range(len(spans)):
        for place in range(spans[row, 0], spans[row, 1]):
            low, high = 0, len(suffixes)
            while low < high:
                middle = (low + high) >> 1
                one, other = np.int64(suffixes[middle]), np.int64(place)
                while tokens[one] == tokens[other] and tokens[one] != SEPARATOR:
                    one, other, steps = one + 1, other + 1, steps - 1
                if steps < 0:
                    return False
                if tokens[one] < tokens[other]:
                    low = middle + 1
                else:
                    high = middle
            while low < len(suffixes) and suffixes[low] != place:  # those that end as this does
                low, steps = low + 1, steps - 1
            if low == len(suffixes) or steps < 0:
                return False
            blocks[low >> 6, 1] &= ~(np.uint64(1) << np.uint64(low & 63))
    return True
