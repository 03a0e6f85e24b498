"""Router and engine over sockets, with fakes for stages: whatever dies, the text goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack

import pytest

from actors.channel import EngineChannel
from actors.draft import DrafterRef, DraftService
from actors.engine import EngineService
from actors.target import TargetRef, TargetService
from actors.wire import TargetLost
from rasd.config import AppConfig, EngineConfig, RouterConfig
from rasd.engine.api import Output, Request
from rasd.engine.loop import Submit
from rasd.errors import StageError, StageTimeout, StageUnavailable, Unavailable
from rasd.local import Models
from rasd.stages import DraftQuery, Features, Ready, VerifyReply, VerifyRequest
from tests import fakes
from tests.actors.threads import HOST, SECRET, served

CONFIG = AppConfig(
    engine=EngineConfig(max_sequences=4, chunk_tokens=8, verify_deadline_s=5),
    router=RouterConfig(stream_interval_s=0),
)


class Restartable:
    """A strict fake target that starts anew with step 0; ``gate`` may hold or fail it."""

    def __init__(self) -> None:
        self.info = fakes.INFO
        self.gate: Callable[[VerifyRequest], None] = lambda request: None
        self.inner = fakes.FakeTarget()

    def verify(self, request: VerifyRequest) -> object:
        self.gate(request)
        if request.step == 0:
            self.inner = fakes.FakeTarget()
        return self.inner.verify(request)

    def close(self) -> None: ...


class Drafter(fakes.FakeDrafter):
    """A fake that needs no features."""

    def put(self, features: Features) -> None: ...

    def ready(self, query: DraftQuery) -> bool:
        return True


class House:
    """Everything of a replica but its processes."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.config = CONFIG
        self.channel = EngineChannel(SECRET, patience_s=5)
        self.lost: list[TargetLost] = []
        self.channel.on_target_lost = self.lost.append
        self.target, self.ref = self.new_target()
        self.engine: EngineService | None = None

    def new_target(self) -> tuple[Restartable, TargetRef]:
        target = Restartable()
        service = TargetService(target, HOST, SECRET)  # type: ignore[arg-type]
        self._stack.enter_context(served(service.server))
        return target, TargetRef((service.server.address,), target.info, frozenset({fakes.EOS}))

    def new_drafter(self) -> tuple[Drafter, DrafterRef]:
        drafter = Drafter()
        service = DraftService(drafter, HOST, SECRET, patience_s=1)  # type: ignore[arg-type]
        self._stack.enter_context(served(service.server))
        return drafter, service.ref

    def new_engine(self, drafter: DrafterRef | None = None) -> None:
        """Starts an engine in a thread; one that was there falls silent."""
        self.stop_engine()
        self.start_engine(EngineService(self.config, self.ref, drafter, host=HOST, secret=SECRET))

    def start_engine(self, engine: EngineService) -> None:
        self.engine = engine
        self.thread = threading.Thread(target=_run, args=(self.engine,), daemon=True)
        self.thread.start()
        self.channel.connect(self.engine.mailbox.address)
        self.channel.available = True

    def stop_engine(self) -> None:
        if self.engine is not None:
            self.engine.mailbox.do(_quit)
            self.engine = None
            self.thread.join(10)


class _Quit(BaseException):
    pass


def _quit() -> None:
    raise _Quit


def _run(engine: EngineService) -> None:
    try:
        engine.run()
    except _Quit:
        engine.mailbox.close()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    with ExitStack() as stack:
        house = House(stack)
        yield house
        house.channel.close()
        house.stop_engine()


async def collect(channel: EngineChannel, request: Request) -> list[Output]:
    return [output async for output in channel.generate(request)]


def tokens_of(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.tokens]


def requests() -> list[Request]:
    return [
        fakes.request(1, [3, 4, 5], max_tokens=40, ignore_eos=True),
        fakes.request(2, [3, 4, 9], max_tokens=30, temperature=1.0, seed=7),
        fakes.request(3, [8] * 20, max_tokens=25, ignore_eos=True, output=[4, 5]),
    ]


