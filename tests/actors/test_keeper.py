"""Who dies is started again, who dies too often is given up, and a first failure is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from actors import keeper
from actors.keeper import Keeper, Part


class Method:
    """Something with ``remote``."""

    def __init__(self, call: Any) -> None:
        self.remote = call


class Actor:
    """Runs until `die`; answers probes unless it is frozen."""

    def __init__(self) -> None:
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.frozen = False
        self.killed = False
        self.run = Method(lambda: asyncio.shield(self.end))
        self.ping = Method(self._ping)

    async def _ping(self) -> None:
        if self.frozen:
            await asyncio.Event().wait()

    def die(self, reason: str = "killed") -> None:
        self.end.set_exception(RuntimeError(reason))


class Stage:
    """A part of ``size`` actors, and what happened to it."""

    def __init__(self, size: int = 1, *, vital: bool = True) -> None:
        self.size = size
        self.crews: list[list[Actor]] = []
        self.faults = 0
        self.announced = 0
        self.lost = 0
        part = Part("stage", self._create, self._announce, self._lose, 5.0, vital, retry_s=0.0)
        self.keeper = Keeper(part)

    async def _create(self, crew: list[Any]) -> None:
        self.crews.append(crew)
        crew += [Actor() for _ in range(self.size)]
        if self.faults:
            self.faults -= 1
            raise ValueError("it does not start")

    async def _announce(self) -> None:
        self.announced += 1

    def _lose(self) -> None:
        self.lost += 1

    async def until(self, announced: int) -> None:
        async with asyncio.timeout(5):
            while self.announced < announced:
                await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def kill(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def mark(actor: Actor) -> None:
        actor.killed = True

    monkeypatch.setattr(keeper, "kill", mark)
    yield


async def test_a_death_takes_the_crew_and_brings_another() -> None:
    stage = Stage(size=2)
    await stage.keeper.start()
    first = list(stage.crews[0])
    first[1].die()
    await stage.until(announced=2)
    assert all(actor.killed for actor in first) and stage.lost == 1
    assert stage.keeper.restarts == 1 and stage.keeper.failed is None
    second = list(stage.crews[1])
    stage.keeper.close()
    assert all(actor.killed for actor in second)


async def test_a_first_start_that_fails_is_told_and_leaves_nothing() -> None:
    stage = Stage()
    stage.faults = 1
    with pytest.raises(ValueError, match="does not start"):
        await stage.keeper.start()
    assert stage.announced == 0 and not stage.keeper._crew


async def test_a_verdict_counts_as_death_once() -> None:
    stage = Stage()
    await stage.keeper.start()
    stage.keeper.condemn("late")
    stage.keeper.condemn("late again")
    await stage.until(announced=2)
    await asyncio.sleep(0.02)
    assert stage.keeper.restarts == 1
    stage.keeper.close()


async def test_silence_counts_as_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "PROBE_S", 0.01)
    stage = Stage()
    await stage.keeper.start()
    await asyncio.sleep(0.1)
    assert stage.keeper.restarts == 0
    stage.crews[0][0].frozen = True
    await stage.until(announced=2)
    stage.keeper.close()


async def test_failed_restarts_are_tried_again_three_times() -> None:
    stage = Stage()
    await stage.keeper.start()
    stage.faults = 2
    stage.crews[0][0].die()
    async with asyncio.timeout(5):
        while stage.keeper.failed is None:
            await asyncio.sleep(0.001)
    assert "3 times" in str(stage.keeper.failed) and stage.announced == 1
    stage.keeper.close()


async def test_who_is_not_vital_is_tried_for_ever() -> None:
    stage = Stage(vital=False)
    await stage.keeper.start()
    stage.faults = 5
    stage.crews[0][0].die()
    await stage.until(announced=2)
    assert stage.keeper.failed is None and len(stage.crews) == 7
    stage.keeper.close()


async def test_who_lived_long_has_all_its_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "STABLE_S", 0.0)
    stage = Stage()
    await stage.keeper.start()
    for death in range(6):
        stage.keeper._crew[0].die()
        await stage.until(announced=death + 2)
    assert stage.keeper.failed is None and stage.keeper.restarts == 6
    stage.keeper.close()
