"""Values of the wrong type, out of range, or for something we do not have."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.api.protocol import ChatBody, CompletionBody
from tests.api.fakes import CONTEXT, INFO, Site, make_site
from tests.api.refusing import CHAT, CHATS, COMPLETIONS, JSON, PLAIN, SITE, refused, shaped

VALUES: list[tuple[str, Any, str]] = [
    # name, value, what the message says
    ("prompt", "", "empty; got 0 tokens"),
    ("prompt", [], "not empty"),
    ("prompt", [[]], "empty; got 0 tokens"),
    ("prompt", ["a", ""], "empty; got 0 tokens"),
    ("prompt", None, "prompt must be"),
    ("prompt", 7, "got 7"),
    ("prompt", {}, "prompt must be"),
    ("prompt", ["a", 1], "prompt must be"),
    ("prompt", [1, True], "prompt must be"),
    ("prompt", [1, 2.0], "prompt must be"),
    ("prompt", [[1], ["a"]], "prompt must be"),
    ("prompt", [-1], f"0 to {INFO.vocabulary - 1}; got -1"),
    ("prompt", [INFO.vocabulary], f"got {INFO.vocabulary}"),
    ("prompt", [2**31], "got 2147483648"),
    ("prompt", [10**300], "got 1000"),
    ("prompt", ["a"] * 17, "at most 16; got 17"),
    ("prompt", "a" * (CONTEXT - 1), f"{CONTEXT} tokens; the context is {CONTEXT} tokens"),
    ("prompt", "a" * (10 * CONTEXT), f"the context is {CONTEXT} tokens"),
    ("prompt", "a" * 7_000_000, "7000000 characters"),
    ("prompt", [5] * CONTEXT, f"{CONTEXT} tokens; the context is {CONTEXT}"),
    ("prompt", [5] * 1_000_000, "1000000 tokens"),
    ("model", "gpt-4", "'gpt-4' does not exist; this server has 'rasd'"),
    ("model", "", "does not exist"),
    ("model", None, "model"),
    ("model", 1, "model"),
    ("max_tokens", 0, "between 1 and 16777216; got 0"),
    ("max_tokens", -1, "got -1"),
    ("max_tokens", 2**24 + 1, "between 1 and 16777216"),
    ("max_tokens", 10**100, "between 1 and 16777216"),
    ("max_tokens", CONTEXT, f"{CONTEXT + 3} in all; the context is {CONTEXT} tokens"),
    ("max_tokens", CONTEXT - 2, f"{CONTEXT + 1} in all"),
    ("max_tokens", "7", "got '7'"),
    ("max_tokens", True, "got True"),
    ("max_tokens", 7.0, "got 7.0"),
    ("max_tokens", [7], "got [7]"),
    ("temperature", -0.1, "at least 0.0 and at most 100.0; got -0.1"),
    ("temperature", 100.5, "got 100.5"),
    ("temperature", "1", "got '1'"),
    ("temperature", True, "got True"),
    ("temperature", 10**309, "temperature"),
    ("top_p", 0, "above 0.0"),
    ("top_p", 1.01, "got 1.01"),
    ("top_k", -1, "got -1"),
    ("top_k", 1.5, "got 1.5"),
    ("min_p", 2, "got 2"),
    ("n", 0, "between 1 and 128; got 0"),
    ("n", 17, "at most 16; got 17"),
    ("n", 10**9, "between 1 and 128; got 1000000000"),
    ("n", "2", "got '2'"),
    ("best_of", 2, "best_of is not supported"),
    ("seed", 2**63, f"got {2**63}"),
    ("seed", 1.0, "got 1.0"),
    ("presence_penalty", 2.1, "at most 2.0; got 2.1"),
    ("frequency_penalty", -3, "got -3"),
    ("repetition_penalty", 0, "above 0.0"),
    ("stop", 5, "got 5"),
    ("stop", [5], "got [5]"),
    ("stop", [], None),
    ("stop", "", "1 to 256 characters; got 0"),
    ("stop", "x" * 257, "got 257"),
    ("stop", ["x"] * 17, "at most 16 entries; got 17"),
    ("stop", ["x"] * 10_000, "got 10000"),
    ("stop_token_ids", [INFO.vocabulary], f"got {INFO.vocabulary}"),
    ("stop_token_ids", [1] * 10_000, "got 10000"),
    ("stop_token_ids", [True], "got True"),
    ("stop_token_ids", 5, "got 5"),
    ("logprobs", 21, "between 0 and 20; got 21"),
    ("logprobs", -1, "got -1"),
    ("logprobs", True, "got True"),
    ("logit_bias", {"1": 101}, "at most 100.0; got 101"),
    ("logit_bias", {"x": 1}, "token ids as keys; got 'x'"),
    ("logit_bias", {"01": 1}, "got '01'"),
    ("logit_bias", {"-1": 1}, "got '-1'"),
    ("logit_bias", {"99999999999": 1}, "got '99999999999'"),
    ("logit_bias", {"3000000000": 1}, "got 3000000000"),
    ("logit_bias", {str(INFO.vocabulary): 1}, f"got {INFO.vocabulary}"),
    ("logit_bias", {"1": "1"}, "got '1'"),
    ("logit_bias", {str(i): 1 for i in range(1025)}, "at most 1024 entries; got 1025"),
    ("logit_bias", {str(i): "x" for i in range(100_000)}, "got 100000"),
    ("logit_bias", [1], "logit_bias"),
    ("stream", "true", "got 'true'"),
    ("stream", 1, "got 1"),
    ("stream_options", {"include_usage": True}, "needs stream"),
    ("stream_options", {"include_usage": 1}, "got 1"),
    ("stream_options", {"other": 1}, "'stream_options.other'"),
    ("stream_options", {"include_obfuscation": True}, "got True"),
    ("ignore_eos", 1, "got 1"),
    ("speculation", "fast", "got 'fast'"),
    ("nodes", 257, "between 0 and 256; got 257"),
    ("nodes", True, "got True"),
    ("corpora", "docs", "got 'docs'"),
    ("corpora", [1], "got 1"),
    ("corpora", ["nowhere"], "no corpus 'nowhere'"),
    ("user", 5, "got 5"),
    ("echo", True, "echo is not supported"),
    ("suffix", "x", "suffix is not supported"),
    ("unknown", 1, "unknown parameter 'unknown'"),
    ("unknown", None, "unknown parameter 'unknown'"),
    ("x" * 10_000, 1, "unknown parameter"),
    ("__class__", {}, "unknown parameter '__class__'"),
    ("constructor", 1, "unknown parameter"),
    ("tools", [{"type": "function"}], "tools is not supported"),
    ("messages", [], "unknown parameter 'messages'"),
]


@pytest.mark.parametrize(("name", "value", "message"), VALUES, ids=lambda x: repr(x)[:30])
async def test_wrong_values(name: str, value: Any, message: str | None) -> None:
    if message is None:
        async with SITE.client() as client:
            assert (await client.post(COMPLETIONS, json={**PLAIN, name: value})).status_code == 200
        return
    status, error = await refused({**PLAIN, name: value})
    missing = "does not exist" in message or "no corpus" in message
    assert status == (404 if missing else 400)
    assert message in error["message"]
    expected = name.split(".")[0][:100]
    if name == "prompt" and isinstance(value, list) and len(value) == 17:
        expected = "n"
    if name == "stream_options" and message.startswith("'"):
        expected = "stream_options.other"
    assert error["param"] == expected
    unsupported = any(word in error["message"] for word in ("not supported", "unknown"))
    assert (error["code"] == "unsupported_parameter") is unsupported


CHAT_VALUES: list[tuple[str, Any, str]] = [
    ("messages", [], "at least one; got 0"),
    ("messages", "hi", "got 'hi'"),
    ("messages", ["hi"], "messages.0"),
    ("messages", [{"role": "user"}], "messages.0.content is required"),
    ("messages", [{"content": "hi"}], "messages.0.role is required"),
    ("messages", [{"role": "tool", "content": "hi"}], "got 'tool'"),
    ("messages", [{"role": "user\n", "content": "hi"}], "got 'user\\n'"),
    ("messages", [{"role": "user", "content": 5}], "messages.0.content: "),
    ("messages", [{"role": "user", "content": None}], "got None"),
    ("messages", [{"role": "user", "content": "hi", "name": "x"}], "'messages.0.name'"),
    ("messages", [{"role": "assistant", "content": "x", "tool_calls": []}], "tool_calls"),
    (
        "messages",
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        "got 'image_url'",
    ),
    ("messages", [{"role": "user", "content": "a" * 5000}], f"the context is {CONTEXT}"),
    ("messages", [{"role": "user", "content": "a" * CONTEXT}], f"the context is {CONTEXT}"),
    ("max_completion_tokens", 0, "max_tokens must be between"),
    ("max_completion_tokens", CONTEXT, f"the context is {CONTEXT} tokens"),
    ("logprobs", 1, "got 1"),
    ("top_logprobs", 2, "needs logprobs"),
    ("tools", [{"type": "function"}], "tools is not supported"),
    ("tool_choice", "auto", "tool_choice is not supported"),
    ("response_format", {"type": "json_object"}, "response_format is not supported"),
    ("response_format", "text", "response_format is not supported"),
    ("modalities", ["text", "audio"], "modalities is not supported"),
    ("audio", {"voice": "x"}, "audio is not supported"),
    ("store", True, "store is not supported"),
    ("store", 0, "store is not supported"),
    ("prediction", {}, "prediction is not supported"),
    ("reasoning_effort", "high", "reasoning_effort is not supported"),
    ("metadata", {"a": 1}, "got 1"),
    ("metadata", {str(i): "x" for i in range(17)}, "at most 16 entries; got 17"),
    ("prompt", "hi", "unknown parameter 'prompt'"),
]


@pytest.mark.parametrize(("name", "value", "message"), CHAT_VALUES, ids=lambda x: repr(x)[:30])
async def test_wrong_values_of_chats(name: str, value: Any, message: str) -> None:
    status, error = await refused({**CHAT, name: value}, CHATS)
    assert status == 400
    assert message in error["message"]
    assert error["param"] is not None


async def test_two_limits_must_agree() -> None:
    _, error = await refused({**CHAT, "max_tokens": 3, "max_completion_tokens": 4}, CHATS)
    assert "is 4" in error["message"] and "is 3" in error["message"]


async def test_the_context_is_an_exact_boundary() -> None:
    site = make_site()
    async with site.client() as client:
        for size in (CONTEXT - 3, CONTEXT - 2):  # and BOS
            answer = await client.post(COMPLETIONS, json={**PLAIN, "prompt": "b" * size})
            assert answer.status_code == 200
        answer = await client.post(COMPLETIONS, json={**PLAIN, "max_tokens": CONTEXT - 3})
        assert answer.status_code == 200
    assert [r.params.max_tokens for r in site.engine.started] == [2, 1, CONTEXT - 3]


# --- anything at all ----------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([2**31, 2**63, -1, 0, 1, "", "\ud800", "rasd", "user", "off", "text"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "1", "include_usage"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def fuzz(path: str, start: dict[str, Any], changes: dict[str, Any]) -> None:
    async def once(site: Site) -> None:
        body = json.dumps({**start, **changes}).encode()
        async with site.client() as client:
            answer = await client.post(path, content=body, headers=JSON)
        assert site.settled()
        if answer.status_code != 200:
            shaped(answer.status_code, answer.text)

    site = make_site()
    try:
        asyncio.run(once(site))
    finally:
        site.service.close()


@given(st.dictionaries(st.sampled_from(sorted(CompletionBody.model_fields)), values, max_size=4))
def test_any_completion(changes: dict[str, Any]) -> None:
    fuzz(COMPLETIONS, PLAIN, changes)


@given(st.dictionaries(st.sampled_from(sorted(ChatBody.model_fields)), values, max_size=4))
def test_any_chat(changes: dict[str, Any]) -> None:
    fuzz(CHATS, CHAT, changes)
