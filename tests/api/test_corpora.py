"""Corpora and documents over HTTP: what is asked, what comes back, what fails."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from rasd.api import corpora as routes
from rasd.datastore import Scale, StoredDocument
from rasd.errors import (
    NotFound,
    Overloaded,
    SegmentCorrupt,
    StorageError,
    StoreLocked,
    Unavailable,
)
from tests.api.fakes import Site, make_site
from tests.api.stores import FakeDatastore

IDS = [
    "plain",
    "a/b/c.txt",
    "/absolute/",
    "../up",
    "a/./b",
    ".",
    "..",
    "delete",
    "per%20cent%",
    "sp ace?query#hash&x=y",
    "ünï/日本語/🙂",
    "\ufffd",
    "a\u2028b",
    "'\"\\",
    "x" * 500,
]


def make(*names: str) -> tuple[Site, FakeDatastore]:
    store = FakeDatastore({name: {} for name in names}, dict.fromkeys(names, 4))
    return make_site(datastore=store), store


def encoded(id_: str) -> str:
    """An id for a path. Clients fold dots away as they are, so those are escaped, too."""
    return quote(id_, safe="").replace(".", "%2E")


async def test_a_corpus_from_its_making_to_its_end() -> None:
    site, _ = make()
    async with site.client() as client:
        made = await client.post("/v1/corpora", json={"name": "docs", "partitions": 2})
        assert made.status_code == 201
        corpus = made.json()
        assert (corpus["object"], corpus["name"], corpus["partitions"]) == ("corpus", "docs", 2)
        assert (corpus["documents"], corpus["tokens"], corpus["damaged"]) == (0, 0, [])
        for same in ({"name": "docs"}, {"name": "docs", "partitions": 2}):
            again = await client.post("/v1/corpora", json=same)
            assert (again.status_code, again.json()) == (200, corpus)
        other = await client.post("/v1/corpora", json={"name": "docs", "partitions": 3})
        assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")
        assert (await client.get("/v1/corpora/docs")).json() == corpus
        gone = await client.delete("/v1/corpora/docs")
        assert gone.json() == {"id": "docs", "object": "corpus.deleted", "deleted": True}
        for method in ("GET", "DELETE"):
            answer = await client.request(method, "/v1/corpora/docs")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_documents_are_added_replaced_and_deleted() -> None:
    site, store = make("docs")
    path = "/v1/corpora/docs/documents"
    documents: list[dict[str, Any]] = [
        {"id": "a", "text": "one"},
        {"id": "b", "tokens": [1, 2, 3], "metadata": {"n": [1.5, None]}},
        {"id": "c", "text": ""},
        {"id": "d", "tokens": [10**9], "text": None},
    ]
    async with site.client() as client:
        first = (await client.post(path, json={"documents": documents})).json()
        assert first["object"] == "list"
        assert [one["change"] for one in first["data"]] == ["created"] * 2 + ["rejected"] * 2
        assert [one["id"] for one in first["data"]] == ["a", "b", "c", "d"]
        assert ["error" in one for one in first["data"]] == [False, False, True, True]
        assert first["rejected"] == 2
        documents[0]["text"] = "two"
        second = (await client.post(path, json={"documents": documents[:2]})).json()
        assert [one["change"] for one in second["data"]] == ["replaced", "unchanged"]
        assert (await client.get(f"{path}/b")).json() == {
            "object": "document",
            "id": "b",
            "text": None,
            "tokens": [1, 2, 3],
            "metadata": {"n": [1.5, None]},
            "token_count": 3,
        }
        deleted = await client.post(f"{path}/delete", json={"ids": ["a", "zzz"]})
        changes = [(one["id"], one["change"]) for one in deleted.json()["data"]]
        assert changes == [("a", "deleted"), ("zzz", "missing")]
    assert set(store.corpora_["docs"]) == {"b"}


@pytest.mark.parametrize("id_", IDS, ids=lambda i: repr(i)[:20])
async def test_ids_are_names_and_never_paths(id_: str) -> None:
    site, store = make("docs")
    path = "/v1/corpora/docs/documents"
    async with site.client() as client:
        await client.post(path, json={"documents": [{"id": id_, "text": "text"}]})
        assert list(store.corpora_["docs"]) == [id_]
        answer = await client.get(f"{path}/{encoded(id_)}")
        assert (answer.status_code, answer.json()["id"]) == (200, id_)
        gone = await client.delete(f"{path}/{encoded(id_)}")
        assert gone.json() == {"id": id_, "object": "document.deleted", "deleted": True}
        for method in ("GET", "DELETE"):
            answer = await client.request(method, f"{path}/{encoded(id_)}")
            assert answer.status_code == 404
            assert answer.json()["error"]["param"] in ("id", None)


async def test_an_id_that_is_no_utf8_names_nothing() -> None:
    site, store = make("docs")
    store.corpora_["docs"]["\ufffd"] = StoredDocument("\ufffd", [1], None, {})
    async with site.client() as client:
        for method in ("GET", "DELETE"):
            answer = await client.request(method, "/v1/corpora/docs/documents/%FF")
            assert answer.status_code == 400
            assert "not UTF-8" in answer.json()["error"]["message"]
    assert "\ufffd" in store.corpora_["docs"]


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
async def test_pages_hold_everything_once(limit: int) -> None:
    names = [f"c{i}" for i in range(5)]
    site, store = make(*names)
    store.corpora_["c3"] = {str(i): StoredDocument(str(i), [1] * i, None, {}) for i in range(1, 9)}
    async with site.client() as client:
        found = [one["name"] for one in await pages(client, "/v1/corpora", limit)]
        documents = await pages(client, "/v1/corpora/c3/documents", limit)
    assert found == names
    assert sorted(one["id"] for one in documents) == sorted(store.corpora_["c3"])
    assert all(one["token_count"] == int(one["id"]) for one in documents)


async def pages(client: httpx.AsyncClient, path: str, limit: int) -> list[dict[str, Any]]:
    """All entries, read as a client does."""
    entries: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": limit}
    query |= {"content": "true"} if "content" in path else {}
    while True:
        page = (await client.get(path.partition("?")[0], params=query)).json()
        assert len(page["data"]) <= limit
        assert page["has_more"] is (page["last_id"] is not None)
        entries += page["data"]
        if not page["has_more"]:
            return entries
        query["after"] = page["last_id"]


async def test_pages_with_content_are_no_larger_than_they_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(routes, "PAGE_TOKENS", 20)
    site, store = make("docs")
    documents = {
        str(i): StoredDocument(str(i), [i] * (30 if i % 9 == 0 else 6), "x" if i % 2 else None, {})
        for i in range(40)
    }
    store.corpora_["docs"] = dict(documents)
    path = "/v1/corpora/docs/documents?content=true"
    async with site.client() as client:
        first = (await client.get(path)).json()
        assert sum(one["token_count"] for one in first["data"]) <= 30
        found = {one["id"]: one for one in await pages(client, path, 1000)}
        for one in documents.values():
            shown = found[one.id]
            assert (shown["text"], shown["metadata"]) == (one.text, {})
            assert shown["tokens"] == (one.tokens if one.text is None else None)
        store.fault = vanish
        left = await pages(client, path, 7)
    assert len(found) == len(documents) and len(left) == len(documents) - 1


def vanish(name: str, arguments: Any) -> None:
    """Document 7 is deleted after it was listed."""
    if name == "get" and arguments[1] == "7":
        raise NotFound("gone")


async def test_status_and_scale() -> None:
    site, store = make("docs")
    async with site.client() as client:
        before = (await client.get("/v1/datastore")).json()
        assert (before["object"], before["override"]) == ("datastore", False)
        assert before["scale"] == before["configured"] == {"shards": 1, "replicas": 1}
        assert [corpus["name"] for corpus in before["corpora"]] == ["docs"]
        assert before["shards"][0]["node"] == "node-a"
        body = {"shards": 3, "replicas": 2}
        after = (await client.put("/v1/datastore/scale", json=body)).json()
    assert (after["scale"], after["override"], after["moving"]) == (body, True, True)
    assert len(after["shards"]) == 6
    assert store.scaled == Scale(3, 2)


async def test_an_application_without_a_datastore_says_so() -> None:
    async with make_site().client() as client:
        for path in ("/v1/corpora", "/v1/corpora/docs/documents/x", "/v1/datastore"):
            answer = await client.get(path)
            assert answer.status_code == 404
            assert "no datastore" in answer.json()["error"]["message"]
        assert b"rasd:datastore" not in (await client.get("/metrics")).content


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (Unavailable("the datastore is starting"), 503, "1"),
        (StoreLocked("pid 7 on node-b writes to 'docs'"), 503, "1"),
        (StorageError("no space left on the device: 0 bytes"), 507, None),
        (Overloaded("64 MiB wait already", retry_after_s=2.5), 429, "3"),
        (SegmentCorrupt("source-000001.docs: checksum of block 3"), 500, None),
    ],
    ids=lambda x: type(x).__name__,
)
async def test_failures_are_told(error: Exception, status: int, retry: str | None) -> None:
    def fail(name: str, arguments: Any) -> None:
        raise error

    site, store = make("docs")
    store.fault = fail
    path = "/v1/corpora/docs/documents"
    async with site.client() as client:
        for answer in (
            await client.post(path, json={"documents": [{"id": "a", "text": "b"}]}),
            await client.delete(f"{path}/a"),
            await client.get(f"{path}/a"),
            await client.post(f"{path}/delete", json={"ids": ["a"]}),
            await client.get("/v1/corpora"),
            await client.get("/v1/datastore"),
        ):
            assert answer.status_code == status
            assert answer.headers.get("retry-after") == retry
            assert answer.json()["error"]["message"] == str(error)


async def test_a_datastore_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "CALL_DEADLINE_S", 0.05)
    site, store = make("docs")
    store.fault = lambda name, arguments: asyncio.Event().wait()
    async with site.client() as client:
        answer = await client.get("/v1/corpora/docs")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert "0.05 s" in answer.json()["error"]["message"]


async def test_large_bodies_are_parsed_and_answered() -> None:
    site, _ = make("docs")
    path = "/v1/corpora/docs/documents"
    text, tokens = "é" * 200_000, list(range(1000)) * 100
    documents = [{"id": "t", "text": text}, {"id": "n", "tokens": tokens}]
    async with site.client() as client:
        answer = await client.post(path, json={"documents": documents})
        assert answer.json()["rejected"] == 0
        assert (await client.get(f"{path}/t")).json()["text"] == text
        assert (await client.get(f"{path}/n")).json()["tokens"] == tokens
        huge = json.dumps({"documents": [{"id": "x", "text": "x" * 9_000_000}]})
        refused = await client.post(path, content=huge, headers={"content-type": "text/plain"})
        assert refused.status_code == 413
        assert str(8 * 1024 * 1024) in refused.json()["error"]["message"]


async def test_the_page_of_documentation_has_routes_and_bodies() -> None:
    site, _ = make()
    async with site.client() as client:
        page = (await client.get("/openapi.json")).json()
    paths, schemas = page["paths"], page["components"]["schemas"]
    listing = paths["/v1/corpora/{name}/documents"]
    assert {one["name"] for one in listing["get"]["parameters"]} == {
        "name",
        "limit",
        "after",
        "content",
    }
    assert "at most 1000" in listing["post"]["description"]
    for path, method, body in [
        ("/v1/corpora", "post", "CorpusBody"),
        ("/v1/corpora/{name}/documents", "post", "DocumentsBody"),
        ("/v1/corpora/{name}/documents/delete", "post", "IdsBody"),
        ("/v1/datastore/scale", "put", "ScaleBody"),
    ]:
        content = paths[path][method]["requestBody"]["content"]["application/json"]
        assert content["schema"]["$ref"].endswith(f"/{body}")
        assert schemas[body]["additionalProperties"] is False
    limits = schemas["DocumentsBody"]["properties"]["documents"]
    assert (limits["minItems"], limits["maxItems"]) == (1, 1000)
    assert "DocumentBody" in schemas
