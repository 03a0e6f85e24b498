"""Keeps shards and table as they should be, whatever dies, comes or is slow."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from actors.fleet import Fleet, Shard
from actors.plan import Corpus, Planner
from actors.table import ShardTable
from rasd.datastore import Scale

_log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""How often the storage root and the nodes are looked at."""

_PACE_S: Final = 0.1  # changes that follow each other closer are taken together
_TICK_S: Final = 0.5
_RETRY_S: Final = 1.0


class Controller:
    """Deals what ``look`` finds to the shards of ``fleet``. Belongs to one event loop.

    Attributes:
        corpora: those there are; None until the root was seen.
        scale: how many shards there should be; None until it is set.
    """

    def __init__(
        self, fleet: Fleet, look: Callable[[], dict[str, Corpus]], first_version: int
    ) -> None:
        self.corpora: dict[str, Corpus] | None = None
        self.scale: Scale | None = None
        self.fleet = fleet
        fleet.on_change = self.wake
        self._look = look
        self._told = 0
        self._planner = Planner(first_version)
        self._published = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def table(self) -> ShardTable:
        """What was published last; version 0 before the first."""
        return self._planner.table

    @property
    def moving(self) -> bool:
        """Whether the table is not yet what is wanted."""
        return self.scale is None or self.corpora is None or self._planner.moving

    def wake(self) -> None:
        """Something may have changed."""
        self._changed.set()

    def set_scale(self, scale: Scale) -> None:
        """Changes how many shards there should be."""
        self.scale = scale
        self.wake()

    def tell(self, name: str, corpus: Corpus | None) -> None:
        """A corpus was just made, or dropped: sooner than the next look would see."""
        self._told += 1  # what is being looked up may lack it
        if self.corpora is None:
            return
        others = {its: known for its, known in self.corpora.items() if its != name}
        self.corpora = others if corpus is None else {**others, name: corpus}
        self.wake()

    async def next_table(self, known: int, patience_s: float) -> ShardTable | None:
        """The newest table, or None if for so long there is none but the ``known`` one."""
        if self.table.version in (0, known):
            try:
                async with asyncio.timeout(patience_s):
                    await self._published.wait()
            except TimeoutError:
                pass
        return None if self.table.version in (0, known) else self.table

    def shards(self) -> list[tuple[int, int, Shard]]:
        """Slot and number of every shard that the table names."""
        known = {shard.address: shard for shard in self.fleet.members}
        return [
            (slot, replica, known[address])
            for slot, entry in enumerate(self.table.slots)
            for replica, address in enumerate(entry.addresses)
            if address in known
        ]

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """What has to run for as long as there is a controller."""
        return [self._control(), self._watch_root(), self._watch_nodes()]

    def reconcile(self) -> None:
        """Brings everything one step closer to what it should be. What takes time goes on beside.

        Nothing happens before the scale and the corpora are known.
        """
        if self.scale is None or self.corpora is None:
            return
        fleet, now = self.fleet, time.monotonic()
        self._planner.want(self.corpora, self.scale, fleet.members, now)
        for slot in self._planner.missing(fleet.members, fleet.starting):
            fleet.start(slot)
        for shard in fleet.members:
            fleet.hold(shard, self._planner.holdings(shard.slot))
        table = self._planner.next_table(fleet.members, now)
        if table is not None:
            self._publish(table)
        for shard in self._planner.excess(fleet.members):
            fleet.retire(shard)
        for slot in range(self.scale.shards):
            if not fleet.starting[slot] and fleet.crowded(slot):
                fleet.start(slot)  # its twin on the same node leaves when this one serves

    def _publish(self, table: ShardTable) -> None:
        held = [len(slot.addresses) for slot in table.slots]
        corpora = sorted(table.corpora)
        _log.info("table %d: %s shards per slot hold %s", table.version, held, corpora)
        self._published.set()
        self._published = asyncio.Event()

    async def _control(self) -> None:
        while True:
            self._changed.clear()
            try:
                self.reconcile()
            except Exception:
                _log.exception("the shards are not as they should be; tried again soon")
                await asyncio.sleep(_RETRY_S)
            await asyncio.sleep(_PACE_S)
            try:
                async with asyncio.timeout(_TICK_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _watch_root(self) -> None:
        """No deadline: a disk that hangs holds up nothing but this."""
        refused = ""
        while True:
            told = self._told
            try:
                found = await asyncio.to_thread(self._look)
            except Exception as error:
                if refused != repr(error):
                    refused = repr(error)
                    _log.warning("the corpora stay as they were: the root says nothing: %r", error)
            else:
                refused = ""
                if told == self._told and found != self.corpora:
                    self.corpora = found
                    self.wake()
            await asyncio.sleep(LOOK_S)

    async def _watch_nodes(self) -> None:
        while True:
            if await self.fleet.nodes.refresh():
                self.fleet.check_nodes()
                self.wake()
            await asyncio.sleep(LOOK_S)