def check(request: Request, outputs: list[Output]) -> None:
    assert tokens_of(outputs) == fakes.plain_tokens(request)
    assert [output.finish for output in outputs[:-1]] == [None] * (len(outputs) - 1)
    assert outputs[-1].finish in ("stop", "length")


async def test_requests_run_to_their_end(house: House) -> None:
    drafter, ref = house.new_drafter()
    house.new_engine(ref)
    outputs = await asyncio.gather(*(collect(house.channel, r) for r in requests()))
    for request, each in zip(requests(), outputs, strict=True):
        check(request, each)
    assert sum(each[-1].statistics.drafted["draft"] for each in outputs) > 0
    assert not drafter.violations and not house.target.inner.violations
    assert house.channel.gauges().running == 0


async def cut(house: House, at: int, then: Callable[[], None]) -> list[list[Output]]:
    """Runs the requests; after ``at`` outputs of the first one, something happens."""

    async def watched(request: Request) -> list[Output]:
        outputs = []
        async for output in house.channel.generate(request):
            outputs.append(output)
            if request.sequence == 1 and len(outputs) == at:
                then()
        return outputs

    async with asyncio.timeout(20):
        return await asyncio.gather(*(watched(request) for request in requests()))


@pytest.mark.parametrize("at", [1, 3, 9])
async def test_text_goes_on_with_another_engine(house: House, at: int) -> None:
    house.new_engine()
    outputs = await cut(house, at, house.new_engine)
    for request, each in zip(requests(), outputs, strict=True):
        check(request, each)
        assert each[-1].statistics.tokens == len(tokens_of(each))
    assert house.channel.resubmitted >= 1


@pytest.mark.parametrize("at", [1, 3, 9])
async def test_text_goes_on_with_another_target(house: House, at: int) -> None:
    house.new_engine()
    first = house.ref

    def fail(request: VerifyRequest) -> None:
        raise StageUnavailable("the fake fails")

    def replace() -> None:
        house.target.gate = fail

    async def watch() -> None:
        while not house.lost:
            await asyncio.sleep(0.01)
        house.target, house.ref = house.new_target()
        assert house.engine is not None
        house.engine.replace_target(house.ref)

    watching = asyncio.create_task(watch())
    outputs = await cut(house, at, replace)
    await watching
    for request, each in zip(requests(), outputs, strict=True):
        check(request, each)
    assert [lost.address for lost in house.lost] == [first.addresses[0]]
    assert not house.target.inner.violations


async def test_what_waits_to_be_sent_survives_the_target(house: House) -> None:
    house.config = CONFIG.model_copy(update={"router": RouterConfig(stream_interval_s=0.01)})
    house.new_engine()
    failed: list[int] = []

    def fail(request: VerifyRequest) -> None:
        if request.step > 12 and not failed:
            failed.append(request.step)
            raise StageUnavailable("the fake fails")

    house.target.gate = fail
    running = asyncio.gather(*(collect(house.channel, r) for r in requests()))
    async with asyncio.timeout(20):
        while not house.lost:
            await asyncio.sleep(0.001)
        assert house.engine is not None
        house.target, house.ref = house.new_target()
        house.engine.replace_target(house.ref)
        outputs = await running
    for request, each in zip(requests(), outputs, strict=True):
        check(request, each)
        assert len(each) < len(tokens_of(each))


class Resident(fakes.FakeTarget):
    """A target in the engine's process; ``gate`` may hold or fail it."""

    gate: Callable[[VerifyRequest], None] = staticmethod(lambda request: None)

    def verify(self, request: VerifyRequest) -> Ready[VerifyReply]:
        self.gate(request)
        return super().verify(request)


