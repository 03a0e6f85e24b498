"""`return_origins`: what an answer quotes, with the names of its documents."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from rasd.api import origins as naming
from rasd.engine.api import Origin, Output, Request
from tests.api.fakes import MODEL, FakeEngine, Site, events_of, make_site

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
PLAIN = {"model": MODEL, "prompt": "hi", "max_tokens": 12}
BOTH = pytest.mark.parametrize(
    ("path", "body"), [("/v1/completions", PLAIN), ("/v1/chat/completions", CHAT)]
)
ONE, OTHER = b"1" * 16, b"2" * 16
NAMES = {("laws", ONE): "law 1", ("docs", OTHER): None, ("docs", ONE): "doc 1"}

# Three tokens per step: two of them retrieved, the last the target's own.
SAID = [
    Origin(1, ONE, 10, 2),
    Origin(1, ONE, 13, 2),
    None,
    Origin(0, OTHER, 5, 1),
]
WANTED = [
    {"source": "corpus", "corpus": "laws", "document": "law 1", "offset": 10, "position": 0},
    {"source": "corpus", "corpus": "docs", "document": None, "offset": 5, "position": 9},
]
TOKENS = [5, 1]


@dataclass
class QuotingEngine(FakeEngine):
    """Says of each step's tokens where they stand."""

    said: Sequence[Origin | None] = field(default_factory=lambda: SAID)

    async def _steps(self, request: Request) -> AsyncGenerator[Output, None]:
        step = 0
        async for output in super()._steps(request):
            yield replace(output, origin=self.said[step] if step < len(self.said) else None)
            step += 1


@dataclass
class Resolver:
    """Knows `NAMES`, and notes what it was asked."""

    asked: list[tuple[str, list[bytes]]] = field(default_factory=list)

    async def __call__(self, corpus: str, digests: Sequence[bytes]) -> list[str | None]:
        self.asked.append((corpus, list(digests)))
        return [NAMES[corpus, digest] for digest in digests]


def quoting_site(resolve: Any = None, **values: Any) -> Site:
    site = make_site(QuotingEngine(**values))
    site.service.resolve = resolve
    return site


def entries(choice: int = 0) -> list[dict[str, Any]]:
    pairs = zip(WANTED, TOKENS, strict=True)
    return [{"choice": choice, **entry, "tokens": tokens} for entry, tokens in pairs]


