"""Shards over corpora on disk: moved, written to, damaged, they say what brute force says."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from actors import rpc, shard
from actors.retrieve import RemoteRetriever
from actors.shard import ShardService, ShardSetting
from actors.table import Holdings, ShardTable, Slot
from actors.wire import ShardQuery
from rasd.config import SpeculationConfig, StoreConfig
from rasd.errors import InvalidRequest, StageUnavailable
from rasd.retrieval import ShardStore
from rasd.retrieval.flat import pack_queries, unpack_answers
from rasd.retrieval.store.corpora import create_corpus, drop_corpus
from rasd.retrieval.store.records import Delete, Document, Put, id_digest, partition_of
from rasd.retrieval.store.writer import CorpusWriter
from rasd.stages import RetrieveReply, RetrieveRequest
from rasd.trie import Continuations
from tests.actors.shards import PARTITIONS, SETTINGS, VOCABULARY, asking, deal, first_tokens
from tests.actors.threads import HOST, SECRET, served
from tests.retrieval import brute
from tests.retrieval.store.worlds import Submitter

HASH = "h" * 64
SPECULATION = SpeculationConfig(retrieve_deadline_s=2.0)


class World:
    """Two corpora, their writers, and what is in them."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root = root
        self._stack = stack
        self._draw = np.random.default_rng(7)
        self.writers: dict[str, CorpusWriter] = {}
        self.documents: dict[str, dict[str, list[int]]] = {}
        for name in ("one", "two"):
            self.create(name)
            self.add(name, *(f"d{i}" for i in range(20)))
            self.writers[name].flush()

    def create(self, name: str) -> None:
        create_corpus(
            self.root, name, partitions=PARTITIONS, vocabulary=VOCABULARY, tokenizer_hash=HASH
        )
        self.writers[name] = CorpusWriter(self.root, name, StoreConfig(), Submitter())
        self._stack.callback(self.writers[name].close)
        self.documents[name] = {}

    def add(self, name: str, *ids: str) -> None:
        """Adds or replaces documents by random ones."""
        for id_ in ids:
            self.documents[name][id_] = self._draw.integers(0, 8, 60).tolist()
        self.writers[name].write(
            [Put(Document(i, np.array(self.documents[name][i], np.uint32))) for i in ids]
        )

    def delete(self, name: str, *ids: str) -> None:
        for id_ in ids:
            del self.documents[name][id_]
        self.writers[name].write([Delete(id_) for id_ in ids])

    def service(self) -> ShardService:
        setting = ShardSetting(self.root, VOCABULARY, HASH, SETTINGS, lease_s=60, refresh_s=0.02)
        service = ShardService(setting, HOST, SECRET)
        self._stack.enter_context(served(service.server))
        self._stack.callback(service.close)
        return service

    def retriever(self, table: ShardTable) -> RemoteRetriever:
        remote = RemoteRetriever(SETTINGS, SPECULATION, SECRET, VOCABULARY)
        self._stack.callback(remote.close)
        remote.set_table(table)
        return remote

    def wanted(self, request: RetrieveRequest) -> list[Continuations]:
        """By brute force, over everything that lives."""
        return [
            brute.search(
                [text for name in query.corpora for text in self.documents[name].values()],
                query.tail.tolist(),
                SETTINGS,
            )
            for query in request.queries
        ]

    def is_right(self, reply: RetrieveReply, request: RetrieveRequest) -> bool:
        """Whether a complete reply says what brute force says."""
        assert not reply.partial
        pairs = list(zip(reply.found, self.wanted(request), strict=True))
        return all(
            found.match_length == wanted.match_length
            and first_tokens(found) == first_tokens(wanted)
            for found, wanted in pairs
        )


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(rpc, "STOP_POLL_MS", 20)
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def table_of(services: list[ShardService], version: int, *corpora: str) -> ShardTable:
    """Partitions dealt in turn; every shard has loaded its own."""
    holdings = deal(len(services), *corpora)
    for service, held in zip(services, holdings, strict=True):
        service.load(version, held)
    slots = [
        Slot(held, (service.server.address,), version)
        for service, held in zip(services, holdings, strict=True)
    ]
    return ShardTable(version, tuple(slots))


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline


@pytest.mark.parametrize("slots", [1, 3])
def test_slots_say_together_what_is_in_the_corpora(world: World, slots: int) -> None:
    remote = world.retriever(table_of([world.service() for _ in range(slots)], 1, "one", "two"))
    hits = 0
    for step, corpora in enumerate([("one",), ("two",), ("one", "two"), ()] * 2):
        request = asking(step, *corpora)
        reply = remote.retrieve(request).wait(5)
        assert world.is_right(reply, request)
        hits += sum(len(found) > 0 for found in reply.found)
    assert hits > 10


