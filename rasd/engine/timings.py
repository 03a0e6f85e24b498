"""Where the time of a step goes. Knows only names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PARTS = ("verify", "forward", "walk", "draft", "prompt", "corpus", "extend", "fuse", "step")
EVENTS = ("nodes", "undrafted")
_DISJOINT = ("verify", "draft", "prompt", "corpus", "extend", "fuse")


@dataclass(slots=True)
class Timings:
    """Cumulative seconds and counts.

    ``verify`` is the wait for the target, of which ``forward`` and ``walk`` are what it says it
    did; ``draft``, ``prompt`` and ``corpus`` the time that asking and waiting for them took,
    ``extend`` the same for what lies behind drafted nodes; ``fuse`` the building of trees, ``step``
    everything. Only counted are ``nodes`` that were verified, and sequences left ``undrafted`` in
    a step though they might have been drafted for.
    """

    clock: Callable[[], float]
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*PARTS, *EVENTS), 0))

    def add(self, part: str, seconds: float, *, count: int = 1) -> None:
        """Notes ``count`` occurrences; 0 for a part of one that is counted elsewhere."""
        self.seconds[part] += seconds
        self.counts[part] += count

    def note(self, event: str, count: int) -> None:
        """Counts what takes no time of its own."""
        self.counts[event] += count

    @contextmanager
    def measure(self, part: str, *, count: int = 1) -> Iterator[float]:
        """Notes how long the block takes; gives the time at its start."""
        start_s = self.clock()
        try:
            yield start_s
        finally:
            self.add(part, self.clock() - start_s, count=count)

    def totals(self) -> dict[str, tuple[float, int]]:
        """Seconds and counts by part; events have no seconds."""
        return {name: (self.seconds.get(name, 0.0), n) for name, n in self.counts.items()}

    @property
    def rest_s(self) -> float:
        """Seconds of the engine that no part explains."""
        return self.seconds["step"] - sum(self.seconds[part] for part in _DISJOINT)

    def per_step_ms(self) -> dict[str, float]:
        """Milliseconds per step by part, and of the ``rest``; zeros before the first step."""
        steps = max(self.counts["step"], 1)
        seconds = {**self.seconds, "rest": self.rest_s}
        return {part: 1000 * spent / steps for part, spent in seconds.items()}
