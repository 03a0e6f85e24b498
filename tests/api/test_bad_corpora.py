"""What the routes of the datastore must refuse: wrong bodies, queries and names."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.api.fakes import Site, make_site
from tests.api.refusing import JSON, shaped
from tests.api.stores import FakeDatastore

CREATE, ADD = "/v1/corpora", "/v1/corpora/docs/documents"
DELETE, SCALE = f"{ADD}/delete", "/v1/datastore/scale"
GOOD: dict[str, dict[str, Any]] = {
    CREATE: {"name": "docs"},
    ADD: {"documents": [{"id": "a", "text": "b"}]},
    DELETE: {"ids": ["a"]},
    SCALE: {"shards": 1, "replicas": 1},
}

VALUES: list[tuple[str, str, Any, str]] = [
    # path, name, value, what the message says
    (CREATE, "name", "", "name"),
    (CREATE, "name", "a/b", "got 'a/b'"),
    (CREATE, "name", "..", "got '..'"),
    (CREATE, "name", ".hidden", "got '.hidden'"),
    (CREATE, "name", "x" * 65, "got 'xxx"),
    (CREATE, "name", "ünï", "got 'ünï'"),
    (CREATE, "name", "a\n", "got 'a\\n'"),
    (CREATE, "name", None, "got None"),
    (CREATE, "name", 7, "got 7"),
    (CREATE, "partitions", 0, "got 0"),
    (CREATE, "partitions", 1025, "less than or equal to 1024; got 1025"),
    (CREATE, "partitions", True, "got True"),
    (CREATE, "partitions", 4.0, "got 4.0"),
    (CREATE, "partitions", "4", "got '4'"),
    (CREATE, "tokenizer", "x", "unknown parameter 'tokenizer'"),
    (CREATE, "tools", [], "unknown parameter 'tools'"),
    (CREATE, "best_of", 1, "unknown parameter 'best_of'"),
    (ADD, "documents", [], "at least 1 item"),
    (ADD, "documents", None, "got None"),
    (ADD, "documents", {}, "got {}"),
    (ADD, "documents", "text", "got 'text'"),
    (ADD, "documents", ["text"], "documents.0"),
    (ADD, "documents", [{"text": "b"}], "documents.0.id is required"),
    (ADD, "documents", [{"id": 7, "text": "b"}], "documents.0.id: Input should be a valid string"),
    (ADD, "documents", [{"id": "a", "text": "b"}, {"id": "c", "text": 5}], "documents.1.text"),
    (ADD, "documents", [{"id": "a", "tokens": "b"}], "documents.0.tokens"),
    (ADD, "documents", [{"id": "a", "tokens": [1, True]}], "documents.0.tokens.1"),
    (ADD, "documents", [{"id": "a", "tokens": [1.0]}], "documents.0.tokens.0"),
    (ADD, "documents", [{"id": "a", "text": "b", "metadata": []}], "documents.0.metadata"),
    (ADD, "documents", [{"id": "a", "text": "b", "meta": {}}], "'documents.0.meta'"),
    (ADD, "documents", [{"id": "a", "text": "b"}] * 1001, "at most 1000 entries; got 1001"),
    (ADD, "documents", ["x"] * 100_000, "at most 1000 entries; got 100000"),
    (ADD, "corpus", "docs", "unknown parameter 'corpus'"),
    (DELETE, "ids", [], "at least 1 item"),
    (DELETE, "ids", "a", "got 'a'"),
    (DELETE, "ids", [1], "ids.0"),
    (DELETE, "ids", ["a"] * 1001, "at most 1000 entries; got 1001"),
    (DELETE, "all", True, "unknown parameter 'all'"),
    (SCALE, "shards", 0, "got 0"),
    (SCALE, "shards", 1025, "got 1025"),
    (SCALE, "shards", None, "got None"),
    (SCALE, "shards", "2", "got '2'"),
    (SCALE, "replicas", 65, "got 65"),
    (SCALE, "replicas", -1, "got -1"),
    (SCALE, "nodes", 1, "unknown parameter 'nodes'"),
]

BODIES: dict[str, tuple[str, bytes, str]] = {
    "no JSON": (ADD, b"", "not JSON"),
    "array": (DELETE, b'["a"]', "must be a JSON object"),
    "twice": (ADD, b'{"documents": [{"id": "a", "id": "b", "text": "c"}]}', "'id' occurs twice"),
    "NaN": (ADD, b'{"documents": [{"id": "a", "metadata": {"x": NaN}}]}', "got NaN"),
    "1e999": (ADD, b'{"documents": [{"id": "a", "metadata": {"x": 1e999}}]}', "got 1e999"),
    "surrogate": (ADD, b'{"documents": [{"id": "a", "text": "\\ud800"}]}', "lone surrogate"),
    "surrogate in an id": (DELETE, b'{"ids": ["\\udfff"]}', "lone surrogate"),
    "NUL": (ADD, b'{"documents": [{"id": "a\\u0000", "text": "x"}]}', "NUL"),
    "no UTF-8": (ADD, b'{"documents": [{"id": "a", "text": "\xff"}]}', "not UTF-8"),
    "deep": (
        ADD,
        b'{"documents": [{"id": "a", "metadata": {"x": '
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}}]}",
        "nested too deeply",
    ),
    "digits": (CREATE, b'{"name": "a", "partitions": ' + b"9" * 5000 + b"}", "4300 digits"),
}

QUERIES: list[tuple[str, str, str]] = [
    ("limit=0", "limit", "between 1 and 1000; got '0'"),
    ("limit=1001", "limit", "got '1001'"),
    ("limit=-1", "limit", "got '-1'"),
    ("limit=%2B1", "limit", "got '+1'"),
    ("limit=1.0", "limit", "got '1.0'"),
    ("limit=", "limit", "got ''"),
    ("limit=%EF%BC%91", "limit", "got '１'"),
    ("limit=" + "9" * 5000, "limit", "got '999"),
    ("limit=1&limit=2", "limit", "given twice"),
    ("after=", "after", "got ''"),
    ("after=%00", "after", "got '\\x00'"),
    ("content=true&content=true", "content", "given twice"),
    ("content=yes", "content", "got 'yes'"),
    ("content=", "content", "got ''"),
    ("before=x", "before", "unknown parameter 'before'"),
    ("order=asc&limit=0", "order", "unknown parameter 'order'"),
]


def make() -> tuple[Site, FakeDatastore]:
    store = FakeDatastore({"docs": {}}, {"docs": 4})
    return make_site(datastore=store), store


SITE, STORE = make()


async def refused(path: str, body: bytes, *, method: str = "POST") -> dict[str, Any]:
    """The error. Nothing was asked of the datastore."""
    asked = len(STORE.calls)
    method = "PUT" if path == SCALE else method
    async with SITE.client() as client:
        answer = await client.request(method, path, content=body, headers=JSON)
    assert len(STORE.calls) == asked
    assert answer.status_code == 400
    return shaped(answer.status_code, answer.text)


@pytest.mark.parametrize(("path", "name", "value", "message"), VALUES, ids=lambda x: repr(x)[:30])
async def test_wrong_values(path: str, name: str, value: Any, message: str) -> None:
    error = await refused(path, json.dumps({**GOOD[path], name: value}).encode())
    assert message in error["message"]
    assert error["param"].split(".")[0] == name
    assert (error["code"] == "unsupported_parameter") is ("unknown" in error["message"])


@pytest.mark.parametrize("path", GOOD)
async def test_nothing_may_be_missing(path: str) -> None:
    error = await refused(path, b"{}")
    assert error["param"] in GOOD[path] and "is required" in error["message"]


@pytest.mark.parametrize("name", BODIES)
async def test_malformed_bodies(name: str) -> None:
    path, body, message = BODIES[name]
    assert message in (await refused(path, body))["message"]


@pytest.mark.parametrize(("query", "param", "message"), QUERIES, ids=lambda x: x[:30])
@pytest.mark.parametrize("path", [CREATE, ADD])
async def test_wrong_queries(path: str, query: str, param: str, message: str) -> None:
    error = await refused(f"{path}?{query}", b"", method="GET")
    if path == CREATE and param == "content":
        message = "unknown parameter 'content'"
    assert (error["param"], message in error["message"]) == (param, True)


@pytest.mark.parametrize("path", ["/v1/corpora/", "/v1/corpora//documents", "/v1/corpora/a%2Fb"])
async def test_no_name_is_no_corpus(path: str) -> None:
    async with SITE.client() as client:
        assert (await client.get(path)).status_code in (307, 404)
        assert (await client.delete(path)).status_code in (307, 404, 405)
    assert "docs" in STORE.corpora_


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from([2**63, -1, "\ud800", "\0", "docs"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "text", "tokens", "metadata"]) | st.text(max_size=3), inner
        )
    ),
    max_leaves=10,
)


@given(path=st.sampled_from(sorted(GOOD)), data=st.data())
def test_any_body(path: str, data: st.DataObject) -> None:
    names = st.sampled_from(sorted(GOOD[path])) | st.text(max_size=3)
    body = {**GOOD[path], **data.draw(st.dictionaries(names, values, max_size=3))}

    async def once(site: Site) -> None:
        async with site.client() as client:
            method = "PUT" if path == SCALE else "POST"
            answer = await client.request(
                method, path, content=json.dumps(body).encode(), headers=JSON
            )
        if answer.status_code not in (200, 201):
            shaped(answer.status_code, answer.text)

    site, _ = make()
    try:
        asyncio.run(once(site))
    finally:
        site.service.close()