def resident_engine(house: House) -> tuple[Resident, EngineService]:
    """An engine whose models live with it."""
    target = Resident()
    models = Models(target, Drafter(), frozenset({fakes.EOS}))  # type: ignore[arg-type]
    engine = EngineService(house.config, models, None, host=HOST, secret=SECRET)
    return target, engine


async def test_models_may_live_with_the_engine(house: House) -> None:
    target, engine = resident_engine(house)
    house.start_engine(engine)
    outputs = await asyncio.gather(*(collect(house.channel, r) for r in requests()))
    for request, each in zip(requests(), outputs, strict=True):
        check(request, each)
    assert sum(each[-1].statistics.drafted["draft"] for each in outputs) > 0
    assert not target.violations
    engine.check()


async def test_an_engine_ends_with_its_own_target(house: House) -> None:
    target, engine = resident_engine(house)

    def fail(request: VerifyRequest) -> None:
        raise RuntimeError("memory is broken")

    target.gate = fail  # type: ignore[method-assign]
    engine.mailbox.receive = lambda timeout_s: [Submit(requests()[0])]  # type: ignore[method-assign]
    with pytest.raises(StageError, match="memory is broken"):
        engine.run()
    engine.mailbox.close()


async def test_a_loop_that_is_stuck_does_not_say_that_it_is_well(house: House) -> None:
    _, engine = resident_engine(house)
    engine.check()
    engine.mailbox.seen_s -= 100
    with pytest.raises(StageTimeout, match="has lasted"):
        engine.check()
    engine.mailbox.close()


async def test_another_drafter_drafts_for_what_runs(house: House) -> None:
    _, ref = house.new_drafter()
    house.new_engine(ref)
    second, other = house.new_drafter()
    outputs = await cut(house, 2, lambda: house.engine and house.engine.replace_drafter(other))
    for request, each in zip(requests(), outputs, strict=True):
        check(request, each)
    assert second.asked > 0 and not second.violations


async def test_what_has_ended_is_not_submitted_again(house: House) -> None:
    house.new_engine()
    request = fakes.request(1, [3], max_tokens=9)
    stream = house.channel.generate(request)
    outputs = [await anext(stream)]
    async with asyncio.timeout(10):
        while not house.channel._flights[1].ended:  # its reader is slow
            await asyncio.sleep(0.01)
    house.stop_engine()
    house.new_engine()
    outputs += [output async for output in stream]
    assert house.channel.resubmitted == 0
    check(request, outputs)


async def test_closing_the_generator_cancels(house: House) -> None:
    house.new_engine()
    stream = house.channel.generate(fakes.request(1, [3], max_tokens=200, ignore_eos=True))
    await anext(stream)
    await stream.aclose()
    async with asyncio.timeout(10):
        await collect(house.channel, fakes.request(2, [3], max_tokens=3))
        while house.target.inner.held:
            await asyncio.sleep(0.01)
    assert house.channel.gauges().running == 0


def wait_for(event: threading.Event) -> None:
    assert event.wait(10)


async def test_patience_ends(house: House) -> None:
    house.channel._patience_s = 0.1
    house.new_engine()
    hold = threading.Event()
    house.target.gate = lambda request: wait_for(hold)
    waiting = asyncio.create_task(collect(house.channel, fakes.request(1, [3], max_tokens=5)))
    await asyncio.sleep(0)
    house.channel.available = False
    assert not house.channel.ready
    with pytest.raises(Unavailable, match="did not come back"):
        await waiting
    with pytest.raises(Unavailable, match="restarting"):
        await collect(house.channel, fakes.request(2, [3], max_tokens=5))
    hold.set()
    house.channel.available = True
    await collect(house.channel, fakes.request(3, [3], max_tokens=5))


async def test_the_end_of_the_engine_is_noticed(house: House) -> None:
    house.new_engine()
    lost = asyncio.Event()
    house.channel.on_engine_lost = lambda reason: lost.set()
    await collect(house.channel, fakes.request(1, [3], max_tokens=5))
    house.stop_engine()
    await asyncio.wait_for(lost.wait(), 10)
