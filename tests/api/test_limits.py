"""Limits, deadlines, disconnects and draining."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from rasd.engine.api import Request
from tests.api.fakes import (
    MODEL,
    FakeEngine,
    Hold,
    Site,
    make_site,
    make_starting_app,
    serving,
    until,
)

PLAIN = {"model": MODEL, "prompt": "hi"}


async def post(site: Site, **changes: Any) -> httpx.Response:
    async with site.client() as client:
        return await client.post("/v1/completions", json={**PLAIN, **changes})


async def test_of_fourteen_at_once_exactly_the_surplus_is_refused() -> None:
    hold = Hold()
    site = make_site(FakeEngine(pace=hold), max_running=4, max_queued=2)
    began = time.monotonic()
    asked = [asyncio.create_task(post(site)) for _ in range(14)]
    await until(lambda: sum(task.done() for task in asked) == 8, "the surplus is answered")
    assert time.monotonic() - began < 5
    assert (site.service.gate.running, site.service.gate.waiting) == (4, 2)
    refused = [task.result() for task in asked if task.done()]
    hold.event.set()
    answers = await asyncio.gather(*asked)
    for answer in refused:
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        error = answer.json()["error"]
        assert (error["code"], error["type"]) == ("overloaded", "rate_limit_error")
        assert "of 4" in error["message"] and "of 2" in error["message"]
    assert sorted(answer.status_code for answer in answers) == [200] * 6 + [429] * 8
    assert len(site.engine.started) == 6
    assert site.settled()


async def test_choices_count_as_running() -> None:
    hold = Hold()
    site = make_site(FakeEngine(pace=hold), max_running=4, max_queued=0)
    first = asyncio.create_task(post(site, n=3))
    await until(lambda: site.service.gate.running == 3, "three run")
    assert (await post(site, n=2)).status_code == 429
    answer = await post(site, n=5)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
    hold.event.set()
    assert (await first).status_code == 200


async def test_who_waits_too_long_is_never_executed() -> None:
    hold = Hold()
    site = make_site(FakeEngine(pace=hold), max_running=1, queue_deadline_s=0.05)
    first = asyncio.create_task(post(site))
    await until(lambda: hold.waiting == 1, "the first runs")
    late = await asyncio.gather(post(site), post(site, stream=True))
    for answer in late:
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "deadline_exceeded"
        assert "0.05 s" in answer.json()["error"]["message"]
    hold.event.set()
    assert (await first).status_code == 200
    assert len(site.engine.started) == 1
    assert site.settled()


@pytest.mark.parametrize("n", [1, 2])
async def test_who_runs_too_long_is_cancelled(n: int) -> None:
    site = make_site(FakeEngine(pace=Hold()), run_deadline_s=0.05)
    for streamed in (False, True):
        answer = await post(site, n=n, stream=streamed)
        assert answer.status_code == 504
        assert "longer than 0.05 s" in answer.json()["error"]["message"]
    assert len(site.engine.cancelled) == 2 * n
    assert site.settled()


async def test_a_deadline_in_mid_stream_is_an_error_event() -> None:
    site = make_site(FakeEngine("much to say", step=2, pace=Hold(after=2)), run_deadline_s=0.1)
    answer = await post(site, stream=True)
    assert answer.status_code == 200
    *events, last = [event.removeprefix("data: ") for event in answer.text.strip().split("\n\n")]
    assert json.loads(last)["error"]["code"] == "deadline_exceeded"
    assert events
    assert all(json.loads(e)["choices"][0]["finish_reason"] is None for e in events)
    assert "[DONE]" not in answer.text
    assert site.settled()


async def test_one_choices_failure_ends_the_others() -> None:
    async def pace(request: Request, step: int) -> None:
        if request.choice == 1 and step == 1:
            raise RuntimeError("prompt text that nobody may see")
        if step > 1:
            await asyncio.get_running_loop().create_future()

    site = make_site(FakeEngine("much to say", step=2, pace=pace))
    answer = await post(site, n=3)
    assert answer.status_code == 500
    assert "nobody" not in answer.text
    assert answer.headers["x-request-id"] in answer.json()["error"]["message"]
    assert len(site.engine.cancelled) == 3
    assert site.settled()


@pytest.mark.parametrize(
    ("finish", "code", "status"),
    [
        ("error", "", 500),
        ("error", "server_error", 500),
        ("error", "invalid_value", 400),
        ("error", "unavailable", 503),
        ("cancelled", "", 503),
    ],
)
async def test_what_the_engine_cannot_finish(finish: str, code: str, status: int) -> None:
    site = make_site(FakeEngine(finish=finish, code=code))
    answer = await post(site)
    assert answer.status_code == status
    # Only what the engine says under a code of ours is for clients.
    assert ("some detail" in answer.text) is (bool(code) and status != 500)
    assert site.settled()


async def test_who_leaves_the_queue_frees_it() -> None:
    hold = Hold()
    site = make_site(FakeEngine(pace=hold), max_running=1, max_queued=1)
    async with serving(site) as url, httpx.AsyncClient(base_url=url) as client:

        def ask() -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(client.post("/v1/completions", json=PLAIN))

        first = ask()
        await until(lambda: hold.waiting == 1, "the first runs")
        second = ask()
        await until(lambda: site.service.gate.waiting == 1, "the second waits")
        second.cancel()
        await until(lambda: site.service.gate.waiting == 0, "the second is gone")
        third = ask()
        await until(lambda: site.service.gate.waiting == 1, "the third waits")
        hold.event.set()
        assert [r.status_code for r in await asyncio.gather(first, third)] == [200, 200]
    assert len(site.engine.started) == 2
    assert site.settled()


async def test_a_storm_of_leaving_clients_leaks_nothing() -> None:
    hold = Hold(after=1)
    site = make_site(FakeEngine("as long as it takes", step=1, pace=hold), max_running=200)
    async with (
        serving(site) as url,
        httpx.AsyncClient(base_url=url, limits=httpx.Limits()) as client,
    ):

        async def read_one() -> None:
            async with client.stream(
                "POST", "/v1/completions", json={**PLAIN, "stream": True}
            ) as r:
                async for _ in r.aiter_bytes():
                    return

        await asyncio.gather(*(read_one() for _ in range(50)))
        await until(site.settled, "nothing runs any more")
        assert len(site.engine.cancelled) == 50
        hold.event.set()
        assert (await client.post("/v1/completions", json=PLAIN)).status_code == 200


async def test_draining_refuses_the_new_and_finishes_the_old() -> None:
    hold = Hold()
    site = make_site(FakeEngine(pace=hold), max_running=1)
    asked = [asyncio.create_task(post(site)) for _ in range(2)]
    await until(lambda: site.service.gate.waiting == 1, "one runs, one waits")
    assert await site.service.drain(0.01) is False
    refused = await post(site)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "unavailable"
    async with site.client() as client:
        ready = await client.get("/ready")
        assert (ready.status_code, "draining" in ready.text) == (503, True)
        assert (await client.get("/health")).status_code == 200
    hold.event.set()
    assert await site.service.drain(10) is True
    assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200, 200]


async def test_ready_tells_the_truth() -> None:
    site = make_site()
    async with site.client() as client:
        assert (await client.get("/ready")).status_code == 200
        site.engine.ready = False
        answer = await client.get("/ready")
        assert (answer.status_code, "restarting" in answer.text) == (503, True)
        assert (await client.get("/health")).status_code == 200
    transport = httpx.ASGITransport(make_starting_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/health")).status_code == 200
        for path in ("/ready", "/metrics", "/v1/models"):
            assert (await client.get(path)).status_code == 503
