"""A shard: some partitions of some corpora, searched in a process of its own."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from actors.cluster import log_to_stderr, node_address
from actors.rpc import Server
from actors.wire import ShardQuery
from rasd.config import RetrievalConfig
from rasd.errors import StageUnavailable
from rasd.retrieval import LocalRetriever, ShardStore
from rasd.stages import RetrieveReply

# Engines may still ask by the tables before the newest, which may follow each other closely.
_VERSIONS: Final = 4

Holdings = Mapping[str, tuple[int, ...]]
"""Partitions per corpus."""


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard of a table: where it listens and what it holds."""

    address: str
    holdings: Holdings


@dataclass(frozen=True, slots=True)
class ShardTable:
    """Which shard holds what. Every partition is held once; versions differ, no more."""

    version: int
    shards: tuple[ShardEntry, ...] = ()

    @property
    def corpora(self) -> frozenset[str]:
        """The corpora there are."""
        return frozenset(name for shard in self.shards for name in shard.holdings)


@dataclass(frozen=True, slots=True)
class ShardSetting:
    """What all shards of an application have in common."""

    root: Path
    vocabulary: int
    tokenizer_hash: str
    retrieval: RetrievalConfig
    lease_s: float


class ShardService:
    """Searches the partitions that a version of the table gives it.

    The thread of ``server`` searches; `load` may come from any other, one at a time.
    """

    def __init__(self, setting: ShardSetting, host: str, secret: bytes) -> None:
        self._setting = setting
        self._loaded: dict[int, tuple[Holdings, LocalRetriever]] = {}
        self.server = Server(host, secret, {ShardQuery: self._search})

    @property
    def version(self) -> int:
        """The newest version it holds; 0 before the first."""
        return max(self._loaded, default=0)

    def load(self, version: int, holdings: Holdings) -> None:
        """Opens what the version gives it, beside what it has.

        Versions grow. One that nobody asks for yet may come again, and puts out no other.

        Raises:
            NotFound, InvalidRequest, SegmentError: see `ShardStore`.
        """
        same = [retriever for held, retriever in self._loaded.values() if held == holdings]
        retriever = same[0] if same else self._open(holdings)
        kept = sorted(self._loaded.keys() - {version})[1 - _VERSIONS :]
        self._loaded = {old: self._loaded[old] for old in kept} | {version: (holdings, retriever)}

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
        return loaded[1].retrieve(query.request).wait(0)


class ShardActor:
    """Actor: one shard. Ends itself when its controller has not renewed the lease in time.

    It is detached, so that it outlives a controller that restarts; the lease is what keeps it
    from outliving the application.
    """

    def __init__(self, setting: ShardSetting, secret: bytes) -> None:
        log_to_stderr()
        self._lease_s = setting.lease_s
        self._ends_at = time.monotonic() + setting.lease_s
        self._service = ShardService(setting, node_address(), secret)
        self._loading = asyncio.Lock()
        self._serving: asyncio.Future[None] | None = None
        threading.Thread(target=self._end_with_lease, daemon=True).start()

    async def load(self, version: int, holdings: Holdings) -> None:
        """See `ShardService.load`."""
        async with self._loading:  # a controller that lost patience, or its successor, may come
            await asyncio.to_thread(self._service.load, version, holdings)

    async def renew(self) -> tuple[str, int]:
        """Renews the lease. Where it listens, and the newest version it holds."""
        self._ends_at = time.monotonic() + self._lease_s
        return self._service.server.address, self._service.version

    async def run(self) -> None:
        """Serves; ends with the process. Each controller may wait for it."""
        if self._serving is None:
            self._serving = asyncio.ensure_future(asyncio.to_thread(self._service.server.serve))
        await asyncio.shield(self._serving)

    def _end_with_lease(self) -> None:
        while (left := self._ends_at - time.monotonic()) > 0:
            time.sleep(left)
        os._exit(0)
