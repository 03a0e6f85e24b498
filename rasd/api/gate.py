"""Admission: exact limits on what runs and what waits, in the order of arrival.

A request takes one slot per choice. Whoever does not fit waits behind those who came before,
even where it alone would fit, so that a request of many choices is not starved by small ones.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rasd.errors import DeadlineExceeded, InvalidRequest, Overloaded


@dataclass(eq=False, slots=True)
class _Ticket:
    slots: int
    granted: asyncio.Future[None]


class Gate:
    """Slots for running choices and a bounded queue of requests. Belongs to one event loop."""

    def __init__(self, max_running: int, max_queued: int, queue_deadline_s: float) -> None:
        self.max_running = max_running
        self.max_queued = max_queued
        self.queue_deadline_s = queue_deadline_s
        self._running = 0
        self._queue: deque[_Ticket] = deque()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> int:
        """Slots taken."""
        return self._running

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    def refuse_if_full(self, slots: int) -> None:
        """Says early what `slots_for` would say now, before work is spent on a request.

        Raises:
            InvalidRequest: the request could never run.
            Overloaded: it would find the queue full.
        """
        if slots > self.max_running:
            raise InvalidRequest(
                f"a request runs at most {self.max_running} choices at once; got {slots}", param="n"
            )
        if not self._fits(slots) and len(self._queue) >= self.max_queued:
            raise Overloaded(
                f"{self._running} of {self.max_running} slots are taken and "
                f"{len(self._queue)} of {self.max_queued} places in the queue"
            )

    @asynccontextmanager
    async def slots_for(self, slots: int) -> AsyncGenerator[None, None]:
        """Holds ``slots`` while the body runs, after waiting for them.

        Raises:
            InvalidRequest: more slots than there are.
            Overloaded: the queue is full.
            DeadlineExceeded: they did not come free in time; the body was not run.
        """
        self.refuse_if_full(slots)
        if self._fits(slots):
            self._take(slots)
        else:
            await self._wait(slots)
        try:
            yield
        finally:
            self._give_back(slots)

    async def idle(self) -> None:
        """Waits until nothing runs and nothing waits."""
        await self._idle.wait()

    def check_integrity(self) -> None:
        """Verifies what is always true of the counts.

        Raises:
            RuntimeError: naming what does not hold.
        """
        if not 0 <= self._running <= self.max_running:
            raise RuntimeError(f"{self._running} of {self.max_running} slots are taken")
        if len(self._queue) > self.max_queued:
            raise RuntimeError(f"{len(self._queue)} of {self.max_queued} places are taken")
        # A cancelled ticket leaves the queue one turn of the loop later.
        waiting = [ticket for ticket in self._queue if not ticket.granted.cancelled()]
        if self._queue and waiting == list(self._queue) and self._head_fits():
            raise RuntimeError("the first in the queue fits, yet waits")
        if any(ticket.granted.done() for ticket in waiting):
            raise RuntimeError("a granted ticket is still in the queue")
        if self._idle.is_set() != (self._running == 0 and not self._queue):
            raise RuntimeError("idle does not tell the truth")

    def _fits(self, slots: int) -> bool:
        return not self._queue and self._running + slots <= self.max_running

    def _head_fits(self) -> bool:
        return self._running + self._queue[0].slots <= self.max_running

    async def _wait(self, slots: int) -> None:
        ticket = _Ticket(slots, asyncio.get_running_loop().create_future())
        self._queue.append(ticket)
        try:
            async with asyncio.timeout(self.queue_deadline_s):
                await ticket.granted
        except BaseException as error:
            self._abandon(ticket)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(
                    f"the request waited {self.queue_deadline_s:g} s for a slot; it was not started"
                ) from None
            raise

    def _abandon(self, ticket: _Ticket) -> None:
        if ticket in self._queue:
            self._queue.remove(ticket)
            # The next one may fit where the one that left did not.
            self._give_back(0)
        elif not ticket.granted.cancelled():
            # Granted in the same turn of the loop in which the wait ended otherwise.
            self._give_back(ticket.slots)

    def _take(self, slots: int) -> None:
        self._running += slots
        self._idle.clear()

    def _give_back(self, slots: int) -> None:
        self._running -= slots
        while self._queue and (self._queue[0].granted.cancelled() or self._head_fits()):
            ticket = self._queue.popleft()
            if not ticket.granted.cancelled():
                self._take(ticket.slots)
                ticket.granted.set_result(None)
        if self._running == 0 and not self._queue:
            self._idle.set()
