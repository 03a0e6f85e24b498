"""Asks real shard actors over their sockets, also while text is added."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
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
from rasd.trie import Continuations

BYTES_PER_S: Final = 1_000_000
INGEST_S: Final = 60.0
COMMITS_PER_S: Final = 10

_SECRET: Final = b"benchmark"
_DEADLINE_S: Final = 10.0
_START_S: Final = 120.0


@contextmanager
def asked(root: Path, vocabulary: int, shards: int) -> Iterator[tuple[RemoteRetriever, list[Any]]]:
    """Who asks shard actors over a store's partitions, and the actors."""
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
        yield retriever, actors
    finally:
        retriever.close()
        ray.shutdown()


def actor_times(root: Path, text: Tokens, places: np.ndarray, shards: int) -> dict[str, Any]:
    """Times of single queries and of batches through ``shards`` actors, and what those hold."""
    queries = queries_at(text.held, places)
    with asked(root, text.vocabulary, shards) as (retriever, actors):
        for query in queries[:200]:
            ask(retriever, [query])
        batches = [queries[at : at + BATCH] for at in range(0, len(queries) - BATCH, BATCH)]
        for batch in batches:
            ask(retriever, batch)
        singles = [ask(retriever, [query]) for query in queries]
        together = [ask(retriever, batch) for batch in batches for _ in range(3)]
        held = ray.get([actor.status.remote() for actor in actors])
    return {
        "resident_mb": max(status.resident_bytes for status in held) / 1e6,
        "single_p50_ms": float(np.median(singles) * 1e3),
        "single_p99_ms": float(np.percentile(singles, 99) * 1e3),
        "batch_p50_ms": float(np.median(together) * 1e3),
        "batch_p99_ms": float(np.percentile(together, 99) * 1e3),
    }


def ask(retriever: RemoteRetriever, queries: list[RetrieveQuery]) -> float:
    """Seconds until the whole answer is here. Raises as `answers`."""
    start = time.perf_counter()
    answers(retriever, queries)
    return time.perf_counter() - start


def answers(retriever: RemoteRetriever, queries: list[RetrieveQuery]) -> list[Continuations]:
    """What all shards found.

    Raises:
        RuntimeError: part of it is missing.
    """
    reply = retriever.retrieve(RetrieveRequest(0, queries)).wait(_DEADLINE_S)
    if reply.partial:
        raise RuntimeError("an answer was partial")
    return reply.found


def ingest_times(place: Path, text: Tokens, places: np.ndarray) -> dict[str, float]:
    """Single queries through one actor while 1 MB of text a second is added, and before.

    Also how long after its acknowledgement what was added is found, by asking for it between
    those queries. The writer has a process of its own, and its compactions another, as in the
    service.
    """
    queries = queries_at(text.held, places)
    root = Path(tempfile.mkdtemp(dir=place))
    create_corpus(
        root, CORPUS, partitions=PARTITIONS, vocabulary=text.vocabulary, tokenizer_hash=HASH
    )
    spawning = get_context("spawn")
    ready, go = spawning.Event(), spawning.Event()
    told, added = spawning.SimpleQueue(), spawning.SimpleQueue()
    # No daemon: it has a process of its own for compactions.
    adding = spawning.Process(target=_add, args=(place, root, ready, go, told, added))
    adding.start()
    try:
        with asked(root, text.vocabulary, 1) as (retriever, _):
            probes = _Probes(retriever, added)
            ready.wait(_START_S)
            until = time.perf_counter() + INGEST_S / 3
            quiet = _ask_until(retriever, queries, probes, lambda: time.perf_counter() > until)
            go.set()

            def over() -> bool:
                return probes.done and not (told.empty() and adding.is_alive())

            busy = _ask_until(retriever, queries, probes, over)
            if told.empty():
                raise RuntimeError("the process that adds has died")
            rate = told.get()
    finally:
        adding.kill()
        shutil.rmtree(root)
    found = np.percentile(np.array(probes.seconds) * 1e3, [50, 99, 100]).tolist()
    return {
        "added_bytes_per_s": rate,
        **{f"quiet_{key}": number for key, number in quiet.items()},
        **{f"busy_{key}": number for key, number in busy.items()},
        "probes": len(probes.seconds),
        **dict(zip(("found_p50_ms", "found_p99_ms", "found_max_ms"), found, strict=True)),
    }


