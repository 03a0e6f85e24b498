"""Outputs on their way out of the engine: what nobody waits for goes together with what follows.

An event of a stream costs a wake-up of the router, of the proxy and of the client, whether it
brings one token or five. On few cores that time is taken from the model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

from rasd.engine.api import Output, Request


class Outbox:
    """Joins the outputs of each sequence that come within ``interval_s``.

    At once go the first and the last of a sequence, and all of one whose text decides when it ends
    (stop strings) or that says where its tokens stand. Others wait for the next turn, which comes
    with the first step that is an interval after the last one.
    """

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._turn_s = -math.inf
        self._patient: dict[int, bool] = {}  # whether what comes next may wait; else it may not
        self._held: dict[int, Output] = {}

    @property
    def holds(self) -> bool:
        """Whether anything waits."""
        return bool(self._held)

    def expect(self, request: Request) -> None:
        """Outputs of this request will come."""
        params = request.params
        if self._interval_s > 0 and not (params.stop or params.return_origins):
            self._patient[request.sequence] = False

    def put(self, outputs: list[Output]) -> list[Output]:
        """Takes what a step brought; gives what goes now, at most one output per sequence."""
        now: list[Output] = []
        for output in outputs:
            number = output.sequence
            held = self._held.pop(number, None)
            output = output if held is None else joined(held, output)
            if output.finish is None and self._patient.get(number, False):
                self._held[number] = output
            else:
                now.append(output)
            if output.finish is not None:
                self._patient.pop(number, None)
            elif number in self._patient:
                self._patient[number] = True
        if self._held and self._clock() - self._turn_s >= self._interval_s:
            now += self.take()
        return now

    def take(self) -> list[Output]:
        """Everything that waits; it waits no more."""
        held = list(self._held.values())
        self._held.clear()
        self._turn_s = self._clock()
        return held


def joined(first: Output, then: Output) -> Output:
    """Two outputs of one sequence as one."""
    return replace(
        then,
        tokens=first.tokens + then.tokens,
        sources=first.sources + then.sources,
        logprobs=first.logprobs + then.logprobs,
    )
