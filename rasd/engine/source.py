"""One drafter or retriever behind a deadline and a breaker. Knows only names and replies."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from rasd.engine.breaker import Breaker
from rasd.engine.timings import Timings
from rasd.errors import StageTimeout
from rasd.stages import Pending, Ready

logger = logging.getLogger(__name__)
Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True)
class Asked(Generic[Reply]):
    """A question on its way: for whom (handle, tokens decided then), and since when."""

    pending: Pending[Reply]
    step: int
    since_s: float
    anchors: list[tuple[int, int]]


class Source(Generic[Reply]):
    """One stage behind a deadline and a breaker."""

    def __init__(self, name: str, deadline_s: float, breaker: Breaker, timings: Timings) -> None:
        self.name = name
        self.breaker = breaker
        self._deadline_s = deadline_s
        self._timings = timings
        self.asked: Asked[Reply] | None = None
        self.late: Asked[Reply] | None = None

    def forget(self) -> None:
        """The stage is another one now."""
        self.asked = self.late = None
        self.breaker.success()

    def miss(self, reason: object) -> None:
        """Counts a miss; says so once when the breaker opens."""
        was_open = self.breaker.open
        self.breaker.miss()
        if self.breaker.open and not was_open:
            logger.warning("%s is left alone for now: %r", self.name, reason)

    def ask(
        self, step: int, anchors: list[tuple[int, int]], call: Callable[[], Pending[Reply]]
    ) -> bool:
        """Starts the work; whether it did."""
        with self._timings.measure(self.name) as since_s:
            try:
                self.asked = Asked(call(), step, since_s, anchors)
            except Exception as error:  # a stage may fail in any way
                self.miss(error)
        return self.asked is not None

    @property
    def awaited(self) -> bool:
        """Whether there is a question without an answer."""
        return self.asked is not None or self.late is not None

    @property
    def ready(self) -> bool:
        """Whether the answer is here: the stage is local."""
        return self.asked is not None and isinstance(self.asked.pending, Ready)

    def answer(self) -> tuple[Asked[Reply], Reply] | None:
        """Waits for what was asked last, until its deadline; what is late becomes ``late``."""
        asked, self.asked = self.asked, None
        if asked is None:
            return None
        with self._timings.measure(self.name, count=0) as now_s:
            try:
                left_s = asked.since_s + self._deadline_s - now_s
                return asked, asked.pending.wait(max(left_s, 0.0))
            except StageTimeout as error:
                self.late = asked
                if not error.counted:
                    self.miss(error)
            except Exception as error:  # as above
                self.miss(error)
        return None

    def late_answer(self) -> tuple[Asked[Reply], Reply] | None:
        """What was late in an earlier step, if it has come meanwhile. It is dropped if not."""
        asked, self.late = self.late, None
        if asked is None:
            return None
        try:
            return asked, asked.pending.wait(0.0)
        except Exception:  # it was counted as a miss when it was late
            return None


def entries_of(reply: object, name: str, asked: Asked[Reply]) -> list[object] | None:
    """The answers of a reply to this question, one per anchor; None if it is none."""
    entries = getattr(reply, name, None)
    if getattr(reply, "step", None) != asked.step or not isinstance(entries, list):
        return None
    return entries if len(entries) == len(asked.anchors) else None


def partial_of(reply: object) -> tuple[object, ...]:
    """Places of the entries that lack something, as far as the reply says so."""
    partial = getattr(reply, "partial", ())
    return partial if isinstance(partial, tuple) else ()
