"""Goodness of fit without scipy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def chi_square_excess(observed: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    """How far counts are from what is expected, as a standard normal deviate.

    Pearson's statistic over cells expected at least 5 times (the rest pooled), made normal by
    Wilson and Hilferty's cube root. Above 3.3 a fair sample comes once in 2,000 times.
    """
    large = expected >= 5
    seen = np.append(observed[large], observed[~large].sum()).astype(float)
    want = np.append(expected[large], expected[~large].sum())
    if want[-1] < 5:  # too few to count as a cell of its own; nothing impossible may appear
        if seen[-1] > 5 * (want[-1] + 1):
            return math.inf
        seen, want = seen[:-1], want[:-1]
    statistic = float(((seen - want) ** 2 / want).sum())
    df = len(want) - 1
    return float(((statistic / df) ** (1 / 3) - (1 - 2 / (9 * df))) / math.sqrt(2 / (9 * df)))
