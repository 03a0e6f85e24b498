"""Answers whole and streamed: shapes, counts, stops and log-probabilities."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rasd.engine.api import Request
from rasd.params import Speculation
from tests.api.fakes import END, MODEL, FakeEngine, Site, events_of, make_site, tokens_of

TEXT = "Hello, wörld 你好 🙂!"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
PLAIN = {"model": MODEL, "prompt": "hi"}
PROMPT_TOKENS = {"/v1/completions": 3, "/v1/chat/completions": 6}


async def post(site: Site, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with site.client() as client:
        answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert site.settled()
    return answer.json()


async def stream(site: Site, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with site.client() as client:
        answer = await client.post(path, json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.text)
    assert events[-1] == "[DONE]"
    assert site.settled()
    return [json.loads(event) for event in events[:-1]]


def content(choice: dict[str, Any]) -> str:
    if "text" in choice:
        return choice["text"]
    return choice.get("message", choice.get("delta"))["content"]


def text_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
    return "".join(c["text"] if "text" in c else c["delta"].get("content", "") for c in choices)


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/completions", PLAIN), ("/v1/chat/completions", CHAT)]
)
@pytest.mark.parametrize("step", [1, 3, 50])
async def test_whole_and_streamed_say_the_same(path: str, body: dict[str, Any], step: int) -> None:
    site = make_site(FakeEngine(TEXT, step))
    body = {**body, "max_tokens": 100}
    whole = await post(site, path, body)
    chunks = await stream(site, path, {**body, "stream_options": {"include_usage": True}})
    assert content(whole["choices"][0]) == TEXT == text_of(chunks)
    assert whole["choices"][0]["finish_reason"] == "stop"
    count = len(tokens_of(TEXT)) + 1  # with the token that ends the turn
    prompt = PROMPT_TOKENS[path]
    assert whole["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": count,
        "total_tokens": prompt + count,
    }
    assert chunks[-1]["usage"] == whole["usage"]
    assert chunks[-1]["choices"] == []
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["rasd"] == whole["rasd"]
    assert whole["rasd"]["steps"] == -(-count // step)
    assert whole["rasd"]["acceptance_length"] == pytest.approx(count / whole["rasd"]["steps"], 1e-3)


@pytest.mark.parametrize(
    ("asked", "mode", "shown"),
    [
        ({}, "rasd", True),
        ({}, "corpus", True),
        ({"corpora": ["laws"], "speculation": "corpus"}, "rasd", True),
        ({"corpora": []}, "rasd", False),
        ({"speculation": "draft"}, "rasd", False),
        ({}, "draft", False),
        ({"speculation": "corpus"}, "prompt", False),
    ],
)
async def test_partial_steps_are_shown_where_corpora_are_asked(
    asked: dict[str, Any], mode: Speculation, shown: bool
) -> None:
    site = make_site(mode=mode)
    body = {**PLAIN, "n": 2, **asked}
    whole = (await post(site, "/v1/completions", body))["rasd"]
    chunks = await stream(
        site, "/v1/completions", {**body, "stream_options": {"include_usage": True}}
    )
    assert chunks[-1]["rasd"] == whole
    assert whole.get("partial_steps") == (whole["steps"] if shown else None)


async def test_a_chat_stream_begins_with_the_role_and_ends_with_the_reason() -> None:
    chunks = await stream(make_site(), "/v1/chat/completions", CHAT)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert "usage" not in chunks[0]
    first, *middle, last = (chunk["choices"][0] for chunk in chunks)
    assert first["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")
    assert all(c["finish_reason"] is None for c in (first, *middle))
    assert all(set(c["delta"]) == {"content"} for c in middle)


async def test_max_tokens_ends_with_length() -> None:
    whole = await post(make_site(), "/v1/completions", {**PLAIN, "max_tokens": 4})
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 4


async def test_defaults_follow_openai() -> None:
    site = make_site()
    await post(site, "/v1/completions", PLAIN)
    await post(site, "/v1/chat/completions", CHAT)
    plain, chat = (request.params for request in site.engine.started)
    assert plain.max_tokens == 16
    assert chat.max_tokens == 256 - PROMPT_TOKENS["/v1/chat/completions"]
    assert (plain.temperature, plain.top_p, plain.n, plain.logprobs) == (1.0, 1.0, 1, None)
    assert plain.seed is not None and plain.seed != chat.seed
    assert plain.corpora == ("docs", "laws")


async def test_choices_are_numbered_and_share_the_seed() -> None:
    site = make_site(FakeEngine(step=2))
    body = {**PLAIN, "n": 3, "seed": 5, "prompt": ["hi", "yo"], "max_tokens": 50}
    whole = await post(site, "/v1/completions", body)
    assert [c["index"] for c in whole["choices"]] == list(range(6))
    assert {c["text"] for c in whole["choices"]} == {"Hello, world"}
    assert [request.choice for request in site.engine.started] == [0, 1, 2] * 2
    assert {request.params.seed for request in site.engine.started} == {5}
    assert len({request.sequence for request in site.engine.started}) == 6
    assert whole["usage"]["prompt_tokens"] == 6
    assert whole["usage"]["completion_tokens"] == 6 * (len(tokens_of("Hello, world")) + 1)
    chunks = await stream(site, "/v1/completions", body)
    assert all(text_of(chunks, i) == "Hello, world" for i in range(6))
    reasons = [c["index"] for k in chunks for c in k["choices"] if c["finish_reason"]]
    assert sorted(reasons) == list(range(6))


async def test_choices_of_a_chat_each_begin_with_their_role() -> None:
    chunks = await stream(make_site(), "/v1/chat/completions", {**CHAT, "n": 2})
    roles = [c["index"] for k in chunks for c in k["choices"] if "role" in c["delta"]]
    assert sorted(roles) == [0, 1]
    assert text_of(chunks, 0) == text_of(chunks, 1) == "Hello, world"


@pytest.mark.parametrize("stop", ["world", ["nowhere", "wor"], "o, w", " "])
@pytest.mark.parametrize("step", [1, 2, 4, 50])
async def test_a_stop_string_over_token_borders_cancels_the_sequence(
    stop: str | list[str], step: int
) -> None:
    said = "Hello, world and more of it, as long as nobody stops it"
    site = make_site(FakeEngine(said, step))
    body = {**PLAIN, "stop": stop, "max_tokens": 80}
    whole = await post(site, "/v1/completions", body)
    chunks = await stream(site, "/v1/completions", body)
    found = min(said.find(s) for s in ([stop] if isinstance(stop, str) else stop) if s in said)
    assert whole["choices"][0]["text"] == said[:found] == text_of(chunks)
    assert whole["choices"][0]["finish_reason"] == "stop"
    end = found + len(stop if isinstance(stop, str) else stop[1])
    assert whole["usage"]["completion_tokens"] == len(tokens_of(said[:end]))
    if step < 50:
        assert len(site.engine.cancelled) == 2


async def test_what_only_began_a_stop_string_comes_out_at_the_end() -> None:
    chunks = await stream(make_site(), "/v1/completions", {**PLAIN, "stop": "world!"})
    assert text_of(chunks) == "Hello, world"


async def test_a_stop_token_ends_the_text_and_is_not_in_it() -> None:
    marked = tokens_of("!")[0]

    def answer(request: Request) -> list[int]:
        assert request.params.stop_token_ids == (marked,)
        return [*tokens_of("so"), marked]

    site = make_site(FakeEngine(answer=answer))
    whole = await post(site, "/v1/completions", {**PLAIN, "stop_token_ids": [marked]})
    assert whole["choices"][0]["text"] == "so"
    assert whole["usage"]["completion_tokens"] == 3


async def test_completion_logprobs() -> None:
    site = make_site(FakeEngine("aä!", step=2))
    body = {**PLAIN, "logprobs": 2}
    whole = (await post(site, "/v1/completions", body))["choices"][0]
    ids = [*tokens_of("aä!"), END]
    assert len(ids) == len(whole["logprobs"]["tokens"]) == 4
    assert whole["logprobs"]["tokens"] == ["a", "ä", "!", "<|end|>"]
    assert whole["logprobs"]["text_offset"] == [0, 1, 2, 3]
    assert whole["logprobs"]["token_logprobs"] == [-0.5] * 4
    assert all(len(top) == 3 for top in whole["logprobs"]["top_logprobs"])
    chunks = await stream(site, "/v1/completions", body)
    parts = [c["logprobs"] for k in chunks for c in k["choices"]]
    for name in ("tokens", "text_offset", "token_logprobs", "top_logprobs"):
        assert [x for part in parts for x in part[name]] == whole["logprobs"][name]


async def test_tokens_that_are_no_whole_characters_are_named_by_their_bytes() -> None:
    site = make_site(FakeEngine("🙂", step=1))
    whole = (await post(site, "/v1/completions", {**PLAIN, "logprobs": 0}))["choices"][0]
    assert whole["text"] == "🙂"
    assert whole["logprobs"]["tokens"][0] == "bytes:\\xf0\\x9f"
    assert whole["logprobs"]["text_offset"] == [0, 0, 0, 1]
    chat = await post(site, "/v1/chat/completions", {**CHAT, "logprobs": True})
    entries = chat["choices"][0]["logprobs"]["content"]
    assert bytes(b for e in entries[:-1] for b in e["bytes"]).decode() == "🙂"


async def test_chat_logprobs() -> None:
    site = make_site(FakeEngine("ab", step=50))
    body = {**CHAT, "logprobs": True, "top_logprobs": 2}
    entries = (await post(site, "/v1/chat/completions", body))["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in entries] == ["ab", "<|end|>"]
    assert entries[0]["bytes"] == [97, 98]
    assert [top["logprob"] for top in entries[0]["top_logprobs"]] == [-1.0, -2.0]
    chunks = await stream(site, "/v1/chat/completions", body)
    parts = [c["logprobs"] for k in chunks for c in k["choices"] if c["logprobs"]]
    assert [entry for part in parts for entry in part["content"]] == entries
    assert (await post(site, "/v1/chat/completions", CHAT))["choices"][0]["logprobs"] is None


async def test_our_parameters_reach_the_engine() -> None:
    site = make_site()
    ours = {
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "stop_token_ids": [7],
        "ignore_eos": True,
        "speculation": "corpus",
        "nodes": 8,
        "corpora": ["laws"],
        "logit_bias": {"5": 1, "6": -2.5},
        "temperature": 0,
        "user": "somebody",
    }
    await post(site, "/v1/completions", {**PLAIN, **ours})
    params = site.engine.started[0].params
    assert (params.top_k, params.min_p, params.repetition_penalty) == (5, 0.1, 1.2)
    assert (params.stop_token_ids, params.ignore_eos, params.nodes) == ((7,), True, 8)
    assert (params.speculation, params.corpora) == ("corpus", ("laws",))
    assert params.logit_bias == {5: 1.0, 6: -2.5}
    assert params.greedy


async def test_token_ids_and_text_parts_are_prompts_too() -> None:
    site = make_site()
    await post(site, "/v1/completions", {**PLAIN, "prompt": [5, 6, 7]})
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    await post(
        site, "/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": parts}]}
    )
    await post(
        site, "/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": "h\ni"}]}
    )
    ids = [request.prompt.tolist() for request in site.engine.started]
    assert ids[0] == [5, 6, 7]
    assert ids[1] == ids[2]


async def test_nulls_and_values_that_ask_for_nothing_are_accepted() -> None:
    nothing = dict.fromkeys(
        ["max_tokens", "n", "stop", "seed", "logprobs", "logit_bias", "stream", "stream_options"]
    )
    site = make_site()
    await post(
        site, "/v1/completions", {**PLAIN, **nothing, "best_of": 1, "suffix": None, "echo": False}
    )
    await post(
        site,
        "/v1/chat/completions",
        {
            **CHAT,
            **nothing,
            "tools": None,
            "response_format": {"type": "text"},
            "metadata": {"a": "b"},
        },
    )
