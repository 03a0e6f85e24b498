"""A shard: some partitions of some corpora, searched in a process of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import ray

from actors.cluster import log_to_stderr, node_address
from actors.rpc import Server
from actors.table import Holdings, ShardLease, ShardStatus
from actors.wire import DenseQuery, DenseReply, ShardQuery, ShardReply
from rasd.config import RetrievalConfig, TargetConfig
from rasd.errors import StageUnavailable
from rasd.params import MAX_PASSAGES
from rasd.retrieval import LocalRetriever, ShardStore, flat
from rasd.retrieval.dense.packed import pack_passages
from rasd.retrieval.meter import Meter
from rasd.stages import RetrieveRequest

if TYPE_CHECKING:
    from rasd.retrieval.dense.background import Background
    from rasd.retrieval.dense.embed import Embedder

BEHIND_S: Final = 30.0
"""How long engines may ask for a version after another one was loaded."""

_MAX_VERSIONS: Final = 64
_SWITCH_S: Final = 0.0005

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShardSetting:
    """What all shards of an application have in common.

    Every ``refresh_s`` a shard looks for writes (`rasd.config.StoreConfig`). Of ``target``, the
    token embeddings are read where passages are selected by meaning.
    """

    root: Path
    vocabulary: int
    tokenizer_hash: str
    retrieval: RetrievalConfig
    lease_s: float
    refresh_s: float = 0.2
    target: TargetConfig = field(default_factory=TargetConfig)


@dataclass(frozen=True, slots=True)
class _Version:
    """What a version gives this shard. ``since_s``: when it was loaded."""

    holdings: Holdings
    retriever: LocalRetriever
    since_s: float


class ShardService:
    """Searches the partitions that a version of its slot gives it, and follows their writers.

    The thread of ``server`` searches, another of it selects by meaning, one of its own looks for
    writes; `load` may come from any other, one at a time. Versions share the partitions they have
    in common.
    """

    def __init__(self, setting: ShardSetting, host: str, secret: bytes) -> None:
        self._setting = setting
        self._loaded: dict[int, _Version] = {}
        self._kept: frozenset[int] = frozenset()
        self._lock = threading.Lock()  # held by who changes what is loaded
        self._meter = Meter()
        self._closed = threading.Event()
        self._dense = _background(setting)
        # A model may embed a prompt for 0.1 s; no search waits for that.
        self.server = Server(
            host, secret, {ShardQuery: self._search}, slow={DenseQuery: self._select}
        )
        threading.Thread(target=self._follow, name="refresh", daemon=True).start()

    @property
    def loaded(self) -> dict[int, Holdings]:
        """The versions it answers for, and what each of them gives it."""
        return {number: version.holdings for number, version in self._loaded.items()}

    @property
    def version(self) -> int:
        """The newest version it holds; 0 before the first."""
        return max(self._loaded, default=0)

    def load(self, version: int, holdings: Holdings, keep: Iterable[int] = ()) -> None:
        """Opens what the version gives it, beside what it has.

        Versions grow. One that nobody asks for yet may come again. One that is replaced stays
        for half a minute, for engines that are behind; and while the last ``keep`` has it: a
        slot goes on by an old one for as long as a move takes. What is not there, or damaged,
        is empty: see `rasd.retrieval.ShardStore`.

        Raises:
            InvalidRequest: a corpus has no name.
        """
        same = [old.retriever for old in self._loaded.values() if old.holdings == holdings]
        retriever = same[0] if same else self._open(holdings)
        with self._lock:
            self._kept = frozenset((version, *keep))
            loaded = self._loaded | {version: _Version(holdings, retriever, time.monotonic())}
            self._loaded = loaded

    def status(self, node: str) -> ShardStatus:
        """What it holds and how it is asked; ``node`` is where it runs."""
        newest = self._loaded.get(self.version)
        store = newest.retriever.store if newest is not None else None
        damaged = store.damaged if store is not None else {}
        load = self._meter.read()
        return ShardStatus(
            address=self.server.address,
            node=node,
            partitions=sum(map(len, newest.holdings.values())) if newest is not None else 0,
            tokens=store.tokens if store is not None else 0,
            resident_bytes=resident_bytes(),
            queries=load.queries,
            queries_per_s=load.queries_per_s,
            p50_ms=load.p50_ms,
            p99_ms=load.p99_ms,
            lag_s=store.lag_s if store is not None else 0.0,
            damaged={
                name: {file: str(error) for file, error in files.items()}
                for name, files in damaged.items()
            },
        )

    def close(self) -> None:
        """Ends its threads, soon."""
        self._closed.set()
        if self._dense is not None:
            self._dense.close()
        self.server.stop()

    def _open(self, holdings: Holdings) -> LocalRetriever:
        newest = self._loaded.get(self.version)
        store = ShardStore(
            self._setting.root,
            holdings,
            vocabulary=self._setting.vocabulary,
            tokenizer_hash=self._setting.tokenizer_hash,
            beside=newest.retriever.store if newest is not None else None,
        )
        return LocalRetriever(store, self._setting.retrieval)

    def _follow(self) -> None:
        while not self._closed.wait(self._setting.refresh_s):
            with self._lock:
                needed = {*_needed(self._loaded, time.monotonic()), *self._kept}
                self._loaded = {n: self._loaded[n] for n in self._loaded if n in needed}
            retrievers = {id(v.retriever): v.retriever for v in list(self._loaded.values())}
            for retriever in retrievers.values():
                try:
                    retriever.refresh()
                except Exception:  # it never raises; but nobody would notice if it did
                    _log.exception("what was written is not found yet; tried again soon")
            if self._dense is not None:
                self._dense.follow([retriever.store for retriever in retrievers.values()])

    def _search(self, query: ShardQuery) -> ShardReply:
        version = self._loaded.get(query.version)
        if version is None:
            raise StageUnavailable(f"version {query.version} is not held; {self.version} is")
        request = RetrieveRequest(query.step, flat.unpack_queries(query.queries))
        started = time.perf_counter()
        reply = version.retriever.retrieve(request).wait(0)
        self._meter.add(len(request.queries), time.perf_counter() - started)
        return ShardReply(query.step, flat.pack_answers(reply.found), reply.partial)

    def _select(self, query: DenseQuery) -> DenseReply:
        version = self._loaded.get(query.version)
        if version is None or self._dense is None:
            raise StageUnavailable(f"version {query.version} is not selected from")
        count = min(max(query.count, 0), MAX_PASSAGES)
        store, prompt = version.retriever.store, query.prompt.astype(np.uint32)
        return DenseReply(pack_passages(self._dense.search(store, prompt, query.corpora, count)))


def _background(setting: ShardSetting) -> Background | None:
    """Builds indexes of meaning, if they are wanted. faiss is loaded only then."""
    dense, target = setting.retrieval.dense, setting.target
    if dense is None:
        return None
    from rasd.retrieval.dense.background import Background
    from rasd.retrieval.dense.load import load_embedder
    from rasd.text import load_tokenizer

    def load() -> Embedder:
        tokenizer = load_tokenizer(target.model, target.revision)
        return load_embedder(dense.embedder, target.model, target.revision, tokenizer)

    return Background(load, dense)


def _needed(versions: Mapping[int, _Version], now_s: float) -> list[int]:
    """Those that an engine may ask for: the newest, and what others replaced lately."""
    numbers = sorted(versions)
    lately = [
        number for number, next_ in pairwise(numbers) if now_s - versions[next_].since_s < BEHIND_S
    ]
    return [*lately[-_MAX_VERSIONS:], *numbers[-1:]]


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
        # A search that has released the GIL wants it back; a refresh gives it up this soon.
        sys.setswitchinterval(_SWITCH_S)
        self._setting = setting
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

    async def setting(self) -> ShardSetting:
        """What it was made with: a controller that adopts it need not load a tokenizer."""
        return self._setting

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
