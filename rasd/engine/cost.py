"""What a call costs, learned from calls: seconds by size and by what it reads.

Measurements are noisy, and some are pauses of the machine: each moves the estimate a little, and
a pause no more than a slow call. The newest count most. Knows no stage and no clock.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]

SIZES: Final = np.asarray([1, 2, 3, *(base << i for i in range(11) for base in (4, 6))], np.float64)
"""Sizes that are kept; between them cost is a line, beyond the last it is in proportion."""

_SIZES: Final[list[float]] = SIZES.tolist()
_READS: Final = 512
_COLUMNS: Final = 10
_SLOWER, _FASTER = 0.1, 0.2
_BOUND: Final = 1.5
_ELSEWHERE: Final = 0.25
_KNOWN: Final = 10.0
_UNKNOWN: Final = 0.05
_FORGET: Final = 0.97


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
        self._lists: dict[int, list[float]] = {}  # the same, for single sizes
        self.measured = False

    def observe(self, size: float, slots: float, seconds: float) -> None:
        """One call took ``seconds``."""
        if size < 1 or seconds <= 0:
            return
        column, place = self._column(slots), _nearest(size)
        if not self._met[column]:
            self._open(column)
        ratio = seconds / float(np.interp(size, SIZES, self._seconds[column]))
        known = float(self._known[column, place])
        if self.measured:
            ratio = min(max(ratio, 1 / _BOUND), _BOUND)
        rate = max(min(1 / (1 + known), 0.5), _FASTER if ratio < 1 else _SLOWER) if known else 1.0
        self._move(column, place, rate * (ratio - 1))
        self._known *= _FORGET
        self._known[column, place] = min(known + 1, _KNOWN)
        self.measured = self._met[column] = True
        self._curves.clear()
        self._lists.clear()

    def _open(self, column: int) -> None:
        """Begins with what is known of calls that read about as much."""
        if self.measured:
            known = self._nearest(column)
            self._seconds[column] = self._seconds[known]
            self._known[column] = self._known[known] / 4

    def _move(self, column: int, place: int, change: float) -> None:
        """Moves an entry, and with it others of the same column more than those of others."""
        shares = np.full(self._known.shape, _ELSEWHERE)
        shares[column] = self._near[place] if self._met[column] else 1.0
        shares /= 1 + 4 * self._known
        shares[column, place] = 1.0
        self._seconds *= 1 + change * shares

    def curve(self, slots: float) -> Float64s:
        """float64[len(SIZES)]: seconds at `SIZES`, ascending."""
        column = self._column(slots)
        found = self._curves.get(column)
        if found is None:
            nearest = self._nearest(column)
            found = _ascending(self._seconds[nearest], self._known[nearest] + _UNKNOWN)
            self._curves[column] = found
        return found

    def at(self, sizes: Float64s | float, slots: float = 0.0) -> Float64s:
        """Seconds of calls of these sizes."""
        curve = self.curve(slots)
        sizes = np.asarray(sizes, np.float64)
        beyond = np.maximum(sizes / SIZES[-1], 1.0)
        return np.asarray(np.interp(sizes, SIZES, curve) * beyond)

    def one(self, size: float, slots: float = 0.0) -> float:
        """Seconds of a call of this size, at least 1: as `at`, in a tenth of its time."""
        column = self._column(slots)
        curve = self._lists.get(column)
        if curve is None:
            curve = self._lists[column] = self.curve(slots).tolist()
        above = bisect_right(_SIZES, size)
        if above == len(_SIZES):
            return curve[-1] * size / _SIZES[-1]
        part = (size - _SIZES[above - 1]) / (_SIZES[above] - _SIZES[above - 1])
        return curve[above - 1] + part * (curve[above] - curve[above - 1])

    def _nearest(self, column: int) -> int:
        """The column itself or the nearest that was measured, the lower of two."""
        if self._met[column] or not self.measured:
            return column
        met = np.flatnonzero(self._met)
        return int(met[np.argmin(np.abs(met - column))])

    def _column(self, slots: float) -> int:
        return min(int(max(slots, 1) / _READS).bit_length(), len(self._seconds) - 1)


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


def _ascending(values: Float64s, weights: Float64s) -> Float64s:
    """The nearest values that never fall; where they do, neighbours share their mean."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, entries
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, sum_, count = value, weight, 1
        while blocks and blocks[-1][0] > mean:
            other, its, entries = blocks.pop()
            mean = (other * its + mean * sum_) / (its + sum_)
            sum_, count = its + sum_, entries + count
        blocks.append((mean, sum_, count))
    return np.repeat([block[0] for block in blocks], [block[2] for block in blocks])


def _nearest(size: float) -> int:
    """Index of the size kept that is nearest in proportion."""
    place = int(np.searchsorted(SIZES, size))
    if place == len(SIZES):
        return place - 1
    if place and size * size < SIZES[place] * SIZES[place - 1]:
        return place - 1
    return place
