"""Keeps away from a stage that does not answer. Knows no stage."""

from __future__ import annotations

from collections.abc import Callable


class Breaker:
    """Opens after ``misses`` misses in a row; open, it lets one probe pass every ``probe_s``.

    A success closes it. Not thread-safe.
    """

    def __init__(self, misses: int, probe_s: float, clock: Callable[[], float]) -> None:
        self._limit = misses
        self._probe_s = probe_s
        self._clock = clock
        self._misses = 0
        self._probe_at = 0.0

    @property
    def open(self) -> bool:
        """Whether the stage counts as gone."""
        return self._misses >= self._limit

    def allow(self) -> bool:
        """Whether to ask now. A yes while open is the probe: the next comes ``probe_s`` later."""
        if not self.open:
            return True
        now = self._clock()
        if now < self._probe_at:
            return False
        self._probe_at = now + self._probe_s
        return True

    def miss(self) -> None:
        """It did not answer, or answered nonsense."""
        self._misses += 1
        if self.open:
            self._probe_at = self._clock() + self._probe_s

    def success(self) -> None:
        """It answered."""
        self._misses = 0
