"""Nodes of a cluster go away, freeze or are full, while clients ask shards."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from ray.cluster_utils import Cluster

from actors import fleet as fleets
from actors.control import Controller
from actors.corpora import CorporaWatch
from actors.fleet import Fleet
from actors.shard import ShardSetting
from actors.table import ShardTable
from rasd.config import StoreConfig
from rasd.datastore import Scale
from rasd.retrieval.store.corpora import create_corpus
from rasd.retrieval.store.records import Document, Put
from rasd.retrieval.store.writer import CorpusWriter
from tests.actors.askers import Asker, Client, asking
from tests.actors.history import SETTINGS, History, tokens

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SECRET = b"s" * 32
VOCABULARY, HASH = 5120, "h" * 64
CORPUS = "notes"
DOCUMENTS = 80


class Nodes:
    """A head and some nodes that can be lost."""

    def __init__(self) -> None:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        self.cluster = Cluster(
            initialize_head=True,
            connect=True,
            head_node_args={"num_cpus": 2, "include_dashboard": False},
        )
        self.others: dict[str, Any] = {}

    def add(self) -> str:
        node = self.cluster.add_node(num_cpus=1)
        self.others[node.node_id] = node
        return str(node.node_id)

    def kill(self, node: str) -> None:
        """With all that runs there, as when the power goes."""
        everything = processes_of(self.others[node])
        for process in everything:
            process.kill()
        self.cluster.remove_node(self.others.pop(node), allow_graceful=False)

    def freeze(self, node: str) -> Callable[[], None]:
        """Nothing there answers any more. Returns how to wake it."""
        everything = processes_of(self.others[node])
        for process in everything:
            process.send_signal(signal.SIGSTOP)

        def wake() -> None:
            for process in everything:
                if process.is_running():
                    process.send_signal(signal.SIGCONT)

        return wake


def processes_of(node: Any) -> list[psutil.Process]:
    """The raylet of a node and its workers."""
    (info,) = node.all_processes["raylet"]
    raylet = psutil.Process(info.process.pid)
    return [raylet, *raylet.children(recursive=True)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    import ray

    nodes = Nodes()
    yield nodes
    ray.shutdown()
    nodes.cluster.shutdown()


class Service:
    """A controller in this process, and a client that asks all the time."""

    def __init__(self, root: Path, prefix: str) -> None:
        setting = ShardSetting(root, VOCABULARY, HASH, SETTINGS, lease_s=60)
        self.root = root
        self.fleet = Fleet(prefix, SECRET, setting)
        self.controller = Controller(
            self.fleet, CorporaWatch(root, VOCABULARY, HASH).look, 1_000_000
        )
        self.history = History(DOCUMENTS)
        self.tasks: list[asyncio.Task[None]] = []

    @property
    def newest(self) -> ShardTable:
        """As `tests.actors.askers.Tables`."""
        return self.controller.table

    async def start(self, scale: Scale) -> None:
        await self.fleet.adopt()
        self.tasks = [asyncio.create_task(task) for task in self.controller.tasks()]
        self.controller.set_scale(scale)
        await until(self.whole)

    def create(self, name: str) -> None:
        create_corpus(self.root, name, partitions=4, vocabulary=VOCABULARY, tokenizer_hash=HASH)

    def fill(self) -> None:
        for number in range(DOCUMENTS):
            self.history.begin(number, 0)
        with (
            ThreadPoolExecutor(1) as threads,
            closing(CorpusWriter(self.root, CORPUS, StoreConfig(), threads.submit)) as writer,
        ):
            writer.write([Put(written(number)) for number in range(DOCUMENTS)])
            writer.flush()
        for number in range(DOCUMENTS):
            self.history.acknowledge(number)

    @contextmanager
    def asked(self) -> Iterator[Asker]:
        """While somebody asks, whose answers are right."""
        client = Client(self, SECRET, VOCABULARY)
        with asking(lambda: client, self.history, CORPUS, 1) as (asker,):
            yield asker

    def nodes_of(self, slot: int) -> set[str]:
        """Where the shards are that the table names."""
        return {shard.node for number, _, shard in self.controller.shards() if number == slot}

    def whole(self) -> bool:
        """Every slot is held as often as it should be, on as many nodes."""
        scale = self.controller.scale
        assert scale is not None
        return not self.controller.moving and all(
            len(self.nodes_of(slot)) == scale.replicas for slot in range(scale.shards)
        )

    def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.fleet.close()


def written(number: int) -> Document:
    return Document(f"doc-{number}", np.asarray(tokens(number, 0), np.uint32))


async def until(condition: Callable[[], object], patience_s: float = 180) -> None:
    async with asyncio.timeout(patience_s):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    service = Service(tmp_path, f"shard-{secrets.token_hex(4)}-")
    service.create(CORPUS)
    service.fill()
    yield service
    service.close()


@pytest.fixture
def three(nodes: Nodes) -> Nodes:
    """The head and two others."""
    while len(nodes.others) < 2:
        nodes.add()
    return nodes


async def test_with_replicas_nobody_misses_a_node(three: Nodes, service: Service) -> None:
    await service.start(Scale(2, 2))
    victim = next(node for node in three.others if node in service.nodes_of(0))
    with service.asked() as asker:
        await until(lambda: asker.answers > 10)
        three.kill(victim)
        await until(lambda: victim not in service.nodes_of(0) | service.nodes_of(1))
        await until(service.whole)
        answers = asker.answers
        await until(lambda: asker.answers > answers + 10)
    assert not asker.partial


async def test_without_replicas_answers_are_partial_until_it_is_back(
    three: Nodes, service: Service
) -> None:
    await service.start(Scale(4, 1))
    used = set().union(*(service.nodes_of(slot) for slot in range(4)))
    victim = next(node for node in three.others if node in used)
    with service.asked() as asker:
        await until(lambda: asker.answers > 10)
        assert not asker.partial
        three.kill(victim)
        await until(lambda: asker.partial)
        await until(lambda: service.controller.moving)
        await until(lambda: not service.controller.moving)
        answers, partial = asker.answers, len(asker.partial)
        await until(lambda: asker.answers > answers + 20)
        assert len(asker.partial) - partial < 5  # the last ones were under way


async def test_a_node_that_freezes_is_given_up(three: Nodes, service: Service) -> None:
    """Ray takes a minute to say so."""
    await service.start(Scale(2, 2))
    victim = next(node for node in three.others if node in service.nodes_of(0))
    with service.asked() as asker:
        await until(lambda: asker.answers > 10)
        wake = three.freeze(victim)
        try:
            await until(lambda: victim not in service.nodes_of(0) | service.nodes_of(1), 30)
            await until(lambda: not service.controller.moving, 90)
        finally:
            wake()
        answers = asker.answers
        await until(lambda: asker.answers > answers + 10)
    assert not asker.partial
    three.kill(victim)


async def test_what_fits_nowhere_holds_up_nothing(
    three: Nodes, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets, "CPU_SHARE", 1)
    await service.start(Scale(2, 2))  # on four CPUs
    victim = next(node for node in three.others if node in service.nodes_of(0))
    with service.asked() as asker:
        await until(lambda: asker.answers > 10)
        three.kill(victim)
        await until(lambda: len(service.nodes_of(0)) + len(service.nodes_of(1)) == 3)
        service.create("later")
        await until(lambda: "later" in service.newest.corpora, 10)
        three.add()
        await until(lambda: not service.controller.moving)
    assert not asker.partial


async def test_twins_are_parted_when_there_is_a_node_again(three: Nodes, service: Service) -> None:
    for victim in list(three.others):
        three.kill(victim)
    await until(lambda: not set(three.others))
    starting = asyncio.create_task(service.start(Scale(1, 2)))
    await until(lambda: service.controller.scale is not None and not service.controller.moving)
    assert len(service.nodes_of(0)) == 1
    with service.asked() as asker:
        three.add()
        await starting
    assert service.whole() and not asker.partial
