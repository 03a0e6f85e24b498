"""Bodies on the wire: their limit, their deadline, and clients that leave."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from rasd.api import body as body_module
from tests.api.fakes import MODEL, FakeEngine, Hold, Site, make_site, serving, until

PLAIN = {"model": MODEL, "prompt": "hi"}


async def test_a_large_body_is_refused_before_it_is_read() -> None:
    site = make_site(max_body_bytes=1000)
    async with serving(site) as url, httpx.AsyncClient(base_url=url) as client:
        for size in (1001, 50_000_000):
            body = b'{"model": "' + b"x" * size + b'"}'
            answer = await client.post(
                "/v1/completions", content=body, headers={"content-type": "application/json"}
            )
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (413, "payload_too_large")
            assert "at most 1000" in error["message"]
        assert (await client.get("/health")).status_code == 200


async def call(
    site: Site, messages: list[dict[str, Any]], headers: list[tuple[bytes, bytes]]
) -> tuple[int, int]:
    """Feeds raw ASGI messages; gives the status (0 without one) and how many were taken."""
    taken = 0
    status = 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        if taken == len(messages):
            await asyncio.get_running_loop().create_future()
        taken += 1
        return messages[taken - 1]

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"host", b"localhost"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await site.app(scope, receive, send)
    return status, taken


def chunk(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_chunked_body_is_cut_off_at_the_limit() -> None:
    site = make_site(max_body_bytes=1000)
    messages = [chunk(b" " * 400) for _ in range(100)]
    assert await call(site, messages, []) == (413, 3)
    assert await call(site, messages, [(b"content-length", b"1001")]) == (413, 0)
    assert await call(site, messages, [(b"content-length", b"9" * 5000)]) == (413, 0)


async def test_the_limit_itself_is_allowed() -> None:
    site = make_site(max_body_bytes=1000)
    body = json.dumps(PLAIN).encode()
    body += b" " * (1000 - len(body))
    assert await call(site, [chunk(body[:500]), chunk(body[500:], False)], []) == (200, 2)


async def test_who_leaves_while_sending_gets_no_answer() -> None:
    site = make_site()
    assert await call(site, [chunk(b"{"), {"type": "http.disconnect"}], []) == (0, 2)


async def test_a_body_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "BODY_DEADLINE_S", 0.02)
    assert await call(make_site(), [chunk(b"{")], []) == (408, 1)


async def test_cancelling_the_server_task_passes_through() -> None:
    hold = Hold()
    site = make_site(FakeEngine(pace=hold))
    task = asyncio.create_task(call(site, [chunk(json.dumps(PLAIN).encode(), False)], []))
    await until(lambda: hold.waiting == 1, "it runs")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert site.settled()
