"""Which sources the next step may use: asks `Pace`, and tells it what steps took and brought."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rasd.engine.budget import Budget, Load
from rasd.engine.pace import Pace, Stepped
from rasd.engine.scheduler import StepPlan
from rasd.engine.sequence import Sequence
from rasd.stages import VerifyReply

_PAUSE: Final = 1.5  # times that a verify takes what it usually does: nothing to learn from


class Pacing:
    """Follows an engine step by step. Not thread-safe.

    Args:
        weighs: whether costs decide anything; if not, everything may be used.
    """

    def __init__(self, budget: Budget, clock: Callable[[], float], *, weighs: bool) -> None:
        self._budget = budget
        self._clock = clock
        self._weighs = weighs
        self._pace = Pace()
        self._new: dict[int, Sequence] = {}  # by handle; the pace was not told of them yet
        self._kinds = 0  # sources that what runs may use
        self._used = 0  # those of them that may be asked for the next step
        self._busy = 0  # those that were asked since the last step ended

    def admit(self, sequence: Sequence) -> None:
        """It has a handle. One that goes on after a pause tells nothing new."""
        if len(sequence.tokens) == len(sequence.request.prompt):
            self._new[sequence.handle] = sequence

    def retire(self, handle: int) -> None:
        """The handle will not come again."""
        self._new.pop(handle, None)

    def begin(self, kinds: int, load: Load) -> int:
        """Of the sources that what runs may use those that may be asked now."""
        self._kinds = kinds
        for each in self._new.values():
            self._pace.welcome(kinds, load.gaining, each.remaining)
        self._new.clear()
        self._used = self._pace.allowed(kinds, load.gaining) if self._weighs else kinds
        return self._used

    def stepped(
        self,
        plan: StepPlan,
        reply: VerifyReply | None,
        tokens: int,
        since_s: float,
        *,
        asked: bool,
    ) -> None:
        """A step that began at ``since_s`` is over.

        Args:
            tokens: that its sequences gained together.
            asked: whether anything may have been asked for the next one.
        """
        now = self._used if asked else 0
        used, self._busy = self._busy | now, now
        if not self._weighs or reply is None or reply.restored:
            return
        gaining = sum(work.draw for work in plan.work)
        decided = sum(work.chunk if work.tree is None else 1 for work in plan.work)
        slots = sum(work.sequence.slots for work in plan.work)
        # A machine that is slow just now would be as slow at plain decoding.
        plain_s = self._budget.slowness * self._budget.verify_s(decided, slots)
        each_s = self._budget.slowness * self._budget.verify_s(gaining, slots)
        seconds = self._clock() - since_s
        paused = self._budget.slowness > _PAUSE
        if decided == gaining and not paused:  # a prompt that enters makes no token dearer
            self._budget.rate.observe(gaining, tokens, seconds)
        self._pace.stepped(Stepped(self._kinds, used, gaining, tokens, seconds, plain_s, each_s))
