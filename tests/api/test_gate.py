"""The gate: exact limits, order of arrival, nothing lost on cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rasd.api.gate import Gate
from rasd.errors import DeadlineExceeded, InvalidRequest, Overloaded


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time stands still until it is moved."""

    now = 0.0

    def time(self) -> float:
        return self.now


@asynccontextmanager
async def held(gate: Gate, slots: int, order: list[int], name: int) -> AsyncGenerator[None, None]:
    async with gate.slots_for(slots):
        order.append(name)
        yield


async def hold(gate: Gate, slots: int, order: list[int], name: int, release: asyncio.Event) -> None:
    async with held(gate, slots, order, name):
        await release.wait()


class GateMachine(RuleBasedStateMachine):
    """Random arrivals, endings, cancellations and deadlines against a list as model."""

    LIMITS = (3, 2, 10.0)

    def __init__(self) -> None:
        super().__init__()
        self.loop = Clock()
        self.gate = Gate(*self.LIMITS)
        self.order: list[int] = []
        self.expected: list[int] = []
        self.running: dict[int, int] = {}
        self.queue: list[tuple[int, int, float]] = []
        self.tasks: dict[int, tuple[asyncio.Task[None], asyncio.Event]] = {}

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def settle(self) -> None:
        async def turns() -> None:
            for _ in range(8):
                await asyncio.sleep(0)

        self.run(turns())

    def admit(self) -> None:
        while self.queue and sum(self.running.values()) + self.queue[0][1] <= self.LIMITS[0]:
            name, slots, _ = self.queue.pop(0)
            self.running[name] = slots
            self.expected.append(name)

    @rule(slots=st.integers(1, 3))
    def arrive(self, slots: int) -> None:
        name, release = len(self.tasks), asyncio.Event()
        task = self.loop.create_task(hold(self.gate, slots, self.order, name, release))
        self.tasks[name] = task, release
        self.settle()
        fits = not self.queue and sum(self.running.values()) + slots <= self.LIMITS[0]
        if not fits and len(self.queue) >= self.LIMITS[1]:
            assert isinstance(task.exception(), Overloaded)
            return
        self.queue.append((name, slots, self.loop.now + self.LIMITS[2]))
        self.admit()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        self.tasks[name][1].set()
        self.settle()
        assert self.tasks[name][0].done()
        del self.running[name]
        self.admit()

    @precondition(lambda self: self.running or self.queue)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        names = sorted(self.running) + [name for name, _, _ in self.queue]
        gone = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        for name in gone:
            self.tasks[name][0].cancel()
        self.settle()
        self.queue = [entry for entry in self.queue if entry[0] not in gone]
        for name in gone:
            assert self.tasks[name][0].cancelled()
            self.running.pop(name, None)
        self.admit()

    @rule(seconds=st.floats(1, 12))
    def wait(self, seconds: float) -> None:
        self.loop.now += seconds
        self.settle()
        for name, _, deadline in self.queue:
            if deadline <= self.loop.now:
                assert isinstance(self.tasks[name][0].exception(), DeadlineExceeded)
        self.queue = [entry for entry in self.queue if entry[2] > self.loop.now]
        self.admit()

    @invariant()
    def agrees(self) -> None:
        self.gate.check_integrity()
        assert self.gate.running == sum(self.running.values())
        assert self.gate.waiting == len(self.queue)
        assert self.order == self.expected

    def teardown(self) -> None:
        for task, _ in self.tasks.values():
            task.cancel()
        self.settle()
        assert (self.gate.running, self.gate.waiting) == (0, 0)
        self.run(self.gate.idle())
        self.loop.close()


TestGate = GateMachine.TestCase
TestGate.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


async def turns(count: int = 4) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_release_between_cancel_and_wakeup_reaches_the_next_in_line() -> None:
    async def scenario() -> None:
        gate, order, release = Gate(1, 2, 60.0), [], asyncio.Event()
        tasks = [asyncio.create_task(hold(gate, 1, order, name, release)) for name in range(3)]
        await turns()
        tasks[1].cancel()
        release.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 2]
        assert gate.running == 0

    asyncio.run(scenario())


def test_a_grant_is_given_back_when_the_waiter_is_cancelled_in_the_same_turn() -> None:
    async def scenario() -> None:
        gate, order, release = Gate(1, 1, 60.0), [], asyncio.Event()
        waiter: list[asyncio.Task[None]] = []

        async def holder() -> None:
            async with gate.slots_for(1):
                await release.wait()
            waiter[0].cancel()

        first = asyncio.create_task(holder())
        await turns()
        waiter.append(asyncio.create_task(hold(gate, 1, order, 1, asyncio.Event())))
        await turns()
        release.set()
        await asyncio.gather(first, *waiter, return_exceptions=True)
        assert (order, gate.running, gate.waiting) == ([], 0, 0)
        gate.check_integrity()

    asyncio.run(scenario())


def test_a_request_that_could_never_run_is_the_callers_fault() -> None:
    with pytest.raises(InvalidRequest, match=r"at most 4 choices.*got 5"):
        Gate(4, 4, 1.0).refuse_if_full(5)
