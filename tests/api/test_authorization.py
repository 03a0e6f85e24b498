"""Every route against every kind of caller. A route missing from the table fails."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from starlette.routing import BaseRoute, Route

from rasd.config import ApiKey
from rasd.datastore import DatastoreStatus, StoredDocument
from tests.api.fakes import MODEL, Site, make_site
from tests.api.stores import FakeDatastore

KEYS = [
    ApiKey(name="all", sha256=ApiKey.digest("all"), manage=True),
    ApiKey(name="few", sha256=ApiKey.digest("few"), corpora=["docs"]),
    ApiKey(name="own", sha256=ApiKey.digest("own"), corpora=["docs"], manage=True),
]
PLAIN = {"model": MODEL, "prompt": "hi"}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
DOCUMENT = {"documents": [{"id": "new/one", "text": "text"}]}
DOCS, DOCUMENTS = "/v1/corpora/docs", "/v1/corpora/docs/documents"


class Row(NamedTuple):
    """A request, whether this machine needs a key for it, and whether it changes something."""

    path: str
    body: object = None
    keyed: bool = True
    manage: bool = False


TABLE: dict[tuple[str, str], Row] = {
    ("POST", "/v1/completions"): Row("/v1/completions", PLAIN),
    ("POST", "/v1/chat/completions"): Row("/v1/chat/completions", CHAT),
    ("GET", "/v1/models"): Row("/v1/models"),
    ("GET", "/v1/models/{model:path}"): Row(f"/v1/models/{MODEL}"),
    ("GET", "/v1/corpora"): Row("/v1/corpora"),
    ("POST", "/v1/corpora"): Row("/v1/corpora", {"name": "docs"}, manage=True),
    ("GET", "/v1/corpora/{name}"): Row(DOCS),
    ("DELETE", "/v1/corpora/{name}"): Row(DOCS, manage=True),
    ("GET", "/v1/corpora/{name}/documents"): Row(DOCUMENTS),
    ("POST", "/v1/corpora/{name}/documents"): Row(DOCUMENTS, DOCUMENT, manage=True),
    ("POST", "/v1/corpora/{name}/documents/delete"): Row(
        f"{DOCUMENTS}/delete", {"ids": ["a/b"]}, manage=True
    ),
    ("GET", "/v1/corpora/{name}/documents/{id:path}"): Row(f"{DOCUMENTS}/a%2Fb"),
    ("DELETE", "/v1/corpora/{name}/documents/{id:path}"): Row(f"{DOCUMENTS}/a/b", manage=True),
    ("GET", "/v1/datastore"): Row("/v1/datastore"),
    ("PUT", "/v1/datastore/scale"): Row(
        "/v1/datastore/scale", {"shards": 2, "replicas": 1}, manage=True
    ),
    ("GET", "/metrics"): Row("/metrics"),
    ("GET", "/docs"): Row("/docs"),
    ("GET", "/docs/oauth2-redirect"): Row("/docs/oauth2-redirect"),
    ("GET", "/redoc"): Row("/redoc"),
    ("GET", "/openapi.json"): Row("/openapi.json"),
    ("GET", "/health"): Row("/health", keyed=False),
    ("GET", "/ready"): Row("/ready", keyed=False),
}
OF_CORPORA = [route for route in TABLE if "{name}" in route[1] or route == ("POST", "/v1/corpora")]
PEERS = ["127.0.0.1", "::1", "10.1.2.3", "192.0.2.1"]


def routes_of(routes: list[BaseRoute]) -> Iterator[tuple[str, str]]:
    for route in routes:
        assert isinstance(route, Route), f"what is {route!r}?"
        for method in (route.methods or set()) - {"HEAD"}:
            yield method, route.path


def test_the_table_holds_every_route() -> None:
    assert set(routes_of(make_site().app.routes)) == set(TABLE)


def full_site(**config: Any) -> Site:
    """A site with all that the table asks for."""
    stored = {"a/b": StoredDocument("a/b", [1], None, {})}
    datastore = FakeDatastore({"docs": stored, "laws": dict(stored)}, {"docs": 4, "laws": 4})
    return make_site(datastore=datastore, **config)


async def ask(
    site: Site, route: tuple[str, str], peer: str, *, corpus: str = "docs", **headers: str
) -> tuple[int, str]:
    path, body = TABLE[route].path, TABLE[route].body
    path = path.replace("/corpora/docs", f"/corpora/{corpus}")
    if body == {"name": "docs"}:
        body = {"name": corpus}
    async with site.client(peer, **headers) as client:
        answer = await client.request(route[0], path, json=body)
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    return answer.status_code, answer.text


@pytest.mark.parametrize("route", TABLE, ids=" ".join)
@pytest.mark.parametrize("peer", PEERS)
async def test_with_keys(route: tuple[str, str], peer: str) -> None:
    site = full_site(api_keys=KEYS)
    local = peer in PEERS[:2]
    open_here = local and not TABLE[route].keyed
    assert (await ask(site, route, peer))[0] == (200 if open_here else 401)
    for wrong in ("Bearer wrong", "Bearer ", "Basic all", "all", "Bearer " + KEYS[0].sha256):
        assert (await ask(site, route, peer, authorization=wrong))[0] == 401
    for key in KEYS:
        expected = 200 if key.manage or not TABLE[route].manage else 403
        site = full_site(api_keys=KEYS)
        status, text = await ask(site, route, peer, authorization=f"Bearer {key.name}")
        assert status == expected
        assert status == 200 or "manage" in text


@pytest.mark.parametrize("route", OF_CORPORA, ids=" ".join)
@pytest.mark.parametrize("key", ["few", "own"])
async def test_whether_a_foreign_corpus_exists_is_not_told(
    route: tuple[str, str], key: str
) -> None:
    site = full_site(api_keys=KEYS)
    answers = [
        await ask(site, route, "10.0.0.1", corpus=corpus, authorization=f"Bearer {key}")
        for corpus in ("laws", "none")
    ]
    assert [status for status, _ in answers] == [403, 403]
    assert answers[0][1].replace("laws", "none") == answers[1][1]
    assert "laws" in await seen(site, "all")


async def seen(site: Site, key: str) -> str:
    """Everything a key may look at, as one text."""
    async with site.client(authorization=f"Bearer {key}") as client:
        paths = ("/v1/corpora", "/v1/datastore", "/metrics")
        return "".join([(await client.get(path)).text for path in paths])


async def test_listings_show_what_the_key_may_read() -> None:
    site = full_site(api_keys=KEYS)
    assert "laws" in await seen(site, "all")
    for key in ("few", "own"):
        text = await seen(site, key)
        assert "docs" in text and "laws" not in text
        assert "node-a" not in text
    assert "node-a" in await seen(site, "all")


@pytest.mark.parametrize("route", TABLE, ids=" ".join)
@pytest.mark.parametrize("peer", PEERS)
async def test_without_keys(route: tuple[str, str], peer: str) -> None:
    expected = 200 if peer in PEERS[:2] else 403
    assert (await ask(full_site(), route, peer))[0] == expected
    assert (await ask(full_site(), route, peer, authorization="Bearer any"))[0] == expected
    site = full_site()
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
        for path in ("/nowhere", "/v1/corpora/none", "/-/routes", "/health/", "//health"):
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


async def test_nobody_looks_for_what_a_key_may_not_read() -> None:
    looks: list[str] = []

    async def look() -> list[str]:
        looks.append("")
        return ["docs", "laws", "new"]

    site = make_site(api_keys=KEYS, corpora=(), look=look)
    async with site.client(authorization="Bearer few") as client:
        for corpora, status in [(["new"], 403), (["none"], 403), (None, 200), (["docs"], 200)]:
            answer = await client.post("/v1/completions", json={**PLAIN, "corpora": corpora})
            assert (answer.status_code, len(looks)) == (status, corpora == ["docs"])


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


@pytest.mark.parametrize("key", ["few", "own"])
async def test_a_limited_key_learns_nothing_of_other_corpora(key: str) -> None:
    """Whatever is made, dropped or moved elsewhere, its answers stay the same."""

    class Moving(FakeDatastore):
        async def status(self) -> DatastoreStatus:
            return replace(await super().status(), moving="laws" in self.corpora_)

    answers, metrics = [], []
    for others in ([], ["laws", "more"]):
        names = ["docs", *others]
        store = Moving({name: {} for name in names}, dict.fromkeys(names, 4))
        site = make_site(datastore=store, api_keys=KEYS)
        async with site.client(PEERS[2], authorization=f"Bearer {key}") as client:
            answers.append((await client.get("/v1/datastore")).json())
            text = (await client.get("/metrics")).text
            if key == "own":
                body = {"shards": 2, "replicas": 1}
                scaled = (await client.put("/v1/datastore/scale", json=body)).json()
                assert (scaled["version"], scaled["moving"], scaled["shards"]) == (0, False, [])
        shown = [line for line in text.splitlines() if line.startswith(("rasd:data", "rasd:shard"))]
        metrics.append([line for line in shown if "_age_" not in line])
    assert answers[0] == answers[1]
    assert (answers[0]["version"], answers[0]["moving"], answers[0]["shards"]) == (0, False, [])
    assert answers[0]["writer"] is None
    assert metrics[0] == metrics[1]
    assert not any("shard_" in line or "compact" in line for line in metrics[0])
    async with site.client(PEERS[2], authorization="Bearer all") as client:
        everything = (await client.get("/v1/datastore")).json()
    assert everything["moving"] and everything["version"] and everything["shards"]
    assert everything["writer"]["commits"]