def _add(place: Path, root: Path, ready: Any, go: Any, told: Any, added: Any) -> None:
    """Adds 20 MB, then waits to be told, then adds at a steady rate for `INGEST_S`."""
    text = tokenized(place, 0)
    # Segments an eighth of the default size, so that a minute sees flushes and merges.
    settings = StoreConfig(flush_tokens=2**17, grace_s=5)
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=os.nice, initargs=(19,)) as pool:
        writer = CorpusWriter(root, CORPUS, settings, pool.submit)
        adding = _Adding(writer, text)
        adding.add(20 * BYTES_PER_S)
        writer.flush()
        ready.set()
        go.wait(_START_S)
        told.put(adding.at_rate(INGEST_S, added))
        writer.close()


def _ask_until(
    retriever: RemoteRetriever,
    queries: list[RetrieveQuery],
    probes: _Probes,
    over: Callable[[], bool],
) -> dict[str, float]:
    """A query every few milliseconds, as a service would, and between them what was added."""
    times: list[float] = []
    while not over():
        times.append(ask(retriever, [queries[len(times) % len(queries)]]))
        probes.look()
        time.sleep(0.005)
    p50, p99, most = np.percentile(np.array(times) * 1e3, [50, 99, 100]).tolist()
    return {"queries": len(times), "p50_ms": p50, "p99_ms": p99, "max_ms": most}


class _Probes:
    """Tails of documents that are acknowledged, asked for until they are found.

    Args:
        added: a queue of tails, int32[suffix_max], each with the monotonic seconds of its
            acknowledgement.
    """

    def __init__(self, retriever: RemoteRetriever, added: Any) -> None:
        self.seconds: list[float] = []
        self._retriever = retriever
        self._added = added
        self._waiting: list[tuple[np.ndarray, float]] = []

    @property
    def done(self) -> bool:
        """Whether nothing waits to be found."""
        return not self._waiting and self._added.empty()

    def look(self) -> None:
        """Asks once for all that wait.

        Raises:
            RuntimeError: one is not found for long.
        """
        while not self._added.empty():
            self._waiting.append(self._added.get())
        if not self._waiting:
            return
        tails = [tail for tail, _ in self._waiting]
        queries = [RetrieveQuery(number, tail, (CORPUS,)) for number, tail in enumerate(tails)]
        waiting, self._waiting = self._waiting, []
        for (tail, since), one in zip(waiting, answers(self._retriever, queries), strict=True):
            passed = time.monotonic() - since
            if one.match_length == len(tail):
                self.seconds.append(passed)
            elif passed > _DEADLINE_S:
                raise RuntimeError(f"not found {passed:.1f} s after its acknowledgement")
            else:
                self._waiting.append((tail, since))


class _Adding:
    """Adds documents, one commit after the other."""

    def __init__(self, writer: CorpusWriter, text: Tokens) -> None:
        self._writer = writer
        self._documents = iter(text.documents())
        self._vocabulary = text.vocabulary
        self._draw = np.random.default_rng(0)
        self._bytes_per_token = text.text_bytes / len(text.tokens)
        self._number = 0
        self._added = 0.0

    def add(self, size: float) -> np.ndarray:
        """Adds about so many bytes of text as one commit; returns what only that holds.

        Random tokens, int32[suffix_max], that a document of their own begins with.
        """
        drawn = self._draw.integers(0, self._vocabulary, 2 * SETTINGS.suffix_max, np.uint32)
        group = [Put(Document(f"probe-{self._number}", drawn))]
        while size > 0:
            tokens = np.asarray(next(self._documents))
            group.append(Put(Document(f"document-{self._number}", tokens)))
            self._number += 1
            size -= len(tokens) * self._bytes_per_token
            self._added += len(tokens) * self._bytes_per_token
        self._writer.write(group)
        return drawn[: SETTINGS.suffix_max].astype(np.int32)

    def at_rate(self, seconds: float, added: Any) -> float:
        """Adds `BYTES_PER_S`, telling ``added``; returns what became of it, bytes per second."""
        self._added, started = 0.0, time.perf_counter()
        while (passed := time.perf_counter() - started) < seconds:
            if (due := passed * BYTES_PER_S - self._added) > 0:
                added.put((self.add(due), time.monotonic()))
            self._writer.tick()
            time.sleep(1 / COMMITS_PER_S)
        return self._added / passed
