"""The controller drives a fleet by its plans: what is slow or fails holds up nothing else."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace

import pytest

from actors import control
from actors.control import Controller
from actors.fleet import Shard
from actors.plan import Corpus
from actors.table import Holdings
from rasd.datastore import Scale


class Fleet:
    """Shards that are lists; they start and load when the event loop turns, unless told not to."""

    def __init__(self) -> None:
        self.members: list[Shard] = []
        self.starting: Counter[int] = Counter()
        self.retired: list[Shard] = []
        self.on_change: Callable[[], None] = lambda: None
        self.broken: set[int] = set()
        self.doubled: set[int] = set()
        self.born = 0
        self.nodes = SimpleNamespace(refresh=self._refresh)

    async def _refresh(self) -> bool:
        return False

    def start(self, slot: int) -> None:
        self.starting[slot] += 1
        if slot not in self.broken:
            asyncio.get_running_loop().call_soon(self._join, slot)

    def _join(self, slot: int) -> None:
        self.starting[slot] -= 1
        self.born += 1
        self.members.append(Shard(None, slot, f"a{self.born}", f"n{self.born}", {}))
        self.doubled.discard(slot)
        self.on_change()

    def hold(self, shard: Shard, wanted: dict[int, Holdings]) -> None:
        if wanted.keys() - shard.loaded.keys():
            asyncio.get_running_loop().call_soon(self._load, shard, wanted)

    def _load(self, shard: Shard, wanted: dict[int, Holdings]) -> None:
        shard.loaded |= wanted
        self.on_change()

    def retire(self, shard: Shard) -> None:
        self.members.remove(shard)
        self.retired.append(shard)

    def crowded(self, slot: int) -> bool:
        return slot in self.doubled

    def lose(self, shard: Shard) -> None:
        self.members.remove(shard)
        self.on_change()


class Root:
    """What `look` finds."""

    def __init__(self) -> None:
        self.corpora = {"one": Corpus(4, 1.0)}
        self.broken = False
        self.looks = 0

    def look(self) -> dict[str, Corpus]:
        self.looks += 1
        if self.broken:
            raise OSError("stale file handle")
        return dict(self.corpora)


class Running:
    def __init__(self) -> None:
        self.fleet = Fleet()
        self.root = Root()
        self.controller = Controller(self.fleet, self.root.look, 100)  # type: ignore[arg-type]
        self.tasks = [asyncio.create_task(task) for task in self.controller.tasks()]

    def serves(self, *corpora: str, slots: int = 0, replicas: int = 0) -> bool:
        """Whether the table is this; 0 is any number."""
        table = self.controller.table
        held = [len(slot.addresses) for slot in table.slots]
        return (
            table.corpora == set(corpora)
            and slots in (0, len(held))
            and all(replicas in (0, number) for number in held)
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                assert not any(task.done() for task in self.tasks)
                await asyncio.sleep(0.005)


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    for name in ("LOOK_S", "_PACE_S", "_TICK_S", "_RETRY_S"):
        monkeypatch.setattr(control, name, 0.01)
    service = Running()
    yield service
    for task in service.tasks:
        task.cancel()


async def test_nothing_happens_before_everything_is_known(service: Running) -> None:
    await service.until(lambda: service.controller.corpora is not None)
    assert not service.fleet.born and service.controller.moving
    assert await service.controller.next_table(0, 0.02) is None
    service.controller.set_scale(Scale(2, 2))
    await service.until(lambda: service.serves("one", slots=2, replicas=2))
    assert not service.controller.moving
    assert [(slot, replica) for slot, replica, _ in service.controller.shards()] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]


async def test_whoever_polls_hears_of_the_next_table(service: Running) -> None:
    polls = [asyncio.create_task(service.controller.next_table(known, 10)) for known in (0, 7)]
    await asyncio.sleep(0)
    service.controller.set_scale(Scale(1, 1))
    first = await asyncio.gather(*polls)
    table = first[0]
    assert table is not None and first[1] is table and table.version > 100
    assert await service.controller.next_table(7, 10) is table
    assert await service.controller.next_table(table.version, 0.02) is None
    poll = asyncio.create_task(service.controller.next_table(table.version, 10))
    await asyncio.sleep(0)
    service.fleet.lose(service.fleet.members[0])
    after = await poll
    assert after is not None and after.version > table.version


async def test_what_is_told_before_the_root_is_known_is_not_all_there_is(
    service: Running,
) -> None:
    service.root.corpora["two"] = Corpus(3, 2.0)
    service.controller.tell("two", Corpus(3, 2.0))
    service.controller.set_scale(Scale(1, 1))
    assert service.controller.corpora is None
    await service.until(lambda: bool(service.controller.table.version))
    assert service.serves("one", "two")


async def test_corpora_are_followed_told_or_not(service: Running) -> None:
    service.controller.set_scale(Scale(2, 1))
    await service.until(lambda: service.serves("one"))
    service.root.corpora["two"] = Corpus(3, 2.0)
    await service.until(lambda: service.serves("one", "two"))
    service.root.corpora["three"] = Corpus(1, 3.0)
    service.controller.tell("three", Corpus(1, 3.0))
    assert "three" in (service.controller.corpora or {})
    await service.until(lambda: service.serves("one", "two", "three"))
    del service.root.corpora["one"]
    service.controller.tell("one", None)
    await service.until(lambda: service.serves("two", "three"))
    service.root.broken = True
    await service.until(lambda: service.root.broken)
    assert service.serves("two", "three")


async def test_a_root_that_says_nothing_changes_nothing(
    service: Running, caplog: pytest.LogCaptureFixture
) -> None:
    service.controller.set_scale(Scale(1, 1))
    await service.until(lambda: service.serves("one"))
    version = service.controller.table.version
    service.root.looks, service.root.broken = 0, True
    await service.until(lambda: service.root.looks > 3)
    assert service.serves("one") and service.controller.table.version == version
    assert caplog.text.count("stale file handle") == 1
    service.controller.tell("one", None)  # the writer did it
    await service.until(lambda: service.serves())


async def test_what_is_looked_up_while_somebody_tells_does_not_count(service: Running) -> None:
    service.controller.set_scale(Scale(1, 1))
    await service.until(lambda: service.serves("one"))
    looks: list[dict[str, Corpus]] = []

    def look() -> dict[str, Corpus]:  # begins before "new" is made, and ends after
        found = dict(service.root.corpora)
        if not looks:
            loop.call_soon_threadsafe(service.controller.tell, "new", Corpus(2, 5.0))
            service.root.corpora["new"] = Corpus(2, 5.0)
            while "new" not in (service.controller.corpora or {}):
                pass
        looks.append(found)
        return found

    loop = asyncio.get_running_loop()
    service.controller._look = look
    await service.until(lambda: "new" in (service.controller.corpora or {}))

    def looked_again() -> bool:
        assert "new" in (service.controller.corpora or {})
        return len(looks) > 2

    await service.until(looked_again)
    assert "new" not in looks[0]


async def test_a_shard_that_does_not_start_holds_up_no_other(service: Running) -> None:
    service.controller.set_scale(Scale(3, 2))
    await service.until(lambda: service.serves("one", slots=3, replicas=2))
    lost = service.fleet.members[0]
    service.fleet.broken = {lost.slot}
    service.fleet.lose(lost)
    await service.until(lambda: service.fleet.starting[lost.slot] == 1)
    other = next(shard for shard in service.fleet.members if shard.slot != lost.slot)
    service.fleet.lose(other)
    service.root.corpora["two"] = Corpus(5, 2.0)
    await service.until(lambda: service.serves("one", "two", slots=3))
    table = service.controller.table
    held = [len(slot.addresses) for slot in table.slots]
    assert held[lost.slot] == 1 and sum(held) >= 4


async def test_twins_on_a_node_are_parted(service: Running) -> None:
    service.controller.set_scale(Scale(1, 2))
    await service.until(lambda: service.serves("one", slots=1, replicas=2))
    for shard in service.fleet.members:
        shard.node = "same"
    twin = service.fleet.members[1]
    service.fleet.doubled = {0}
    await service.until(lambda: service.fleet.retired == [twin])
    await service.until(lambda: service.serves("one", slots=1, replicas=2))


async def test_an_error_is_logged_and_tried_again(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([RuntimeError("once"), RuntimeError("twice")])
    reconcile = service.controller.reconcile

    def fail() -> None:
        for failure in failures:
            raise failure
        reconcile()

    monkeypatch.setattr(service.controller, "reconcile", fail)
    service.controller.set_scale(Scale(1, 1))
    await service.until(lambda: service.serves("one"))
