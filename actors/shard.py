"""A shard: some partitions of some corpora, searched in a process of its own."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import ray

from actors.cluster import log_to_stderr, node_address
from actors.rpc import Server
from actors.table import Holdings, ShardLease, ShardStatus
from actors.wire import ShardQuery
from rasd.config import RetrievalConfig
from rasd.errors import StageUnavailable
from rasd.retrieval import LocalRetriever, ShardStore
from rasd.retrieval.meter import Meter
from rasd.stages import RetrieveReply

# Engines may still ask by the tables before the newest, which may follow each other closely.
_VERSIONS: Final = 4


@dataclass(frozen=True, slots=True)
class ShardSetting:
    """What all shards of an application have in common.

    Every ``refresh_s`` a shard looks for writes (`rasd.config.StoreConfig`).
    """

    root: Path
    vocabulary: int
    tokenizer_hash: str
    retrieval: RetrievalConfig
    lease_s: float
    refresh_s: float = 0.2


class ShardService:
    """Searches the partitions that a version of the table gives it.

    The thread of ``server`` searches; `load` may come from any other, one at a time.
    """

    def __init__(self, setting: ShardSetting, host: str, secret: bytes) -> None:
        self._setting = setting
        self._loaded: dict[int, tuple[Holdings, LocalRetriever]] = {}
        self._meter = Meter()
        self.server = Server(host, secret, {ShardQuery: self._search})

    @property
    def loaded(self) -> dict[int, Holdings]:
        """The versions it answers for, and what each of them gives it."""
        return {version: holdings for version, (holdings, _) in self._loaded.items()}

    @property
    def version(self) -> int:
        """The newest version it holds; 0 before the first."""
        return max(self._loaded, default=0)

    def load(self, version: int, holdings: Holdings, keep: Iterable[int] = ()) -> None:
        """Opens what the version gives it, beside what it has.

        Versions grow. One that nobody asks for yet may come again, and puts out no other. Of
        those before, the newest stay for engines that are behind, and all in ``keep``: a slot
        goes on by an old one for as long as a move takes.

        Raises:
            NotFound, InvalidRequest, SegmentError: see `ShardStore`.
        """
        same = [retriever for held, retriever in self._loaded.values() if held == holdings]
        retriever = same[0] if same else self._open(holdings)
        before = sorted(self._loaded.keys() - {version})
        kept = {*before[1 - _VERSIONS :], *(old for old in keep if old in before)}
        self._loaded = {old: self._loaded[old] for old in kept} | {version: (holdings, retriever)}

    def status(self, node: str) -> ShardStatus:
        """What it holds and how it is asked; ``node`` is where it runs."""
        holdings = self.loaded.get(self.version, {})
        load = self._meter.read()
        return ShardStatus(
            address=self.server.address,
            node=node,
            partitions=sum(map(len, holdings.values())),
            tokens=0,
            resident_bytes=resident_bytes(),
            queries=load.queries,
            queries_per_s=load.queries_per_s,
            p50_ms=load.p50_ms,
            p99_ms=load.p99_ms,
            lag_s=0.0,
        )

    def _open(self, holdings: Holdings) -> LocalRetriever:
        store = ShardStore(
            self._setting.root,
            holdings,
            vocabulary=self._setting.vocabulary,
            tokenizer_hash=self._setting.tokenizer_hash,
        )
        return LocalRetriever(store, self._setting.retrieval)

    def _search(self, query: ShardQuery) -> RetrieveReply:
        loaded = self._loaded.get(query.version)
        if loaded is None:
            raise StageUnavailable(f"version {query.version} is not held; {self.version} is")
        started = time.perf_counter()
        reply = loaded[1].retrieve(query.request).wait(0)
        self._meter.add(len(query.request.queries), time.perf_counter() - started)
        return reply


def resident_bytes() -> int:
    """Memory of this process beyond mapped files, which are the page cache's."""
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


class ShardActor:
    """Actor: one shard. Ends itself when its controller has not renewed the lease in time.

    It is detached, so that it outlives a controller that restarts; the lease is what keeps it
    from outliving the application. `load`, `renew` and `status` answer while it searches, and
    while it loads.
    """

    def __init__(self, setting: ShardSetting, secret: bytes) -> None:
        log_to_stderr()
        self._lease_s = setting.lease_s
        self._ends_at = time.monotonic() + setting.lease_s
        self._service = ShardService(setting, node_address(), secret)
        self._node = ray.get_runtime_context().get_node_id()
        self._loading = asyncio.Lock()
        self._serving: asyncio.Future[None] | None = None
        threading.Thread(target=self._end_with_lease, daemon=True).start()

    async def load(self, version: int, holdings: Holdings, keep: tuple[int, ...] = ()) -> None:
        """See `ShardService.load`."""
        async with self._loading:  # a controller that lost patience, or its successor, may come
            await asyncio.to_thread(self._service.load, version, holdings, keep)

    async def renew(self) -> ShardLease:
        """Renews the lease; says where it listens and what it has loaded."""
        self._ends_at = time.monotonic() + self._lease_s
        return ShardLease(self._service.server.address, self._node, self._service.loaded)

    async def status(self) -> ShardStatus:
        """What the status page shows. Renews nothing."""
        return await asyncio.to_thread(self._service.status, self._node)

    async def run(self) -> None:
        """Serves; ends with the process. Each controller may wait for it."""
        if self._serving is None:
            self._serving = asyncio.ensure_future(asyncio.to_thread(self._service.server.serve))
        await asyncio.shield(self._serving)

    def _end_with_lease(self) -> None:
        while (left := self._ends_at - time.monotonic()) > 0:
            time.sleep(left)
        os._exit(0)
