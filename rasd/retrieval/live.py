"""Which documents of a segment still count, asked by ranges of its suffix array.

Block ``i`` stands for the suffixes of rank 64 i to 64 i + 63 and holds two uint64: how many live
before it, and one bit for each of them, the lowest for the first. Both lie in one line of a
cache, so a range is counted by two reads, whatever its width. A quarter of a byte per token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rasd.errors import InvalidRequest
from rasd.jit import compiled
from rasd.retrieval.segment import IntArray, Segment
from rasd.tree import Bools, Int32s

UInt64s = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Live:
    """The living part of a segment. Immutable.

    Attributes:
        blocks: uint64[T // 64 + 1, 2], read-only; see above.
        documents, tokens: how many live.
    """

    blocks: UInt64s
    documents: int
    tokens: int

    @classmethod
    def without(cls, segment: Segment, dead: IntArray) -> Live:
        """All but the documents int[n] named by their ordinals; naming one twice changes nothing.

        Reads the suffix array once, without the GIL.

        Raises:
            InvalidRequest: there is no such document.
        """
        count = len(segment.documents)
        gone = np.unique(np.asarray(dead, np.int64))
        if len(gone) and not 0 <= int(gone[0]) <= int(gone[-1]) < count:
            raise InvalidRequest(f"ordinals must be in [0, {count}); got {gone[0]} to {gone[-1]}")
        ends = np.append(segment.documents[1:], len(segment.tokens))
        marks = np.zeros(len(segment.tokens), np.bool_)
        for ordinal in gone.tolist():
            marks[segment.documents[ordinal] : ends[ordinal]] = True
        blocks = np.zeros((len(segment.suffixes) // 64 + 1, 2), np.uint64)
        tokens = _fill(segment.suffixes, marks, blocks)
        blocks.setflags(write=False)
        return cls(blocks, count - len(gone), tokens)


@compiled
def _fill(suffixes: Int32s, dead: Bools, blocks: UInt64s) -> int:
    """Writes the blocks; returns how many suffixes live."""
    living = 0
    for block in range(len(blocks)):
        blocks[block, 0] = living
        word = np.uint64(0)
        for rank in range(64 * block, min(64 * block + 64, len(suffixes))):
            if not dead[suffixes[rank]]:
                word |= np.uint64(1) << np.uint64(rank & 63)
                living += 1
        blocks[block, 1] = word
    return living