def test_what_is_written_is_found_soon_and_what_is_deleted_is_not(world: World) -> None:
    remote = world.retriever(table_of([world.service(), world.service()], 1, "one", "two"))
    request = asking(1, "one", "two")

    def right() -> bool:
        return world.is_right(remote.retrieve(request).wait(5), request)

    assert right()
    world.add("one", "new", "d3", "d4")
    until(right)
    world.delete("two", "d5", "d6")
    until(right)
    for writer in world.writers.values():
        writer.flush()
    until(right)
    world.add("two", "d5")
    until(right)


def test_old_and_new_tables_are_answered_while_partitions_move(world: World) -> None:
    services = [world.service() for _ in range(3)]
    tables = [
        table_of(services[:count], version, "one", "two")
        for version, count in enumerate((1, 2, 3, 1), start=1)
    ]
    remotes = [world.retriever(table) for table in tables]
    for round_ in range(2):
        world.add("one", f"new{round_}")
        for step, remote in enumerate(remotes):
            request = asking(step, "one", "two")
            until(lambda r=remote, q=request: world.is_right(r.retrieve(q).wait(5), q))


def ask(service: ShardService, version: int, request: RetrieveRequest) -> list[Continuations]:
    """Straight, without a socket."""
    query = ShardQuery(version, request.step, pack_queries(request.queries))
    reply = service._search(query)
    return unpack_answers(reply.answers, request.queries, VOCABULARY)


def test_each_version_searches_its_own_partitions_only(world: World) -> None:
    service = world.service()
    for version, held in enumerate([{"one": (0,)}, {"one": (1, 2), "two": (3,)}], start=1):
        service.load(version, held)
    for version, held in service.loaded.items():
        request = asking(version, "one", "two", "three")
        for query, found in zip(request.queries, ask(service, version, request), strict=True):
            texts = [
                text
                for name, partitions in held.items()
                for id_, text in world.documents[name].items()
                if partition_of(id_digest(id_), PARTITIONS) in partitions
            ]
            wanted = brute.search(texts, query.tail.tolist(), SETTINGS)
            assert brute.as_lists(found) == brute.as_lists(wanted)


def test_no_search_touches_a_corpus_that_is_not_read(world: World) -> None:
    service = world.service()
    service.load(1, {"one": (0, 1, 2, 3), "two": (0, 1, 2, 3)})
    request = asking(1, "one")
    before = [brute.as_lists(found) for found in ask(service, 1, request)]
    world.add("two", *(f"more{i}" for i in range(20)))
    newest = service._loaded[1].retriever.store
    count = newest.tokens
    until(lambda: newest.tokens > count)
    assert [brute.as_lists(found) for found in ask(service, 1, request)] == before
    assert all(len(found) == 0 for found in ask(service, 1, asking(1)))


def test_versions_go_when_nobody_can_need_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = world.service()
    for version in range(1, 6):
        service.load(version, {"one": (version % 4,)}, keep=(2,))
    assert set(service.loaded) == {1, 2, 3, 4, 5} and service.version == 5
    monkeypatch.setattr(shard, "BEHIND_S", 0.0)
    until(lambda: set(service.loaded) == {2, 5})
    with pytest.raises(StageUnavailable, match="version 4 is not held"):
        ask(service, 4, asking(1, "one"))
    service.load(3, {"one": (3,)}, keep=(5,))  # an older one may come again
    until(lambda: set(service.loaded) == {3, 5})
    time_ = time.monotonic() + 0.1
    until(lambda: time.monotonic() > time_)
    assert set(service.loaded) == {3, 5}


