"""What compiled code knows of segments, and its compilation.

A *table* int64[S, 6] names the segments: the address of the tokens (uint32), the address of the
suffixes (int32) and how many there are, the address of the blocks that say which of them live
(see `rasd.retrieval.live`) or 0 if all do, the address of the keys (uint64) and the bits of a
token in them. Whoever makes a table keeps the arrays alive. Keys end in one above all, texts in
a separator. Where suffixes may be wrong, as in a damaged file, they start inside the text, and
memory goes on for `REACH` bytes behind it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rasd.retrieval.kernels_suffix import longest, occurrences
from rasd.retrieval.kernels_trie import expand
from rasd.retrieval.live import Live
from rasd.retrieval.segment import Segment

Int64s = NDArray[np.int64]

COLUMNS = 6


def address(array: NDArray[Any]) -> int:
    """Where the array lies, for a table."""
    return int(array.__array_interface__["data"][0])


def row(segment: Segment, live: Live | None) -> tuple[int, ...]:
    """The segment in a table."""
    return (
        address(segment.tokens),
        address(segment.suffixes),
        len(segment.suffixes),
        0 if live is None else address(live.blocks),
        address(segment.keys),
        segment.header.vocabulary.bit_length(),
    )


def warm_up() -> None:
    """Compiles, or loads what was compiled before; the first call is then as quick as others."""
    table, none = np.zeros((0, COLUMNS), np.int64), np.zeros(0, np.int64)
    matched, bounds = longest(table, np.zeros(0, np.int32), none, 1)
    expand(table, bounds, matched, 1, 1)
    occurrences(table, np.zeros(0, np.int32), none)
