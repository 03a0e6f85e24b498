"""A corpus that was just made may be named at once, and names that nobody made cost nobody."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest

from rasd.api import names as module
from rasd.api.names import Names
from rasd.errors import Overloaded, Unavailable
from tests.api.fakes import until


class Root:
    """The corpora there are. Looks begin at ``begun``; each reads, then waits for the gate."""

    def __init__(self, *there: str) -> None:
        self.there = set(there)
        self.begun: list[float] = []
        self.ended: list[float] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken = False

    async def look(self) -> list[str]:
        self.begun.append(time.monotonic())
        found = sorted(self.there)
        await self.gate.wait()
        self.ended.append(time.monotonic())
        if self.broken:
            raise Unavailable("away")
        return found


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEADLINE_S", 60.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.01)


async def test_who_asks_together_shares_a_look() -> None:
    root = Root("docs")
    names = Names(root.look)
    found = await asyncio.gather(*(names.find({f"none{i}"}) for i in range(100)))
    assert set(found) == {frozenset({"docs"})} and len(root.begun) == 1


async def test_what_was_seen_just_now_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 3600.0)
    root = Root("docs", "laws")
    names = Names(root.look)
    for wanted in ({"docs"}, {"laws"}, {"docs", "laws"}):
        assert await names.find(wanted) == {"docs", "laws"}
    assert len(root.begun) == 1


@pytest.mark.usefixtures("quick")
async def test_what_was_seen_long_ago_is_looked_for_again() -> None:
    root = Root("docs")
    names = Names(root.look)
    assert await names.find({"docs"}) == {"docs"}
    root.there.clear()
    await until(lambda: time.monotonic() > root.ended[0] + 0.02, "the pause is over")
    assert await names.find({"docs"}) == frozenset()


@pytest.mark.usefixtures("quick")
async def test_no_answer_is_older_than_its_question() -> None:
    root = Root()
    names = Names(root.look)
    root.gate.clear()
    early = asyncio.create_task(names.find({"new"}))
    await until(lambda: len(root.begun) == 1, "a look begins")
    root.there.add("new")  # this look has passed by
    late = [asyncio.create_task(names.find({"new"})) for _ in range(20)]
    await asyncio.sleep(0)
    assert len(root.begun) == 1  # one at a time
    root.gate.set()
    assert await early == frozenset()
    assert set(await asyncio.gather(*late)) == {frozenset({"new"})}
    assert len(root.begun) == 2


async def test_looks_are_a_pause_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.1)
    root = Root("docs")
    names = Names(root.look)
    for _ in range(3):
        assert await names.find({"none"}) == {"docs"}
    assert len(root.begun) == 3
    for ended, begun in zip(root.ended[:-1], root.begun[1:], strict=True):
        assert begun - ended >= 0.1


@pytest.mark.usefixtures("quick")
async def test_a_look_that_fails_fails_all_who_wait_and_no_other() -> None:
    root = Root("docs")
    names = Names(root.look)
    assert await names.find({"docs"}) == {"docs"}
    root.broken = True
    failed = await asyncio.gather(*(names.find({"x"}) for _ in range(5)), return_exceptions=True)
    assert len(root.begun) == 2 and all(isinstance(each, Unavailable) for each in failed)
    root.broken = False
    root.there.clear()
    assert await names.find({"docs"}) == frozenset()  # what was known before it is not known now


async def test_who_gives_up_leaves_the_look_to_the_others() -> None:
    root = Root("docs")
    names = Names(root.look)
    root.gate.clear()
    first, second = (asyncio.create_task(names.find({"docs"})) for _ in range(2))
    await until(lambda: len(root.begun) == 1, "a look begins")
    first.cancel()
    root.gate.set()
    assert await second == {"docs"}
    assert first.cancelled() and len(root.begun) == 1


@pytest.mark.usefixtures("quick")
async def test_a_look_that_takes_too_long_fails_and_the_next_one_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "DEADLINE_S", 0.05)
    root = Root("docs")
    names = Names(root.look)
    root.gate.clear()
    async with asyncio.timeout(10):
        with pytest.raises(Unavailable, match=r"within 0\.05 s"):
            await names.find({"docs"})
    monkeypatch.setattr(module, "DEADLINE_S", 60.0)
    root.gate.set()
    assert await names.find({"docs"}) == {"docs"}


async def test_so_many_may_wait_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    root = Root("docs")
    names = Names(root.look)
    root.gate.clear()
    waiting = [asyncio.create_task(names.find({f"none{i}"})) for i in range(3)]
    await until(lambda: len(root.begun) == 1, "a look begins")
    with pytest.raises(Overloaded, match="3 of 3 requests"):
        await names.find({"docs"})
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    waiting.append(asyncio.create_task(names.find({"docs"})))  # there is a place again
    await asyncio.sleep(0)
    assert not waiting[-1].done()
    root.gate.set()
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    assert await asyncio.gather(*waiting[1:]) == [{"docs"}] * 3
    assert await names.find({"docs"}) == {"docs"}


async def test_a_failure_that_nobody_waits_for_is_not_logged() -> None:
    logged: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: logged.append(context))
    root = Root()
    names = Names(root.look)
    root.gate.clear()
    root.broken = True
    waiting = [asyncio.create_task(names.find({"docs"})) for _ in range(2)]
    await until(lambda: len(root.begun) == 1, "a look begins")
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)
    root.gate.set()
    await until(lambda: len(root.ended) == 1, "the look fails")
    await asyncio.sleep(0)
    del names, waiting, each  # and with them the last that knows of the look
    gc.collect()
    assert logged == []
