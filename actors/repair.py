"""Has damaged segments written anew. Until that is done, answers that lack them are partial."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from actors.table import ShardStatus
from rasd.errors import RasdError

_log = logging.getLogger(__name__)

LOOK_S: Final = 3.0

_AGAIN_S: Final = 300.0
_SEGMENT: Final = re.compile(r"partition-(\d+)/source-(\d+)\.seg")


@dataclass(frozen=True, order=True, slots=True)
class Damaged:
    """A segment that does not serve."""

    corpus: str
    partition: int
    source: int


class Repairs:
    """Looks at what shards refuse. Belongs to one event loop.

    Args:
        statuses: of all shards that answer.
        rebuild: has a segment written anew from its documents; may raise.
    """

    def __init__(
        self,
        statuses: Callable[[], Awaitable[Iterable[ShardStatus]]],
        rebuild: Callable[[str, int, int], Awaitable[None]],
    ) -> None:
        self._statuses = statuses
        self._rebuild = rebuild
        self._again: dict[Damaged, float] = {}

    async def watch(self) -> None:
        """Runs for as long as its owner."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except Exception:
                _log.exception("damage is not looked for; tried again soon")

    async def look(self) -> None:
        """Repairs what is damaged now, one after the other; what fails waits for a while."""
        now = time.monotonic()
        self._again = {one: due for one, due in self._again.items() if due > now}
        for one in sorted(damaged_in(await self._statuses()) - self._again.keys()):
            self._again[one] = now + _AGAIN_S
            _log.warning("%s: damaged; it is written anew from its documents", one)
            try:
                await self._rebuild(one.corpus, one.partition, one.source)
            except RasdError as error:
                _log.error("%s: cannot be written anew: %r", one, error)
            else:
                _log.info("%s: written anew", one)


def damaged_in(statuses: Iterable[ShardStatus]) -> set[Damaged]:
    """The segments among the files that shards refuse. Others cannot be made from anything."""
    return {
        Damaged(corpus, int(found[1]), int(found[2]))
        for status in statuses
        for corpus, files in status.damaged.items()
        for file in files
        if (found := _SEGMENT.fullmatch(file))
    }
