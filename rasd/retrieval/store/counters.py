"""What was written since the start, and what failed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from rasd.datastore import Failure, Work


@dataclass(slots=True)
class WriteCounters:
    """What was written since the start, over all corpora. ``bytes`` are of texts, about.

    ``documents`` and ``deletes`` count what was asked for and durable, changed or not. ``failed``
    counts what was tried and went wrong; what was refused beforehand is not among it.
    """

    documents: int = 0
    deletes: int = 0
    rejected: int = 0
    bytes: int = 0
    commits: int = 0
    commit_seconds: float = 0.0
    failed: Counter[Work] = field(default_factory=Counter)
    _last: tuple[Work, str, str, float] | None = None
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def fail(self, work: Work, corpus: str, error: Exception) -> None:
        """Counts and remembers it. Called by any thread."""
        with self._turn:
            self.failed[work] += 1
            self._last = (work, corpus, f"{type(error).__name__}: {error}", time.monotonic())

    @property
    def failure(self) -> Failure | None:
        """What failed last; None if nothing did."""
        if self._last is None:
            return None
        work, corpus, error, at = self._last
        return Failure(work, corpus, error, time.monotonic() - at)
