"""Clients of shards, as an engine is one: they follow the tables and ask all the time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from actors.retrieve import RemoteRetriever
from actors.table import ShardTable
from rasd.config import SpeculationConfig
from rasd.errors import StageTimeout
from rasd.stages import RetrieveQuery, RetrieveReply, RetrieveRequest
from rasd.trie import Continuations
from tests.actors.history import SETTINGS, History, key

# Machines that start many processes at once are slow: the deadline is not what is tested here.
SPECULATION = SpeculationConfig(retrieve_deadline_s=2.0, breaker_misses=3)
WAIT_S = 10.0


class Tables:
    """Follows a datastore's tables in a thread of its own, as a router does."""

    def __init__(self, handle: Any) -> None:
        self.newest = ShardTable(0)
        self._handle = handle
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _follow(self) -> None:
        while not self._ended.is_set():
            try:
                table = self._handle.table.remote(self.newest.version).result(timeout_s=30)
            except Exception:  # it restarts
                self._ended.wait(0.2)
                continue
            if table is not None:
                self.newest = table


class Client:
    """One engine's side: asks by the newest table. Belongs to one thread."""

    def __init__(self, tables: Tables, secret: bytes, vocabulary: int) -> None:
        self._tables = tables
        self._known = ShardTable(0)
        self._retriever = RemoteRetriever(SETTINGS, SPECULATION, secret, vocabulary)
        self._step = 0

    def ask(self, tails: list[list[int]], *corpora: str) -> RetrieveReply:
        """The answers to several questions, and whether they are partial."""
        if self._tables.newest is not self._known:
            self._known = self._tables.newest
            self._retriever.set_table(self._known)
        self._step += 1
        queries = [
            RetrieveQuery(number, np.asarray(tail, np.int32), corpora)
            for number, tail in enumerate(tails)
        ]
        try:
            return self._retriever.retrieve(RetrieveRequest(self._step, queries)).wait(WAIT_S)
        except StageTimeout:
            nothing = [Continuations.none() for _ in tails]
            return RetrieveReply(self._step, nothing, partial=tuple(range(len(tails))))

    def close(self) -> None:
        self._retriever.close()


class Asker:
    """Asks about random groups in a thread of its own, until it ends or fails.

    Attributes:
        answers, partial: how many there were.
        failures: what was wrong with complete answers; the first ends the thread.
    """

    def __init__(self, client: Client, history: History, corpus: str, seed: int) -> None:
        self.answers = 0
        self.partial: list[float] = []
        self.failures: list[AssertionError] = []
        self.slowest_s = 0.0
        self._client = client
        self._history = history
        self._corpus = corpus
        self._rng = random.Random(seed)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._client.close()

    def _run(self) -> None:
        while not self._ended.is_set() and not self.failures:
            self._ask()
            self._ended.wait(0.005)

    def _ask(self) -> None:
        groups = [self._rng.randrange(self._history.groups) for _ in range(4)]
        asked = time.monotonic()
        reply = self._client.ask([key(group) for group in groups], self._corpus)
        answered = time.monotonic()
        self.answers += 1
        self.slowest_s = max(self.slowest_s, answered - asked)
        if reply.partial:
            self.partial.append(answered)
            return
        try:
            for group, found in zip(groups, reply.found, strict=True):
                self._history.check(group, found, asked, answered)
        except AssertionError as error:
            self.failures.append(error)


@contextmanager
def asking(
    make: Callable[[], Client], history: History, corpus: str, *seeds: int
) -> Iterator[list[Asker]]:
    """An asker per seed; at the end none has had a wrong answer, and each had some."""
    askers = [Asker(make(), history, corpus, seed) for seed in seeds]
    try:
        yield askers
    finally:
        for asker in askers:
            asker.close()
    for asker in askers:
        assert not asker.failures, asker.failures[0]
        assert asker.answers
