"""Shards over sockets: together they say what one store says, and none of them can hold a step."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from actors.retrieve import RemoteRetriever
from actors.rpc import Server
from actors.shard import ShardEntry, ShardService, ShardSetting, ShardTable
from actors.wire import ShardQuery
from rasd.config import RetrievalConfig, SpeculationConfig
from rasd.errors import StageTimeout
from rasd.retrieval import LocalRetriever, ShardStore, build_corpus
from rasd.stages import RetrieveQuery, RetrieveReply, RetrieveRequest
from rasd.trie import Continuations
from tests.actors.threads import HOST, SECRET, served

VOCABULARY, HASH, PARTITIONS = 50, "h" * 64, 4
SETTINGS = RetrievalConfig(suffix_min=2, depth=4, nodes=256)
SPECULATION = SpeculationConfig(breaker_misses=2, breaker_probe_s=0.2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpora")
    draw = np.random.default_rng(5)
    for name in ("one", "two"):
        documents = [(f"d{i}", draw.integers(0, 8, 60).astype(np.uint32)) for i in range(20)]
        build_corpus(
            root,
            name,
            documents,
            partitions=PARTITIONS,
            vocabulary=VOCABULARY,
            tokenizer_hash=HASH,
        )
    return root


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def shard(stack: ExitStack, root: Path) -> ShardService:
    setting = ShardSetting(root, VOCABULARY, HASH, SETTINGS, lease_s=60)
    service = ShardService(setting, HOST, SECRET)
    stack.enter_context(served(service.server))
    return service


def table_of(services: list[ShardService], version: int, *corpora: str) -> ShardTable:
    """Partitions dealt in turn; every shard has loaded its own."""
    entries = []
    for i, service in enumerate(services):
        mine = tuple(range(i, PARTITIONS, len(services)))
        holdings = dict.fromkeys(corpora, mine)
        service.load(version, holdings)
        entries.append(ShardEntry(service.server.address, holdings))
    return ShardTable(version, tuple(entries))


def retriever(stack: ExitStack, table: ShardTable) -> RemoteRetriever:
    remote = RemoteRetriever(SETTINGS, SPECULATION, SECRET)
    stack.callback(remote.close)
    remote.set_table(table)
    return remote


def asking(step: int, *corpora: str, queries: int = 6) -> RetrieveRequest:
    draw = np.random.default_rng(step)
    tails = [draw.integers(0, 8, 5).astype(np.int32) for _ in range(queries)]
    return RetrieveRequest(step, [RetrieveQuery(i, t, corpora) for i, t in enumerate(tails)])


def first_tokens(found: Continuations) -> dict[int, int]:
    """The tokens right behind the anchor and their counts."""
    first = found.parents == -1
    return dict(zip(found.tokens[first].tolist(), found.counts[first].tolist(), strict=True))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_say_what_one_store_says(stack: ExitStack, root: Path, count: int) -> None:
    names = ("one", "two")
    remote = retriever(stack, table_of([shard(stack, root) for _ in range(count)], 1, *names))
    store = ShardStore(root, dict.fromkeys(names), vocabulary=VOCABULARY, tokenizer_hash=HASH)
    local = LocalRetriever(store, SETTINGS)
    hits = 0
    for step, corpora in enumerate([("one",), ("two",), names, ()] * 3):
        request = asking(step, *corpora)
        here, there = local.retrieve(request).wait(0), remote.retrieve(request).wait(5)
        assert not there.partial and there.step == step
        for a, b in zip(there.found, here.found, strict=True):
            assert a.match_length == b.match_length and first_tokens(a) == first_tokens(b)
            # A shard whose only occurrences end a document does not report them.
            assert a.total <= b.total if count > 1 else a.total == b.total
        hits += sum(len(found) > 0 for found in there.found)
    assert hits > 10


def test_no_shard_hears_of_corpora_it_does_not_hold(stack: ExitStack) -> None:
    heard: list[ShardQuery] = []

    def note(query: ShardQuery) -> RetrieveReply:
        heard.append(query)
        found = [Continuations.none()] * len(query.request.queries)
        return RetrieveReply(query.request.step, found)

    servers = [Server(HOST, SECRET, {ShardQuery: note}) for _ in range(2)]
    stack.enter_context(served(*servers))
    entries = [ShardEntry(s.address, {n: (0,)}) for s, n in zip(servers, ("a", "b"), strict=True)]
    remote = retriever(stack, ShardTable(1, tuple(entries)))
    queries = asking(1, "a").queries[:2] + asking(1, "c").queries[:2] + asking(1, "b").queries[:1]
    reply = remote.retrieve(RetrieveRequest(1, queries)).wait(5)
    assert len(reply.found) == 5 and not reply.partial
    assert sorted(len(query.request.queries) for query in heard) == [1, 2]
    assert {name for query in heard for q in query.request.queries for name in q.corpora} == {
        "a",
        "b",
    }


def test_a_dead_shard_makes_answers_partial_not_late(stack: ExitStack, root: Path) -> None:
    services = [shard(stack, root), shard(stack, root)]
    remote = retriever(stack, table_of(services, 1, "one"))
    assert not remote.retrieve(asking(1, "one")).wait(5).partial
    services[0].server.stop()
    deadline = time.monotonic() + 5
    while not (reply := remote.retrieve(asking(2, "one")).wait(5)).partial:
        assert time.monotonic() < deadline
    assert any(len(found) for found in reply.found)
    started = time.monotonic()
    for step in range(50):
        assert remote.retrieve(asking(step, "one")).wait(5).partial
    assert time.monotonic() - started < 2
    remote.set_table(table_of([services[1], shard(stack, root)], 2, "one"))  # re-created
    assert not remote.retrieve(asking(3, "one")).wait(5).partial


def slow_shard(stack: ExitStack, service: ShardService, gate: threading.Event) -> Server:
    """Answers as the service does, but only while the gate is open."""

    def search(query: ShardQuery) -> RetrieveReply:
        assert gate.wait(10)
        return service._search(query)

    server = Server(HOST, SECRET, {ShardQuery: search})
    stack.enter_context(served(server))
    stack.callback(gate.set)
    return server


def test_a_late_shard_costs_the_deadline_then_nothing(stack: ExitStack, root: Path) -> None:
    services, gate = [shard(stack, root), shard(stack, root)], threading.Event()
    table = table_of(services, 1, "one")
    frozen = slow_shard(stack, services[0], gate)
    entries = (ShardEntry(frozen.address, table.shards[0].holdings), table.shards[1])
    remote = retriever(stack, ShardTable(1, entries))
    times = []
    for step in range(6):
        started = time.monotonic()
        assert remote.retrieve(asking(step, "one")).wait(0.05).partial
        times.append(time.monotonic() - started)
    assert all(t >= 0.05 for t in times[:2]) and all(t < 0.04 for t in times[2:])
    gate.set()
    deadline = time.monotonic() + 10  # a probe closes the breaker
    while remote.retrieve(asking(7, "one")).wait(0.5).partial:
        assert time.monotonic() < deadline


def test_what_is_late_may_be_waited_for_again(stack: ExitStack, root: Path) -> None:
    services, gate = [shard(stack, root)], threading.Event()
    table = table_of(services, 1, "one")
    frozen = slow_shard(stack, services[0], gate)
    remote = retriever(
        stack, ShardTable(1, (ShardEntry(frozen.address, table.shards[0].holdings),))
    )
    pending = remote.retrieve(asking(1, "one"))
    with pytest.raises(StageTimeout):
        pending.wait(0.02)
    gate.set()
    assert not pending.wait(5).partial


def test_without_shards_there_is_an_empty_answer(stack: ExitStack) -> None:
    remote = retriever(stack, ShardTable(0))
    reply = remote.retrieve(asking(1, "one")).wait(5)
    assert [len(found) for found in reply.found] == [0] * 6 and not reply.partial


def test_both_versions_are_served_while_partitions_move(stack: ExitStack, root: Path) -> None:
    services = [shard(stack, root), shard(stack, root)]
    old = retriever(stack, table_of(services[:1], 1, "one"))
    new = retriever(stack, table_of(services, 2, "one"))
    for step in range(5):
        a, b = (r.retrieve(asking(step, "one")).wait(5) for r in (old, new))
        assert not a.partial and not b.partial
        assert [f.total for f in a.found] == [f.total for f in b.found]
    for version in range(3, 6):
        table_of(services, version, "one")
    assert old.retrieve(asking(9, "one")).wait(5).partial  # four versions behind


def test_a_damaged_reply_counts_as_none(stack: ExitStack) -> None:
    def short(query: ShardQuery) -> RetrieveReply:
        return RetrieveReply(query.request.step, [])

    server = Server(HOST, SECRET, {ShardQuery: short})
    stack.enter_context(served(server))
    remote = retriever(stack, ShardTable(1, (ShardEntry(server.address, {"one": (0,)}),)))
    reply = remote.retrieve(asking(1, "one")).wait(5)
    assert reply.partial and [len(found) for found in reply.found] == [0] * 6


def test_files_stay_closed_after_a_load_of_the_same(stack: ExitStack, root: Path) -> None:
    service = shard(stack, root)
    service.load(1, {"one": (0, 1)})
    before = len(os.listdir("/proc/self/fd"))
    for version in range(2, 12):
        service.load(version, {"one": (0, 1)})
    assert len(os.listdir("/proc/self/fd")) == before and service.version == 11
