"""Shards on a real cluster: adopted, replaced when they die or freeze, placed apart."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import ray

from actors import fleet as fleets
from actors.fleet import Fleet, Shard
from actors.shard import ShardSetting
from actors.table import Holdings, ShardLease
from rasd.config import RetrievalConfig
from tests.actors.clusters import ray_alone

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

SETTING = ShardSetting(Path("/nowhere"), 50, "h" * 64, RetrievalConfig(), lease_s=60)


class FakeShard:
    """Holds numbers instead of segments; its address is its process."""

    def __init__(self, setting: ShardSetting, secret: bytes) -> None:
        self._setting = setting
        self.loaded: dict[int, Holdings] = {}
        self.faults = 0

    async def load(self, version: int, holdings: Holdings, keep: tuple[int, ...] = ()) -> None:
        if "broken" in holdings and not self.faults:
            self.faults += 1
            raise OSError("no disk here")
        self.loaded = {old: self.loaded[old] for old in keep if old in self.loaded}
        self.loaded[version] = holdings

    async def renew(self) -> ShardLease:
        return ShardLease(str(os.getpid()), ray.get_runtime_context().get_node_id(), self.loaded)

    async def setting(self) -> ShardSetting:
        return self._setting

    async def run(self) -> None:
        await asyncio.Event().wait()


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with ray_alone():
        yield


@pytest.fixture
async def prefix(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(fleets, "ShardActor", FakeShard)
    monkeypatch.setattr(fleets, "SILENCE_S", 2.0)
    monkeypatch.setattr(fleets, "RETIRE_S", 0.1)
    monkeypatch.setattr(fleets, "_PAUSE_S", 0.1)
    return f"shard-{secrets.token_hex(4)}-"


@pytest.fixture
async def fleet(prefix: str) -> AsyncIterator[Fleet]:
    fleet = Fleet(prefix, b"", SETTING)
    await fleet.adopt()
    yield fleet
    fleet.close()


async def until(condition: Callable[[], bool], patience_s: float = 60) -> None:
    async with asyncio.timeout(patience_s):
        while not condition():
            await asyncio.sleep(0.01)


def alive(shard: Shard) -> bool:
    try:
        os.kill(int(shard.address), 0)
    except ProcessLookupError:
        return False
    return True


async def started(fleet: Fleet, *slots: int) -> list[Shard]:
    """New members of these slots, in their order."""
    before = list(fleet.members)
    for slot in slots:
        fleet.start(slot)
    await until(lambda: len(fleet.members) == len(before) + len(slots))
    assert not any(fleet.starting.values())
    return sorted((s for s in fleet.members if s not in before), key=lambda shard: shard.slot)


async def test_shards_load_serve_and_retire(fleet: Fleet) -> None:
    changes: list[int] = []
    fleet.on_change = lambda: changes.append(len(fleet.members))
    one, two = await started(fleet, 0, 1)
    assert {one.slot, two.slot} == {0, 1} and one.node == two.node
    fleet.hold(one, {5: {"a": (0,)}, 7: {"a": (0, 1)}})
    fleet.hold(two, {5: {"broken": (0,)}})
    await until(lambda: not one.loading and not two.loading)
    assert not two.loaded
    fleet.hold(two, {5: {"broken": (0,)}})
    await until(lambda: not two.loading)
    assert two.loaded == {5: {"broken": (0,)}}
    assert one.loaded == {5: {"a": (0,)}, 7: {"a": (0, 1)}} and changes
    fleet.retire(two)
    assert fleet.members == [one] and alive(two)
    await until(lambda: not alive(two))
    assert fleet.losses == 0


async def test_a_dead_shard_is_known_at_once(fleet: Fleet) -> None:
    (one,) = await started(fleet, 3)
    lost = asyncio.Event()
    fleet.on_change = lost.set
    os.kill(int(one.address), signal.SIGKILL)
    async with asyncio.timeout(5):
        await lost.wait()
    assert not fleet.members and fleet.losses == 1


async def test_a_frozen_shard_is_killed_after_a_while_and_one_that_wakes_is_not(
    fleet: Fleet,
) -> None:
    one, two = await started(fleet, 0, 1)
    frozen_at = asyncio.get_running_loop().time()
    os.kill(int(one.address), signal.SIGSTOP)
    os.kill(int(two.address), signal.SIGSTOP)
    await asyncio.sleep(0.7)
    os.kill(int(two.address), signal.SIGCONT)
    await until(lambda: fleet.members == [two])
    assert asyncio.get_running_loop().time() - frozen_at > 1.0
    await until(lambda: not alive(one))
    fleet.hold(two, {5: {"a": (0,)}})
    await until(lambda: 5 in two.loaded)
    assert alive(two) and fleet.members == [two]


async def test_a_new_controller_finds_what_the_old_one_left(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Fleet(prefix, b"", SETTING)
    one, two, frozen = await started(old, 0, 2, 2)
    old.hold(one, {7: {"a": (0,)}})
    await until(lambda: 7 in one.loaded)
    monkeypatch.setattr(fleets, "_ADOPT_S", 0.5)
    os.kill(int(frozen.address), signal.SIGSTOP)
    new = Fleet(prefix, b"")
    assert await new.adopt() == 7 and new.setting == SETTING
    found = sorted((shard.slot, shard.address, shard.loaded) for shard in new.members)
    assert found == [(0, one.address, {7: {"a": (0,)}}), (2, two.address, {})]
    other = Fleet(prefix.replace("shard-", "shard-other"), b"")
    assert await other.adopt() == 0 and not other.members and other.setting is None
    new.close()
    await until(lambda: not alive(one) and not alive(two))


async def test_who_cannot_start_says_so_and_is_not_counted(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets, "CPU_SHARE", 1000.0)
    monkeypatch.setattr(fleets, "_START_S", 0.2)
    monkeypatch.setattr(fleets, "_PAUSE_S", 0.0)
    fleet.start(0)
    assert fleet.starting[0] == 1
    await until(lambda: not fleet.starting[0])
    assert not fleet.members
    monkeypatch.undo()
    monkeypatch.setattr(fleets, "ShardActor", FakeShard)
    await started(fleet, 0)
