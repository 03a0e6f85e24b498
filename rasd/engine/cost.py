"""What a call costs, learned from calls: seconds by size and by what it reads.

Measurements are noisy, and some are pauses of the machine: each moves the estimate a little, and
a pause no more than a slow call. The newest count most. Knows no stage and no clock.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rasd.engine import kernels_cost

Float64s = NDArray[np.float64]

SIZES: Final = np.asarray([1, 2, 3, *(base << i for i in range(11) for base in (4, 6))], np.float64)
"""Sizes that are kept; between them cost is a line, beyond the last it is in proportion."""

_READS: Final = 512
_COLUMNS: Final = 10
_UNKNOWN: Final = 0.05
_FADE: Final = 1 - 1 / 16  # of what is known of a token, with every step


class CostTable:
    """Seconds of a call of some size that reads some slots; never less for more size.

    A measurement moves its own entry, and others the more the less is known of them: what makes
    one size slower mostly makes all slower. Noise only adds time, so being faster counts double.

    Args:
        guess_s: of size 1, until something is measured.
        doubling: the size that is guessed to cost twice that.
        columns: 1 where nothing is read.
    """

    def __init__(self, guess_s: float, doubling: float, *, columns: int = _COLUMNS) -> None:
        row = guess_s * (1.0 + (SIZES - 1) / doubling)
        self._seconds = np.tile(row, (columns, 1))
        self._known = np.zeros(self._seconds.shape)  # measurements behind an entry, fading
        places = np.arange(len(SIZES))
        self._near = np.maximum(0.8 ** np.abs(places[:, None] - places[None, :]), 0.25)
        self._met = np.zeros(columns, np.bool_)  # columns with measurements
        self._curves: dict[int, Float64s] = {}
        self.measured = False

    def observe(self, size: float, slots: float, seconds: float) -> None:
        """One call took ``seconds``."""
        if size < 1 or seconds <= 0:
            return
        column = self._column(slots)
        if not self._met[column]:
            self._open(column)
        table = (self._seconds, self._known, self._met)
        kernels_cost.observe(
            table, SIZES, self._near, column, float(size), float(seconds), self.measured
        )
        self.measured = True
        self._curves.clear()

    def _open(self, column: int) -> None:
        """Begins with what is known of calls that read about as much."""
        if self.measured:
            known = self._nearest(column)
            self._seconds[column] = self._seconds[known]
            self._known[column] = self._known[known] / 4

    def curve(self, slots: float) -> Float64s:
        """float64[len(SIZES)]: seconds at `SIZES`, ascending."""
        column = self._column(slots)
        found = self._curves.get(column)
        if found is None:
            nearest = self._nearest(column)
            found = kernels_cost.ascending(self._seconds[nearest], self._known[nearest] + _UNKNOWN)
            self._curves[column] = found
        return found

    def one(self, size: float, slots: float = 0.0) -> float:
        """Seconds of a call of this size, at least 1."""
        return kernels_cost.one(self.curve(slots), SIZES, float(size))

    def _nearest(self, column: int) -> int:
        """The column itself or the nearest that was measured, the lower of two."""
        if self._met[column] or not self.measured:
            return column
        met = np.flatnonzero(self._met)
        return int(met[np.argmin(np.abs(met - column))])

    def _column(self, slots: float) -> int:
        return min(int(max(slots, 1) / _READS).bit_length(), len(self._seconds) - 1)


class Rate:
    """Seconds that a token took lately, by class of batch size; the newest steps count most.

    What a token is worth: where the text is hard just now a token gained often only comes sooner to
    where the next ones are cheap.
    """

    def __init__(self) -> None:
        self._sums: dict[int, tuple[float, float]] = {}  # tokens and seconds, fading

    def observe(self, gaining: int, tokens: int, seconds: float) -> None:
        """A step in which so many sequences gained ``tokens`` took ``seconds``."""
        if tokens <= 0 or seconds <= 0:
            return
        found, spent_s = self._sums.get(gaining.bit_length(), (0.0, 0.0))
        self._sums[gaining.bit_length()] = _FADE * found + tokens, _FADE * spent_s + seconds

    def token_s(self, gaining: int) -> float:
        """Seconds of one; infinite while nothing is known."""
        found, spent_s = self._sums.get(gaining.bit_length(), (0.0, 0.0))
        return spent_s / found if found > 0 else math.inf


class Credit:
    """Time for what is not believed to pay: a share of all time, saved up to a limit.

    Each time it is spent the share halves, down to ``least`` of it; success restores it. So what
    never pays costs next to nothing, and is found again when it does.
    """

    def __init__(self, share: float, *, least: float, saved_s: float = 0.0) -> None:
        self._share = share
        self._least = least
        self._patience = 1.0
        self._saved_s = saved_s

    def earn(self, seconds: float, limit_s: float) -> None:
        """Time went by; ``limit_s`` is the most that is worth saving."""
        self._saved_s = min(self._saved_s + seconds * self._share * self._patience, limit_s)

    def affords(self, seconds: float) -> bool:
        """Whether so much is saved."""
        return self._saved_s >= seconds

    def spend(self, seconds: float) -> None:
        """Something is tried."""
        self._saved_s -= seconds
        self._patience = max(self._patience / 2, self._least)

    def pays(self, back_s: float = 0.0) -> None:
        """What was tried paid; ``back_s`` of what it cost may be spent again."""
        self._patience = 1.0
        self._saved_s += back_s
