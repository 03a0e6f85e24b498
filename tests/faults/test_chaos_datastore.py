"""Shards come, go and are killed, and so is their controller, while clients write and ask.

No answer may be wrong, partial or without a document that was acknowledged a second ago; at any
time one replica of each slot is left alone by whoever kills.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from rasd.datastore import Scale
from rasd.errors import ServerError
from tests.actors.askers import asking
from tests.actors.history import FOUND_S, History, document, key, versions
from tests.actors.running import Service, datastore
from tests.service.running import processes, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

CORPUS = "notes"
DOCUMENTS = 160
CLIENTS = 4
FROZEN = "frozen shard"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with datastore(store={"flush_tokens": 200, "grace_s": 5.0}) as service:
        yield service


class Thread:
    """Does something again and again, until it is closed; fails there if it failed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.ended = threading.Event()
        self.done: Counter[str] = Counter()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def act(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.ended.set()
        self._thread.join(300)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self.ended.is_set():
                self.act()
        except BaseException as error:
            self._error = error


class Writer(Thread):
    """Adds, replaces and deletes documents at random; repeats a call until it is acknowledged."""

    def __init__(self, service: Service, history: History, seed: int) -> None:
        self._service = service
        self._history = history
        super().__init__(seed)

    def act(self) -> None:
        number = self.rng.randrange(DOCUMENTS)
        version = None if self.rng.random() < 0.25 else self.rng.randrange(1000)
        self._history.begin(number, version)
        if version is None:
            self._service.insist("delete", CORPUS, [f"doc-{number}"])
            self.done["deleted"] += 1
        else:
            self._service.insist("add", CORPUS, [document(number, version)])
            self.done["added"] += 1
        self._history.acknowledge(number)


class Nemesis(Thread):
    """Kills at random: the controller at any time, a shard when every slot has two.

    ``kills`` says how many of each; a shard may also be frozen.
    """

    def __init__(self, service: Service, seed: int, kills: dict[str, int]) -> None:
        self.kills = kills
        self._service = service
        super().__init__(seed)

    @property
    def left(self) -> list[str]:
        """Whom it has yet to kill."""
        return [kind for kind, kills in self.kills.items() if self.done[kind] < kills]

    def act(self) -> None:
        if self.ended.wait(self.rng.uniform(0.5, 4)) or not self.left:
            return
        kind = self.rng.choice(self.left)
        if kind in ("ShardActor", FROZEN) and not self._whole():
            return
        there = processes("ShardActor" if kind == FROZEN else kind)
        if not there:
            return
        number = self.rng.randrange(len(there))
        if kind == FROZEN:
            os.kill(there[number], signal.SIGSTOP)
        else:
            self._service.kill(kind, number)
        self.done[kind] += 1

    def _whole(self) -> bool:
        """Whether whoever asks by the newest table has two shards to ask, everywhere."""
        try:
            status = self._service.ask("status")
        except ServerError:
            return False
        table = self._service.tables.newest
        answer = Counter(shard.slot for shard in status.shards)
        return table.version == status.version and all(
            len(slot.addresses) > 1 and answer[number] > 1
            for number, slot in enumerate(table.slots)
        )


def live_through(
    service: Service, seed: int, scales: list[Scale], kills: dict[str, int], writes: int
) -> None:
    """Goes through some scales while everything happens at once."""
    service.insist("scale", Scale(1, 2))
    service.settled(1, 2)
    history = History(DOCUMENTS)
    service.insist("create", CORPUS)
    until(lambda: CORPUS in service.tables.newest.corpora, "the corpus")
    seeds = range(seed, seed + CLIENTS)
    with asking(service.client, history, CORPUS, *seeds) as askers:
        writer, nemesis = Writer(service, history, seed), Nemesis(service, seed, kills)
        for scale in scales:
            service.insist("scale", scale)
            service.settled(scale.shards, scale.replicas)
        until(lambda: not nemesis.left and writer.done.total() >= writes, "kills", 600)
        nemesis.close()
        service.settled(scales[-1].shards, scales[-1].replicas)
        writer.close()
        check_all(service, history)
    answers = [asker.answers for asker in askers]
    slowest_s = max(asker.slowest_s for asker in askers)
    print(f"{nemesis.done}, {writer.done}, {answers} answers, slowest {slowest_s:.2f} s")
    assert not [asker.partial for asker in askers if asker.partial]
    assert writer.done["added"] and writer.done["deleted"]
    service.insist("drop", CORPUS)


def check_all(service: Service, history: History) -> None:
    """Nothing is written any more: every document is what it was made last."""
    until_s = time.monotonic() + FOUND_S
    until(lambda: time.monotonic() > until_s, "rest")
    client = service.client()
    reply = client.ask([key(group) for group in range(history.groups)], CORPUS)
    assert not reply.partial
    seen = {number: version for found in reply.found for number, version in versions(found).items()}
    there = {number: history.now(number) for number in range(DOCUMENTS)}
    assert seen == {number: version for number, version in there.items() if version is not None}
    client.close()


def test_nothing_is_missing_while_shards_and_controller_die(service: Service, seed: int) -> None:
    kills = {"ShardActor": 3, "Datastore": 1}
    live_through(service, seed, [Scale(4, 2), Scale(2, 2)], kills, writes=60)


@pytest.mark.slow
def test_nothing_is_missing_for_minutes(service: Service, seed: int) -> None:
    rng = random.Random(seed)
    scales = [Scale(rng.randint(1, 5), rng.randint(2, 3)) for _ in range(8)]
    kills = {"ShardActor": 20, FROZEN: 4, "Datastore": 6, "WriterActor": 3}
    live_through(service, seed + 1, scales, kills, writes=500)