async def post(site: Site, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with site.client() as client:
        answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert site.settled()
    return answer.json()


async def stream(site: Site, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with site.client() as client:
        answer = await client.post(path, json={**body, "stream": True})
    events = events_of(answer.text)
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


@BOTH
async def test_whole_answers_and_streams_name_their_documents(
    path: str, body: dict[str, Any]
) -> None:
    resolver = Resolver()
    site = quoting_site(resolver)
    body = {**body, "return_origins": True}
    whole = await post(site, path, body)
    assert whole["rasd"]["origins"] == entries()
    assert resolver.asked == [("laws", [ONE]), ("docs", [OTHER])]
    assert all(request.params.return_origins for request in site.engine.started)
    for options in (None, {"include_usage": True}):
        *chunks, last = await stream(site, path, {**body, "stream_options": options})
        assert last["choices"] == []
        assert last["rasd"] == whole["rasd"]
        assert last.get("usage") == (whole["usage"] if options else None)
        assert last["object"] == chunks[0]["object"]
        assert all("rasd" not in chunk for chunk in chunks)


@BOTH
@pytest.mark.parametrize("asked", [{}, {"return_origins": None}, {"return_origins": False}])
async def test_nothing_is_said_where_nobody_asks(
    path: str, body: dict[str, Any], asked: dict[str, Any]
) -> None:
    resolver = Resolver()
    site = quoting_site(resolver)
    whole = await post(site, path, {**body, **asked})
    assert "origins" not in whole["rasd"]
    assert all("rasd" not in chunk for chunk in await stream(site, path, {**body, **asked}))
    assert resolver.asked == []
    assert not any(request.params.return_origins for request in site.engine.started)


async def test_an_answer_without_quotes_says_so() -> None:
    whole = await post(quoting_site(said=[]), "/v1/completions", {**PLAIN, "return_origins": True})
    assert whole["rasd"]["origins"] == []


async def test_choices_are_told_apart() -> None:
    site = quoting_site(Resolver())
    body = {**PLAIN, "prompt": ["hi", "yo"], "n": 2, "return_origins": True}
    whole = await post(site, "/v1/completions", body)
    wanted = [entry for choice in range(4) for entry in entries(choice)]
    assert whole["rasd"]["origins"] == wanted
    assert (await stream(site, "/v1/completions", body))[-1]["rasd"]["origins"] == wanted


async def test_the_prompt_is_a_document_without_a_name() -> None:
    site = quoting_site(Resolver(), said=[Origin(-1, ONE, 1, 2)])
    whole = await post(site, "/v1/completions", {**PLAIN, "return_origins": True})
    assert whole["rasd"]["origins"] == [
        {
            "choice": 0,
            "source": "prompt",
            "corpus": None,
            "document": None,
            "offset": 1,
            "position": 0,
            "tokens": 2,
        }
    ]


async def test_what_a_stop_string_cuts_off_is_not_quoted() -> None:
    site = quoting_site(said=[None, Origin(0, ONE, 5, 2)])
    body = {**PLAIN, "stop": "lo", "return_origins": True}
    whole = await post(site, "/v1/completions", body)
    assert whole["choices"][0]["text"] == "Hel"
    count = whole["usage"]["completion_tokens"]
    assert [entry["position"] for entry in whole["rasd"]["origins"]] == [3]
    assert whole["rasd"]["origins"][0]["tokens"] == count - 3 <= 2


async def broken(corpus: str, digests: Sequence[bytes]) -> list[str | None]:
    raise RuntimeError("the datastore is gone")


async def hanging(corpus: str, digests: Sequence[bytes]) -> list[str | None]:
    await asyncio.Event().wait()
    return []


async def short(corpus: str, digests: Sequence[bytes]) -> list[str | None]:
    return []


async def half(corpus: str, digests: Sequence[bytes]) -> list[str | None]:
    if corpus == "docs":
        raise RuntimeError("one corpus is gone")
    return [NAMES[corpus, digest] for digest in digests]


@pytest.mark.parametrize("resolve", [None, broken, hanging, short, half])
async def test_a_resolver_that_fails_costs_no_text(
    resolve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(naming, "RESOLVE_DEADLINE_S", 0.05)
    site = quoting_site(resolve)
    whole = await post(site, "/v1/completions", {**PLAIN, "return_origins": True})
    assert whole["choices"][0]["text"] == "Hello, world"
    said = whole["rasd"]["origins"]
    assert [entry["document"] for entry in said] == ["law 1" if resolve is half else None, None]
    assert [entry["tokens"] for entry in said] == TOKENS


async def test_origins_for_python() -> None:
    site = quoting_site(Resolver())
    result = await site.service.generate("hi", return_origins=True)
    assert [quote.document for quote in result.choices[0].origins] == ["law 1", None]
    pieces = [piece async for piece in site.service.stream("hi", return_origins=True)]
    assert pieces[-1].origins == result.choices[0].origins
    assert not any(piece.origins for piece in pieces[:-1])


@pytest.mark.parametrize("value", ["true", 1, []])
async def test_other_values_are_refused(value: Any) -> None:
    site = quoting_site()
    async with site.client() as client:
        answer = await client.post("/v1/completions", json={**PLAIN, "return_origins": value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "return_origins"


async def test_the_parameter_is_documented() -> None:
    async with quoting_site().client() as client:
        schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    for body in ("CompletionBody", "ChatBody"):
        assert "rasd.origins" in schemas[body]["properties"]["return_origins"]["description"]
