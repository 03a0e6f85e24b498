"""The loop and the thread: every request that goes in comes out once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from rasd.engine.api import Gauges, Output, Request
from rasd.engine.engine import Engine
from rasd.engine.local import ThreadedEngine
from rasd.engine.loop import Cancel, Command, Stop, Submit, run
from rasd.errors import StageUnavailable, Unavailable
from tests.fakes import EOS, FakeDrafter, FakeTarget, gather, plain_tokens, request


def new_engine(target: FakeTarget | None = None) -> Engine:
    return Engine(target or FakeTarget(), drafter=FakeDrafter(), eos=frozenset({EOS}))


class Box:
    """A mailbox with a script; an empty script with an idle engine stops."""

    def __init__(self, *script: list[Command]) -> None:
        self.script = list(script)
        self.sent: list[Output] = []
        self.gauges: Gauges | None = None

    def receive(self, timeout_s: float) -> list[Command]:
        if self.script:
            return self.script.pop(0)
        return [Stop()] if timeout_s > 0 else []

    def send(self, outputs: list[Output], gauges: Gauges) -> None:
        self.sent += outputs
        self.gauges = gauges


def test_the_loop_answers_everything_once() -> None:
    good = request(0, [2, 3], max_tokens=9)
    box = Box(
        [Submit(good), Submit(request(1, [], max_tokens=9))],
        [Submit(request(2, [5], max_tokens=200, ignore_eos=True))],
        [Cancel(2), Cancel(7)],
    )
    run(new_engine(), box)
    answers = gather(box.sent)
    assert [t for o in answers[0] for t in o.tokens] == plain_tokens(good)
    assert (answers[1][0].finish, answers[1][0].error_code) == ("error", "invalid_value")
    assert "at least 1 token" in answers[1][0].error
    assert answers[2][-1].finish == "cancelled"
    assert [sum(o.finish is not None for o in a) for a in answers.values()] == [1, 1, 1]
    assert box.gauges is not None
    assert (box.gauges.running, box.gauges.waiting) == (0, 0)


def test_stop_ends_what_runs() -> None:
    box = Box([Submit(request(0, [2], max_tokens=200, ignore_eos=True))], [], [Stop()])
    run(new_engine(), box)
    assert box.sent[-1].finish == "cancelled"


def test_a_dead_target_ends_the_loop_and_another_goes_on() -> None:
    engine = new_engine(FakeTarget(first_fault=3))
    one = request(0, [2, 3], max_tokens=30, ignore_eos=True)
    box = Box([Submit(one)])
    with pytest.raises(StageUnavailable):
        run(engine, box)
    engine.replace_target(FakeTarget())
    run(engine, box)
    assert [t for o in box.sent for t in o.tokens] == plain_tokens(one)
    assert [o.finish for o in box.sent if o.finish] == ["length"]


# --- in a thread --------------------------------------------------------------------------------


@pytest.fixture
def client() -> Iterator[ThreadedEngine]:
    client = ThreadedEngine(new_engine())
    yield client
    client.close(timeout_s=10)


async def collect(client: ThreadedEngine, one: Request) -> list[Output]:
    return [output async for output in client.generate(one)]


async def test_many_requests_share_the_engine(client: ThreadedEngine) -> None:
    sent = [request(i, [2 + i % 20, 3], max_tokens=20 + i) for i in range(12)]
    answers = await asyncio.gather(*(collect(client, one) for one in sent))
    for one, outputs in zip(sent, answers, strict=True):
        assert [t for o in outputs for t in o.tokens] == plain_tokens(one)
        assert [o.finish is not None for o in outputs] == [False] * (len(outputs) - 1) + [True]
    assert client.ready


async def test_a_refusal_is_an_output(client: ThreadedEngine) -> None:
    (output,) = await collect(client, request(0, [2], max_tokens=999))
    assert output.error_code == "invalid_value"
    assert "999 exceed the context of 256" in output.error


async def test_closing_the_generator_cancels(client: ThreadedEngine) -> None:
    stream = client.generate(request(0, [2, 3], max_tokens=250, ignore_eos=True, nodes=0))
    await anext(stream)
    await stream.aclose()
    await collect(client, request(1, [2], max_tokens=2))
    assert client.gauges().running <= 1
    # The number is free again, so the first request is gone.
    assert (await collect(client, request(0, [2], max_tokens=1)))[-1].finish


async def test_a_closed_engine_is_unavailable() -> None:
    client = ThreadedEngine(new_engine())
    stream = client.generate(request(0, [2, 3], max_tokens=250, ignore_eos=True))
    await anext(stream)
    client.close(timeout_s=10)
    rest = [output async for output in stream]
    assert rest[-1].finish in ("cancelled", "length")
    assert not client.ready
    with pytest.raises(Unavailable):
        await collect(client, request(1, [2]))


async def test_a_failing_engine_ends_its_streams() -> None:
    client = ThreadedEngine(new_engine(FakeTarget(first_fault=2)))
    with pytest.raises(Unavailable, match="stopped"):
        await collect(client, request(0, [2, 3], max_tokens=90, ignore_eos=True, nodes=0))
    assert not client.ready
