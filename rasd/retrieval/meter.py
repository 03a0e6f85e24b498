"""How much a store is asked and how long it takes: totals, a recent rate, recent quantiles."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

WINDOW_S: Final = 60.0
_KEPT: Final = 4096


@dataclass(frozen=True, slots=True)
class Load:
    """``queries`` in all; rate and quantiles are of the last `WINDOW_S`, 0 if nothing came.

    Quantiles are of batches, over at most the newest 4096.
    """

    queries: int
    queries_per_s: float
    p50_ms: float
    p99_ms: float


class Meter:
    """Counts batches of queries. May be used from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._lock = threading.Lock()
        self._queries = 0
        self._recent: deque[tuple[float, int, float]] = deque(maxlen=_KEPT)

    def add(self, queries: int, seconds: float) -> None:
        """A batch of ``queries`` was answered in ``seconds``."""
        with self._lock:
            self._queries += queries
            self._recent.append((self._clock(), queries, seconds))

    def read(self) -> Load:
        """The numbers now."""
        now = self._clock()
        with self._lock:
            queries, recent = self._queries, list(self._recent)
        since = max(now - WINDOW_S, self._started)
        if len(recent) == _KEPT:  # older ones are forgotten, so they must not count as silence
            since = max(since, recent[0][0])
        batches = [batch for batch in recent if batch[0] >= since]
        if not batches:
            return Load(queries, 0.0, 0.0, 0.0)
        rate = sum(count for _, count, _ in batches) / max(now - since, 1e-3)
        p50, p99 = np.quantile([1000 * seconds for _, _, seconds in batches], [0.5, 0.99])
        return Load(queries, rate, float(p50), float(p99))