def mapped(root: Path) -> int:
    """How many files below ``root`` this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum(str(root) in line for line in lines)


def test_versions_share_what_they_have_in_common(world: World) -> None:
    service = world.service()
    everything = dict.fromkeys(("one", "two"), (0, 1, 2, 3))
    service.load(1, everything)
    before = mapped(world.root)
    assert before > 0
    parts: list[Holdings] = [everything, {"one": (0, 1)}, {"one": (1, 2), "two": (3,)}]
    for version, held in enumerate(parts * 3, start=2):
        service.load(version, held)
        ask(service, version, asking(1, "one"))
    assert mapped(world.root) == before


def test_corpora_may_come_and_go_under_a_version(world: World) -> None:
    service = world.service()
    service.load(1, {"one": (0, 1, 2, 3), "three": (0, 1, 2, 3)})
    request = asking(1, "one", "three")
    world.documents["three"] = {}

    def right() -> bool:
        found = ask(service, 1, request)
        wanted = world.wanted(request)
        return [first_tokens(f) for f in found] == [first_tokens(w) for w in wanted]

    assert right()
    world.create("three")
    world.add("three", "a", "b")
    until(right)
    world.writers["three"].close()
    drop_corpus(world.root, "three")
    world.documents["three"] = {}
    until(right)
    assert service.status("n").damaged == {}


def test_damage_makes_answers_partial_for_who_reads_the_corpus(world: World) -> None:
    victim = next((world.root / "one").rglob("*.seg"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.unlink()
    victim.write_bytes(data)
    service = world.service()
    remote = world.retriever(table_of([service], 1, "one", "two"))
    assert remote.retrieve(asking(1, "one")).wait(5).partial
    assert remote.retrieve(asking(1, "one", "two")).wait(5).partial
    assert not remote.retrieve(asking(1, "two")).wait(5).partial
    damaged = service.status("n").damaged
    assert list(damaged) == ["one"] and any(victim.name in file for file in damaged["one"])


def test_a_search_does_not_wait_for_a_refresh(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = world.service()
    service.load(1, {"one": (0, 1, 2, 3)})
    begun, gate = threading.Event(), threading.Event()

    def slow(self: ShardStore) -> bool:
        begun.set()
        return gate.wait(20)

    monkeypatch.setattr(ShardStore, "refresh", slow)
    assert begun.wait(5)
    request = asking(1, "one")
    remote = world.retriever(ShardTable(1, (Slot({"one": ()}, (service.server.address,), 1),)))
    assert world.is_right(remote.retrieve(request).wait(5), request)
    assert not gate.is_set()
    gate.set()


def test_status_counts(world: World) -> None:
    service = world.service()
    assert service.status("n").tokens == 0
    service.load(1, {"one": (0, 1, 2, 3), "two": (1,)})
    for step in range(3):
        ask(service, 1, asking(step, "one", queries=6))
    status = service.status("n")
    mine = [
        text
        for name, partitions in service.loaded[1].items()
        for id_, text in world.documents[name].items()
        if partition_of(id_digest(id_), PARTITIONS) in partitions
    ]
    assert (status.partitions, status.tokens) == (5, sum(map(len, mine)))
    assert status.queries == 18 and status.queries_per_s > 0
    assert 0 < status.p50_ms <= status.p99_ms
    assert status.resident_bytes > 2**20 and status.node == "n"
    assert status.address == service.server.address and status.damaged == {}
    until(lambda: service.status("n").lag_s == 0)


def test_origins_name_a_document_that_says_so(world: World) -> None:
    remote = world.retriever(table_of([world.service(), world.service()], 1, "one", "two"))
    queries = [replace(query, origins=True) for query in asking(1, "two", "one").queries]
    reply = remote.retrieve(RetrieveRequest(1, queries)).wait(5)
    seen = 0
    for query, found in zip(queries, reply.found, strict=True):
        assert found.origins is not None or len(found) == 0
        for node in range(len(found)):
            assert found.origins is not None
            name = query.corpora[int(found.origins.corpora[node])]
            digest = found.origins.documents[node].tobytes()
            (text,) = [t for i, t in world.documents[name].items() if id_digest(i) == digest]
            path, above = [], node
            while above >= 0:
                path.append(int(found.tokens[above]))
                above = int(found.parents[above])
            matched = query.tail[len(query.tail) - found.match_length :].tolist()
            end = int(found.origins.offsets[node]) + 1
            full = matched + path[::-1]
            assert text[end - len(full) : end] == full
            seen += 1
    assert seen > 20


def test_a_name_that_is_none_is_refused(world: World) -> None:
    service = world.service()
    with pytest.raises(InvalidRequest):
        service.load(1, {"../one": (0,)})
    assert service.loaded == {}


def _serve(pipe: Connection, root: Path, holdings: Holdings) -> None:
    setting = ShardSetting(root, VOCABULARY, HASH, SETTINGS, lease_s=60)
    service = ShardService(setting, HOST, SECRET)
    service.load(1, holdings)
    pipe.send(service.server.address)
    service.server.serve()


@pytest.mark.slow
def test_processes_that_freeze_or_die_cost_no_answer(world: World, stack: ExitStack) -> None:
    """Two slots of two processes; one at a time is stopped, goes on, or is killed."""
    spawn = multiprocessing.get_context("spawn")
    slots, processes = [], []
    for held in deal(2, "one", "two"):
        addresses = []
        for _ in range(2):
            here, there = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(there, world.root, held), daemon=True)
            process.start()
            stack.callback(process.kill)
            addresses.append(here.recv())
            processes.append(process)
        slots.append(Slot(held, tuple(addresses), 1))
    speculation = SpeculationConfig(retrieve_deadline_s=0.5, breaker_probe_s=0.5)
    remote = RemoteRetriever(SETTINGS, speculation, SECRET, VOCABULARY)
    stack.callback(remote.close)
    remote.set_table(ShardTable(1, tuple(slots)))
    requests = [asking(step, "one", "two", queries=2) for step in range(10)]

    def ask_for(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for request in requests:
                assert world.is_right(remote.retrieve(request).wait(0.5), request)

    ask_for(0.5)
    for victim, signals in (
        (0, (signal.SIGSTOP, signal.SIGCONT)),
        (3, (signal.SIGKILL,)),
        (1, (signal.SIGSTOP, signal.SIGCONT)),
    ):
        for sent in signals:
            os.kill(processes[victim].pid or 0, sent)
            ask_for(2.0)
    processes[2].kill()  # the last of its slot
    until(lambda: remote.retrieve(requests[0]).wait(0.5).partial)
