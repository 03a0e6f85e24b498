"""Which corpora there are, for requests that name one nobody here has heard of yet."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Set
from typing import Final

Look = Callable[[], Awaitable[Iterable[str]]]
"""Asks for the names of all corpora there are."""

PAUSE_S: Final = 1.0
"""Between a look and the next."""


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

    async def find(self, wanted: Set[str]) -> frozenset[str]:
        """All names: those of the last look, if that was just now and saw ``wanted``, else new.

        Raises:
            Exception: what the look raises.
        """
        if wanted <= self._found and time.monotonic() < self._rested_s:
            return self._found
        if self._next is None:
            self._next = asyncio.create_task(self._renew())
        return await asyncio.shield(self._next)

    async def _renew(self) -> frozenset[str]:
        async with self._turn:
            await asyncio.sleep(self._rested_s - time.monotonic())
            self._next = None  # whoever asks from here on may ask for what is made from here on
            self._found = frozenset()
            try:
                self._found = frozenset(await self._look())
            finally:
                self._rested_s = time.monotonic() + PAUSE_S
            return self._found
