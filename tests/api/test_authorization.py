"""Every route against every kind of caller. A route missing from the table fails."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from starlette.routing import BaseRoute, Route

from rasd.config import ApiKey
from tests.api.fakes import MODEL, Site, make_site

KEYS = [
    ApiKey(name="all", sha256=ApiKey.digest("all")),
    ApiKey(name="few", sha256=ApiKey.digest("few"), corpora=["docs"]),
]
PLAIN = {"model": MODEL, "prompt": "hi"}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}

# Route, a request to it, and whether this machine needs a key.
TABLE: dict[tuple[str, str], tuple[str, object, bool]] = {
    ("POST", "/v1/completions"): ("/v1/completions", PLAIN, True),
    ("POST", "/v1/chat/completions"): ("/v1/chat/completions", CHAT, True),
    ("GET", "/v1/models"): ("/v1/models", None, True),
    ("GET", "/v1/models/{model:path}"): (f"/v1/models/{MODEL}", None, True),
    ("GET", "/metrics"): ("/metrics", None, True),
    ("GET", "/docs"): ("/docs", None, True),
    ("GET", "/docs/oauth2-redirect"): ("/docs/oauth2-redirect", None, True),
    ("GET", "/redoc"): ("/redoc", None, True),
    ("GET", "/openapi.json"): ("/openapi.json", None, True),
    ("GET", "/health"): ("/health", None, False),
    ("GET", "/ready"): ("/ready", None, False),
}
PEERS = ["127.0.0.1", "::1", "10.1.2.3", "192.0.2.1"]


def routes_of(routes: list[BaseRoute]) -> Iterator[tuple[str, str]]:
    for route in routes:
        assert isinstance(route, Route), f"what is {route!r}?"
        for method in (route.methods or set()) - {"HEAD"}:
            yield method, route.path


def test_the_table_holds_every_route() -> None:
    assert set(routes_of(make_site().app.routes)) == set(TABLE)


async def ask(site: Site, route: tuple[str, str], peer: str, **headers: str) -> tuple[int, str]:
    path, body, _ = TABLE[route]
    async with site.client(peer, **headers) as client:
        answer = await client.request(route[0], path, json=body)
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    return answer.status_code, answer.text


@pytest.mark.parametrize("route", TABLE, ids=" ".join)
@pytest.mark.parametrize("peer", PEERS)
async def test_with_keys(route: tuple[str, str], peer: str) -> None:
    site = make_site(api_keys=KEYS)
    local = peer in PEERS[:2]
    open_here = local and not TABLE[route][2]
    assert (await ask(site, route, peer))[0] == (200 if open_here else 401)
    for wrong in ("Bearer wrong", "Bearer ", "Basic all", "all", "Bearer " + KEYS[0].sha256):
        assert (await ask(site, route, peer, authorization=wrong))[0] == 401
    for right in ("all", "few"):
        assert (await ask(site, route, peer, authorization=f"Bearer {right}"))[0] == 200


@pytest.mark.parametrize("route", TABLE, ids=" ".join)
@pytest.mark.parametrize("peer", PEERS)
async def test_without_keys(route: tuple[str, str], peer: str) -> None:
    expected = 200 if peer in PEERS[:2] else 403
    site = make_site()
    assert (await ask(site, route, peer))[0] == expected
    assert (await ask(site, route, peer, authorization="Bearer any"))[0] == expected
    # What a proxy or a web page in between gives away.
    for name, value in [
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-for", "127.0.0.1, 192.0.2.7"),
        ("forwarded", "for=192.0.2.7"),
        ("x-real-ip", "192.0.2.7"),
        ("host", "rebound.example"),
    ]:
        assert (await ask(site, route, peer, **{name: value}))[0] == 403


async def test_a_proxy_that_hides_its_clients_decides_by_where_it_listens() -> None:
    route = ("GET", "/v1/models")
    assert (await ask(make_site(proxy_host="0.0.0.0"), route, "127.0.0.1"))[0] == 403
    assert (await ask(make_site(proxy_host="127.0.0.1"), route, "127.0.0.1"))[0] == 200
    keyed = make_site(proxy_host="0.0.0.0", api_keys=KEYS)
    assert (await ask(keyed, ("GET", "/health"), "127.0.0.1"))[0] == 401
    assert (await ask(keyed, route, "127.0.0.1", authorization="Bearer few"))[0] == 200


async def test_what_does_not_exist_is_no_news_to_strangers() -> None:
    site = make_site(api_keys=KEYS)
    async with site.client("10.0.0.1") as client:
        for path in ("/nowhere", "/v1/corpora", "/-/routes", "/health/", "//health"):
            assert (await client.get(path)).status_code == 401
        client.headers["authorization"] = "Bearer all"
        lost = await client.get("/nowhere")
        assert (lost.status_code, lost.json()["error"]["code"]) == (404, "not_found")
        wrong = await client.delete("/v1/models")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET")
        assert wrong.json()["error"]["code"] == "method_not_allowed"


async def test_a_key_reads_its_own_corpora() -> None:
    site = make_site(api_keys=KEYS)
    async with site.client(authorization="Bearer few") as client:
        for corpora, status in [
            (["docs"], 200),
            (["laws"], 403),
            (["docs", "none"], 403),
            ([], 200),
        ]:
            answer = await client.post("/v1/completions", json={**PLAIN, "corpora": corpora})
            assert answer.status_code == status
        await client.post("/v1/completions", json=PLAIN)
    assert [request.params.corpora for request in site.engine.started] == [("docs",), (), ("docs",)]
    async with site.client(authorization="Bearer all") as client:
        answer = await client.post("/v1/completions", json={**PLAIN, "corpora": ["none"]})
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "corpora")


async def test_numbers_and_logs_are_ours(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "rasd")
    site = make_site()
    forged = "mine\r\nforged: line"
    async with site.client(**{"x-request-id": "mine"}) as client:
        first = await client.post("/v1/completions", json={**PLAIN, "user": forged})
        second = await client.post(
            "/v1/completions", json={**PLAIN, "prompt": "a sentence to hide"}
        )
        await client.get("/no%0Aforged")
    ids = {answer.headers["x-request-id"] for answer in (first, second)}
    assert len(ids) == 2 and "mine" not in ids
    assert first.json()["id"] == f"cmpl-{first.headers['x-request-id']}"
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("rasd")]
    assert len(lines) == 3 + 2  # one per request, and one per request that runs
    assert sum(" is sequences " in line for line in lines) == 2
    for line in lines:
        assert "\n" not in line
        assert re.search(r"request [0-9a-f]{32}", line)
        assert "mine" not in line and "hide" not in line
