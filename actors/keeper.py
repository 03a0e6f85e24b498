"""Keeps a group of actors alive as a unit: starts, watches, kills, re-creates. Knows no stage."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from actors.cluster import kill
from rasd.errors import Unavailable

_log = logging.getLogger(__name__)

PROBE_S: Final = 5.0
PROBE_MISSES: Final = 3
MAX_FAILURES: Final = 3
RETRY_S: Final = 60.0
STABLE_S: Final = 30.0
"""Whoever dies sooner than this after a start counts as a failed restart."""


@dataclass(frozen=True, slots=True)
class Part:
    """What to keep.

    Attributes:
        name: for the log.
        create: makes the actors and puts each into the list as soon as it exists; may fail.
            They have methods ``run``, which lasts as long as they do, and ``ping``.
        announce: tells the others, once they run.
        lost: called at once when one of them is gone.
        vital: whether the owner cannot do without it. If not, restarts never end.
        retry_s: the pause between restarts of a part that is not vital, after `MAX_FAILURES`.
    """

    name: str
    create: Callable[[list[Any]], Awaitable[None]]
    announce: Callable[[], Awaitable[None]]
    lost: Callable[[], None]
    deadline_s: float
    vital: bool = True
    retry_s: float = RETRY_S


class Keeper:
    """Keeps one part. Belongs to one event loop.

    A death shows within milliseconds, for a call is outstanding; a frozen process after
    `PROBE_MISSES` probes without an answer.

    Attributes:
        restarts: how often the part was lost.
        failed: why there will be no further restart; None while all is well.
    """

    def __init__(self, part: Part) -> None:
        self.restarts = 0
        self.failed: Exception | None = None
        self._part = part
        self._crew: list[Any] = []
        self._runs: list[asyncio.Task[None]] = []
        self._condemned: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._failures = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Brings the part up and keeps it from then on.

        Raises:
            Exception: whatever the first start raised; nothing is left of it.
        """
        try:
            await self._bring_up()
        except BaseException:
            self._kill()
            raise
        self._task = asyncio.create_task(self._keep())

    def condemn(self, reason: str) -> None:
        """The part is no good any more, whatever its processes say."""
        if not self._condemned.done():
            self._condemned.set_result(reason)

    def close(self) -> None:
        """Kills the part; it stays dead."""
        if self._task is not None:
            self._task.cancel()
        self._kill()

    async def _bring_up(self) -> None:
        self._condemned = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(self._part.deadline_s):
            await self._part.create(self._crew)
            self._runs = [asyncio.create_task(_until_end(actor)) for actor in self._crew]
            await self._part.announce()

    async def _keep(self) -> None:
        up_since = time.monotonic()
        while True:
            reason = await self._until_lost()
            _log.warning("the %s is lost: %s", self._part.name, reason)
            self.restarts += 1
            self._part.lost()
            self._kill()
            stable = time.monotonic() - up_since > STABLE_S
            self._failures = 0 if stable else self._failures + 1
            while not await self._restarted():
                self._failures += 1
            up_since = time.monotonic()

    async def _restarted(self) -> bool:
        if self._failures >= MAX_FAILURES:
            reason = f"the {self._part.name} was lost {self._failures} times in a row"
            _log.error("%s", reason)
            if self._part.vital:
                self.failed = Unavailable(reason)
                await asyncio.Event().wait()  # our owner is replaced, and so are we
            await asyncio.sleep(self._part.retry_s)
        started = time.monotonic()
        try:
            await self._bring_up()
        except Exception as error:
            _log.warning("the %s did not start: %r", self._part.name, error)
            self._kill()
            return False
        _log.info("the %s is back after %.1f s", self._part.name, time.monotonic() - started)
        return True

    async def _until_lost(self) -> str:
        """Waits until a run ends, a verdict falls, or probes are not answered; says which."""
        misses = 0
        while misses < PROBE_MISSES:
            waiting: set[asyncio.Future[Any]] = {*self._runs, self._condemned}
            done, _ = await asyncio.wait(
                waiting, timeout=PROBE_S, return_when=asyncio.FIRST_COMPLETED
            )
            if self._condemned in done:
                return self._condemned.result()
            for run in self._runs:
                if run in done:
                    return repr(run.exception() or "its run ended")[:200]
            misses = 0 if await self._answers() else misses + 1
        return f"{misses} probes were not answered"

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_S):
                await asyncio.gather(*(_ping(actor) for actor in self._crew))
        except Exception:  # a death is seen by its run; all else counts as silence
            return False
        return True

    def _kill(self) -> None:
        for run in self._runs:
            run.cancel()
        for actor in self._crew:
            kill(actor)
        self._runs, self._crew = [], []


async def _until_end(actor: Any) -> None:
    await actor.run.remote()


async def _ping(actor: Any) -> None:
    await actor.ping.remote()
