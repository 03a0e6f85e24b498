"""Corpora and documents over HTTP: what is asked, what comes back, what fails."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from rasd.api import corpora as routes
from rasd.datastore import Failure, Scale, StoredDocument
from rasd.errors import (
    NotFound,
    Overloaded,
    SegmentCorrupt,
    StorageError,
    StoreLocked,
    Unavailable,
)
from tests.api.fakes import MODEL, Site, make_site
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
        assert (corpus["object"], corpus["id"], corpus["name"]) == ("corpus", "docs", "docs")
        assert corpus["partitions"] == 2
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


async def test_a_corpus_may_be_named_as_soon_as_it_is_made() -> None:
    """No router knows it yet: the tables that name it are on their way."""
    store = FakeDatastore()
    sites = [make_site(corpora=(), datastore=store, look=store.names) for _ in range(2)]
    ask = {"model": MODEL, "prompt": "hi", "corpora": ["docs"]}
    async with sites[0].client() as maker, sites[1].client() as other:
        for client in (maker, other):
            refused = await client.post("/v1/completions", json=ask)
            assert (refused.status_code, refused.json()["error"]["param"]) == (404, "corpora")
        assert (await maker.post("/v1/corpora", json={"name": "docs"})).status_code == 201
        for client in (maker, other):
            assert (await client.post("/v1/completions", json=ask)).status_code == 200
    assert [site.engine.started[-1].params.corpora for site in sites] == [("docs",)] * 2


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
@pytest.mark.parametrize("by_entry", [False, True])
async def test_pages_hold_everything_once(limit: int, by_entry: bool) -> None:
    names = [f"c{i}" for i in range(5)]
    site, store = make(*names)
    store.corpora_["c3"] = {str(i): StoredDocument(str(i), [1] * i, None, {}) for i in range(1, 9)}
    async with site.client() as client:
        corpora = await pages(client, "/v1/corpora", limit, by_entry=by_entry)
        documents = await pages(client, "/v1/corpora/c3/documents", limit, by_entry=by_entry)
    assert [one["id"] for one in corpora] == names
    assert sorted(one["id"] for one in documents) == sorted(store.corpora_["c3"])
    assert all(one["token_count"] == int(one["id"]) for one in documents)


async def test_a_listing_of_corpora_goes_on_behind_its_last_entry() -> None:
    site, _ = make("a", "b", "c")
    async with site.client() as client:
        first = (await client.get("/v1/corpora?limit=2")).json()
        assert (first["first_id"], first["last_id"], first["has_more"]) == ("a", "b", True)
        after = first["data"][-1]["id"]
        rest = (await client.get(f"/v1/corpora?after={after}")).json()
        assert (rest["first_id"], rest["last_id"], rest["has_more"]) == ("c", "c", False)
        none = (await client.get("/v1/corpora?after=c")).json()
    assert (none["data"], none["first_id"], none["last_id"]) == ([], None, None)


async def pages(
    client: httpx.AsyncClient, path: str, limit: int, *, by_entry: bool = False
) -> list[dict[str, Any]]:
    """All entries, read as a client does; ``by_entry`` as OpenAI's does."""
    entries: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": limit}
    query |= {"content": "true"} if "content" in path else {}
    while True:
        page = (await client.get(path.partition("?")[0], params=query)).json()
        assert len(page["data"]) <= limit
        assert page["first_id"] == (page["data"][0]["id"] if page["data"] else None)
        entries += page["data"]
        if not page["has_more"]:
            return entries
        query["after"] = page["data"][-1]["id"] if by_entry else page["last_id"]


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


async def test_one_of_many_corpora_is_asked_for_alone() -> None:
    names = [f"c{i}" for i in range(300)]
    site, store = make(*names)
    async with site.client() as client:
        assert (await client.get("/v1/corpora/c7")).json()["name"] == "c7"
        assert (await client.get("/v1/corpora/new")).status_code == 404
        for status in (201, 200):
            answer = await client.post("/v1/corpora", json={"name": "new"})
            assert answer.status_code == status
    assert {asked for name, asked in store.calls if name == "corpus"} == {"c7", "new"}
    assert "corpora" not in [name for name, _ in store.calls]


async def test_status_tells_what_failed_without_paths() -> None:
    site, store = make("docs")
    error = "StorageError: /srv/root/docs/partition-0001: No space\n  at /srv/x"
    store.failure = Failure("compaction", "docs", error, 61.5)
    async with site.client() as client:
        writer = (await client.get("/v1/datastore")).json()["writer"]
    assert writer.pop("failure") == {
        "work": "compaction",
        "corpus": "docs",
        "error": "StorageError: docs/partition-0001: No space",
        "age_s": 61.5,
    }
    assert writer == {
        "commits": 7,
        "commit_seconds": 0.5,
        "failed_commits": 2,
        "compactions": 1,
        "waiting": 3,
        "failed_compactions": 4,
    }


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


async def test_the_page_of_documentation_has_answers_and_errors() -> None:
    page = make()[0].app.openapi()
    schemas = page["components"]["schemas"]
    assert set(schemas["ErrorDetail"]["properties"]) == {"message", "type", "param", "code"}
    for path, methods in page["paths"].items():
        for said in methods.values():
            answers = {status: shown(one) for status, one in said["responses"].items()}
            assert answers.pop("4XX") == answers.pop("5XX") == "ErrorAnswer"
            assert set(answers) <= {"200", "201"}  # 422 is never sent
            if path.startswith(("/v1/corpora", "/v1/datastore")):
                assert all(answer in schemas for answer in answers.values())
    made = page["paths"]["/v1/corpora"]["post"]["responses"]
    assert shown(made["200"]) == shown(made["201"]) == "CorpusAnswer"


def shown(response: dict[str, Any]) -> str:
    """The name of an answer's schema; empty if it has none."""
    schema = response["content"]["application/json"]["schema"]
    return str(schema.get("$ref", "")).removeprefix("#/components/schemas/")


async def test_answers_are_what_the_page_of_documentation_says() -> None:
    site, _ = make("laws")
    documents = {"documents": [{"id": "a", "text": "b"}, {"id": "c", "tokens": [1]}, {"id": ""}]}
    for method, path, body in [
        ("POST", "/v1/corpora", {"name": "docs"}),
        ("POST", "/v1/corpora", {"name": "docs"}),
        ("GET", "/v1/corpora", None),
        ("GET", "/v1/corpora/{name}", None),
        ("POST", "/v1/corpora/{name}/documents", documents),
        ("GET", "/v1/corpora/{name}/documents", None),
        ("GET", "/v1/corpora/{name}/documents?content=true&limit=1", None),
        ("GET", "/v1/corpora/{name}/documents/{id:path}", None),
        ("POST", "/v1/corpora/{name}/documents/delete", {"ids": ["c", "d"]}),
        ("DELETE", "/v1/corpora/{name}/documents/{id:path}", None),
        ("GET", "/v1/datastore", None),
        ("PUT", "/v1/datastore/scale", {"shards": 2, "replicas": 2}),
        ("DELETE", "/v1/corpora/{name}", None),
    ]:
        async with site.client() as client:
            named = path.replace("{name}", "docs").replace("{id:path}", "a")
            answer = await client.request(method, named, json=body)
        assert answer.is_success
        kind = TypeAdapter(answer_of(site, method, path.partition("?")[0]))
        assert kind.dump_python(kind.validate_json(answer.content)) == answer.json()


def answer_of(site: Site, method: str, path: str) -> Any:
    (route,) = (
        route
        for route in site.app.routes
        if isinstance(route, APIRoute) and (route.path, route.methods) == (path, {method})
    )
    return route.response_model
