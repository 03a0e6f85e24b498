"""Asks real shard actors over their sockets, also while text is added."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray

from actors.retrieve import RemoteRetriever
from actors.shard import ShardActor, ShardSetting
from actors.table import ShardTable, Slot
from benchmarks.datastore_store import BATCH, CORPUS, HASH, PARTITIONS, SETTINGS, queries_at
from benchmarks.texts import Tokens, tokenized
from rasd.config import SpeculationConfig, StoreConfig
from rasd.retrieval.store.corpora import create_corpus
from rasd.retrieval.store.records import Document, Put
from rasd.retrieval.store.writer import CorpusWriter
from rasd.stages import RetrieveQuery, RetrieveRequest

BYTES_PER_S: Final = 1_000_000
INGEST_S: Final = 60.0
COMMITS_PER_S: Final = 10

_SECRET: Final = b"benchmark"
_DEADLINE_S: Final = 10.0
_START_S: Final = 120.0


@contextmanager
def asked(root: Path, vocabulary: int, shards: int) -> Iterator[RemoteRetriever]:
    """Shard actors over a store's partitions, and who asks them."""
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    retriever = RemoteRetriever(SETTINGS, SpeculationConfig(), _SECRET, vocabulary)
    try:
        setting = ShardSetting(root, vocabulary, HASH, SETTINGS, lease_s=3600)
        actors = [ray.remote(ShardActor).remote(setting, _SECRET) for _ in range(shards)]
        slots = []
        for number, actor in enumerate(actors):
            holdings = {CORPUS: tuple(range(number, PARTITIONS, shards))}
            ray.get(actor.load.remote(1, holdings))
            actor.run.remote()
            address = ray.get(actor.renew.remote()).address
            slots.append(Slot(holdings, (address,), 1))
        retriever.set_table(ShardTable(1, tuple(slots)))
        yield retriever
    finally:
        retriever.close()
        ray.shutdown()


def actor_times(root: Path, text: Tokens, places: np.ndarray, shards: int) -> dict[str, Any]:
    """Times of single queries and of batches through ``shards`` actors, there and back."""
    queries = queries_at(text.held, places)
    with asked(root, text.vocabulary, shards) as retriever:
        for query in queries[:200]:
            ask(retriever, [query])
        batches = [queries[at : at + BATCH] for at in range(0, len(queries) - BATCH, BATCH)]
        for batch in batches:
            ask(retriever, batch)
        singles = [ask(retriever, [query]) for query in queries]
        together = [ask(retriever, batch) for batch in batches for _ in range(3)]
    return {
        "single_p50_ms": float(np.median(singles) * 1e3),
        "single_p99_ms": float(np.percentile(singles, 99) * 1e3),
        "batch_p50_ms": float(np.median(together) * 1e3),
        "batch_p99_ms": float(np.percentile(together, 99) * 1e3),
    }


def ask(retriever: RemoteRetriever, queries: list[RetrieveQuery]) -> float:
    """Seconds until the whole answer is here.

    Raises:
        RuntimeError: part of it is missing.
    """
    start = time.perf_counter()
    reply = retriever.retrieve(RetrieveRequest(0, queries)).wait(_DEADLINE_S)
    taken = time.perf_counter() - start
    if reply.partial:
        raise RuntimeError("an answer was partial")
    return taken


def ingest_times(place: Path, text: Tokens, places: np.ndarray) -> dict[str, Any]:
    """Single queries through one actor while 1 MB of text a second is added, and before.

    The writer has a process of its own, and its compactions another, as in the service.
    """
    queries = queries_at(text.held, places)
    root = Path(tempfile.mkdtemp(dir=place))
    create_corpus(
        root, CORPUS, partitions=PARTITIONS, vocabulary=text.vocabulary, tokenizer_hash=HASH
    )
    spawning = get_context("spawn")
    ready, go, told = spawning.Event(), spawning.Event(), spawning.SimpleQueue()
    # No daemon: it has a process of its own for compactions.
    adding = spawning.Process(target=_add, args=(place, root, ready, go, told))
    adding.start()
    try:
        with asked(root, text.vocabulary, 1) as retriever:
            ready.wait(_START_S)
            quiet = _ask_for(retriever, queries, INGEST_S / 3)
            go.set()
            busy = _ask_for(retriever, queries, INGEST_S)
            rate = told.get()
    finally:
        adding.kill()
        shutil.rmtree(root)
    return {"added_bytes_per_s": rate, "quiet": quiet, "busy": busy}


def _add(place: Path, root: Path, ready: Any, go: Any, told: Any) -> None:
    """Adds 20 MB, then waits to be told, then adds at a steady rate for `INGEST_S`."""
    text = tokenized(place, 0)
    # Segments an eighth of the default size, so that a minute sees flushes and merges.
    settings = StoreConfig(flush_tokens=2**17, grace_s=5)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        writer = CorpusWriter(root, CORPUS, settings, pool.submit)
        adding = _Adding(writer, text)
        adding.add(20 * BYTES_PER_S)
        writer.flush()
        ready.set()
        go.wait(_START_S)
        told.put(adding.at_rate(INGEST_S))
        writer.close()


def _ask_for(
    retriever: RemoteRetriever, queries: list[RetrieveQuery], seconds: float
) -> dict[str, float]:
    """A query every few milliseconds, as a service would."""
    times = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        times.append(ask(retriever, [queries[len(times) % len(queries)]]))
        time.sleep(0.005)
    p50, p99, most = np.percentile(np.array(times) * 1e3, [50, 99, 100])
    return {"queries": len(times), "p50_ms": p50, "p99_ms": p99, "max_ms": most}


class _Adding:
    """Adds documents, one commit after the other."""

    def __init__(self, writer: CorpusWriter, text: Tokens) -> None:
        self._writer = writer
        self._documents = iter(text.documents())
        self._bytes_per_token = text.text_bytes / len(text.tokens)
        self._number = 0
        self._added = 0.0

    def add(self, size: float) -> None:
        """Adds about so many bytes of text, as one commit."""
        group = []
        while size > 0:
            tokens = np.asarray(next(self._documents))
            group.append(Put(Document(f"document-{self._number}", tokens)))
            self._number += 1
            size -= len(tokens) * self._bytes_per_token
            self._added += len(tokens) * self._bytes_per_token
        self._writer.write(group)

    def at_rate(self, seconds: float) -> float:
        """Adds `BYTES_PER_S`; returns what became of it, bytes per second."""
        self._added, started = 0.0, time.perf_counter()
        while (passed := time.perf_counter() - started) < seconds:
            if (due := passed * BYTES_PER_S - self._added) > 0:
                self.add(due)
            self._writer.tick()
            time.sleep(1 / COMMITS_PER_S)
        return self._added / passed
