"""A document of a partition as one number, source above ordinal; and sorted arrays of those."""

from __future__ import annotations

import numpy as np

from rasd.retrieval.store.layout import Int64s
from rasd.tree import Bools


def name(source: int, ordinal: int) -> int:
    """The document ``ordinal`` of ``source``."""
    return source << 32 | ordinal


def names(pairs: Int64s) -> Int64s:
    """int64[K] for pairs of source and ordinal int64[K, 2], each in [0, 2**31)."""
    return (pairs[:, 0] << 32) | pairs[:, 1]


def united(parts: list[Int64s]) -> Int64s:
    """All names once, sorted."""
    return np.unique(np.concatenate([np.zeros(0, np.int64), *parts]))


def ordinals(known: Int64s, source: int, count: int) -> Int64s:
    """The ordinals below ``count`` of a source's documents among sorted names."""
    first, last = np.searchsorted(known, [name(source, 0), name(source, count)])
    return known[first:last] - name(source, 0)


def among(values: Int64s, known: Int64s) -> Bools:
    """bool[n]: which values int64[n] are in a sorted array."""
    if len(known) == 0:
        return np.zeros(len(values), np.bool_)
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.asarray(known[at] == values)
