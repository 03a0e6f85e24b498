"""What `/metrics` tells of the datastore: its corpora, its shards, and what is written here.

The numbers come from the datastore's status, which another process gives. A scrape waits for it
only briefly, and else shows what was last known, with its age.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rasd.api.auth import Caller
from rasd.api.corpora_answers import visible
from rasd.datastore import CorpusInfo, Datastore, DatastoreStatus, ShardInfo, WriterInfo, Written

log = logging.getLogger("rasd.api")

MAX_AGE_S: Final = 3.0
"""How old a status may be without asking anew."""

SCRAPE_DEADLINE_S: Final = 2.0
CALL_DEADLINE_S: Final = 20.0

_WRITER_GAUGES: Final[dict[str, tuple[str, Callable[[WriterInfo], float]]]] = {
    "compactions": ("Flushes and merges that run", lambda writer: writer.compactions),
    "compactions_waiting": ("Those that wait for their turn", lambda writer: writer.waiting),
}
_WRITER_COUNTERS: Final[dict[str, tuple[str, Callable[[WriterInfo], float]]]] = {
    "failed_compactions": ("Flushes and merges that failed", lambda w: w.failed_compactions),
    "commits": ("Groups of writes made durable", lambda writer: writer.commits),
    "commit_seconds": ("Time that took", lambda writer: writer.commit_seconds),
    "failed_commits": ("Groups of writes that failed", lambda writer: writer.failed_commits),
}
_CORPUS: Final[dict[str, tuple[str, Callable[[CorpusInfo], float]]]] = {
    "corpus_documents": ("Documents", lambda corpus: corpus.documents),
    "corpus_tokens": ("Tokens of documents", lambda corpus: corpus.tokens),
    "corpus_segments": ("Index files", lambda corpus: corpus.segments),
    "corpus_bytes": ("Size in the storage root", lambda corpus: corpus.bytes),
    "corpus_memory_tokens": ("Tokens not yet in a segment", lambda corpus: corpus.memory_tokens),
    "corpus_damaged_files": ("Files that do not serve", lambda corpus: len(corpus.damaged)),
}
_SHARD: Final[dict[str, tuple[str, Callable[[ShardInfo], float]]]] = {
    "shard_partitions": ("Partitions held", lambda shard: shard.partitions),
    "shard_tokens": ("Tokens held", lambda shard: shard.tokens),
    "shard_resident_bytes": ("Memory of the process", lambda shard: shard.resident_bytes),
    "shard_queries_per_second": ("Queries lately", lambda shard: shard.queries_per_s),
    "shard_latency_p50_seconds": ("Median of lately", lambda shard: shard.p50_ms / 1000),
    "shard_latency_p99_seconds": ("99th of 100, lately", lambda shard: shard.p99_ms / 1000),
    "shard_lag_seconds": ("Age of the oldest write not searched", lambda shard: shard.lag_s),
}


class DatastoreMetrics:
    """One application's view of its datastore. Belongs to one event loop.

    Args:
        model: the served name, a label on everything.
        get_datastore: may raise while there is none yet; None where there never is.
    """

    def __init__(self, model: str, get_datastore: Callable[[], Datastore] | None) -> None:
        self._model = model
        self._get_datastore = get_datastore
        self._status: DatastoreStatus | None = None
        self._known_at = -math.inf
        self._asking: asyncio.Task[None] | None = None
        self._writes: dict[str, Counter[str]] = {}

    def wrote(self, corpus: str, written: Iterable[Written]) -> None:
        """Counts what became of documents."""
        self._writes.setdefault(corpus, Counter()).update(one.change for one in written)

    def forget(self, corpus: str) -> None:
        """The corpus is gone, and its counts with it."""
        self._writes.pop(corpus, None)

    async def render(self, caller: Caller) -> bytes:
        """Prometheus text format, of what the caller may know; nothing without a datastore."""
        if self._get_datastore is None:
            return b""
        wanted = time.monotonic() - MAX_AGE_S
        if self._known_at < wanted:
            await self._refresh(self._get_datastore)
        return generate_latest(_Families(self._families(caller, up=self._known_at >= wanted)))

    async def _refresh(self, get_datastore: Callable[[], Datastore]) -> None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(get_datastore))
        # One that takes longer goes on, for the next scrape.
        await asyncio.wait({self._asking}, timeout=SCRAPE_DEADLINE_S)

    async def _ask(self, get_datastore: Callable[[], Datastore]) -> None:
        try:
            async with asyncio.timeout(CALL_DEADLINE_S):
                self._status = await get_datastore().status()
            self._known_at = time.monotonic()
        except Exception as error:
            log.warning("no status of the datastore for /metrics: %r", error)

    def _families(self, caller: Caller, *, up: bool) -> Iterator[Metric]:
        yield self._gauge("datastore_up", "1 while the datastore tells its status", float(up))
        if self._status is None:
            return
        status = visible(self._status, caller)
        age_s = time.monotonic() - self._known_at
        yield self._gauge("datastore_status_age_seconds", "Age of the numbers below", age_s)
        yield self._gauge("datastore_shards", "Slots wanted", status.scale.shards)
        yield self._gauge("datastore_replicas", "Processes wanted per slot", status.scale.replicas)
        yield self._gauge("datastore_override", "1 while a scale is overridden", status.override)
        yield self._gauge("datastore_moving", "1 while partitions move", status.moving)
        if status.writer is not None:
            yield from self._writer(status.writer)
        for name, (text, read) in _CORPUS.items():
            family = GaugeMetricFamily(f"rasd:{name}", text, labels=["model_name", "corpus"])
            for corpus in status.corpora:
                family.add_metric([self._model, corpus.name], read(corpus))
            yield family
        yield self._written({corpus.name for corpus in status.corpora})
        yield from self._shards(status.shards)

    def _writer(self, writer: WriterInfo) -> Iterator[Metric]:
        for name, (text, value) in _WRITER_GAUGES.items():
            yield self._gauge(f"datastore_{name}", text, value(writer))
        for name, (text, value) in _WRITER_COUNTERS.items():
            text = f"{text}, since the writer started"
            family = CounterMetricFamily(f"rasd:datastore_{name}", text, labels=["model_name"])
            family.add_metric([self._model], value(writer))
            yield family

    def _written(self, corpora: set[str]) -> Metric:
        labels = ["model_name", "corpus", "change"]
        text = "What became of documents added or deleted over HTTP through this replica"
        family = CounterMetricFamily("rasd:corpus_writes", text, labels=labels)
        for corpus in sorted(corpora & self._writes.keys()):
            for change, count in sorted(self._writes[corpus].items()):
                family.add_metric([self._model, corpus, change], count)
        return family

    def _shards(self, shards: list[ShardInfo]) -> Iterator[Metric]:
        labels = ["model_name", "slot", "replica"]
        queries = CounterMetricFamily("rasd:shard_queries", "Queries answered", labels=labels)
        for shard in shards:
            queries.add_metric([self._model, str(shard.slot), str(shard.replica)], shard.queries)
        yield queries
        for name, (text, read) in _SHARD.items():
            family = GaugeMetricFamily(f"rasd:{name}", text, labels=labels)
            for shard in shards:
                where = [self._model, str(shard.slot), str(shard.replica)]
                family.add_metric(where, read(shard))
            yield family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"rasd:{name}", text, labels=["model_name"])
        family.add_metric([self._model], value)
        return family


class _Families(Collector):
    """What `generate_latest` asks of a registry."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
