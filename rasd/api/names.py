"""Which corpora there are, for requests that name one nobody here has heard of yet."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Set
from typing import Final

from rasd.errors import Overloaded, Unavailable

Look = Callable[[], Awaitable[Iterable[str]]]
"""Asks for the names of all corpora there are."""

PAUSE_S: Final = 1.0
"""Between a look and the next."""
DEADLINE_S: Final = 3.0
"""Of a look. Whoever asks waits at most for the one that runs, the pause, and the next one."""
MAX_WAITING: Final = 256
"""Requests that wait for looks."""


class Names:
    """Names of corpora, looked up where one is missing. Belongs to one event loop.

    However many ask, one look runs at a time, with a pause behind it: names that nobody made load
    nobody. A name is missing only from a look that began after it was asked for; so whoever makes
    a corpus may name it at once, here and at every other router.
    """

    def __init__(self, look: Look) -> None:
        self._look = look
        self._found: frozenset[str] = frozenset()
        self._rested_s = -math.inf  # when the pause is over
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[frozenset[str]] | None = None
        self._waiting = 0

    async def find(self, wanted: Set[str]) -> frozenset[str]:
        """All names: those of the last look, if that was just now and saw ``wanted``, else new.

        Raises:
            Overloaded: too many wait.
            Unavailable: the look takes too long.
            Exception: what the look raises.
        """
        if wanted <= self._found and time.monotonic() < self._rested_s:
            return self._found
        if self._waiting >= MAX_WAITING:
            raise Overloaded(
                f"{self._waiting} of {MAX_WAITING} requests wait to hear what corpora there are"
            )
        if self._next is None:
            self._next = asyncio.create_task(self._renew())
            self._next.add_done_callback(_seen)
        look = self._next
        self._waiting += 1
        try:
            await asyncio.wait((look,))  # goes on for the others if this one gives up
        finally:
            self._waiting -= 1
        return look.result()

    async def _renew(self) -> frozenset[str]:
        async with self._turn:
            await asyncio.sleep(self._rested_s - time.monotonic())
            self._next = None  # whoever asks from here on may ask for what is made from here on
            self._found = frozenset()
            try:
                async with asyncio.timeout(DEADLINE_S):
                    self._found = frozenset(await self._look())
            except TimeoutError as error:
                raise Unavailable(
                    f"nobody said within {DEADLINE_S:g} s what corpora there are; repeat the call"
                ) from error
            finally:
                self._rested_s = time.monotonic() + PAUSE_S
            return self._found


def _seen(look: asyncio.Task[frozenset[str]]) -> None:
    """Its failure is nobody's if all who waited gave up: no reason to log it."""
    if not look.cancelled():
        look.exception()
