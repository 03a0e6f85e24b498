"""The `openai` package against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import openai
import pytest

from rasd.config import ApiKey
from tests.api.fakes import MODEL, FakeEngine, Hold, Site, make_site, serving, tokens_of, until

MESSAGES = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def client_of(site: Site, key: str = "none") -> AsyncGenerator[openai.AsyncOpenAI, None]:
    async with (
        serving(site) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=20) as client,
    ):
        yield client


async def test_completions_and_chat() -> None:
    async with client_of(make_site()) as client:
        plain = await client.completions.create(model=MODEL, prompt="hi", n=2, logprobs=1)
        assert [choice.text for choice in plain.choices] == ["Hello, world"] * 2
        assert plain.choices[0].logprobs is not None
        assert plain.usage is not None and plain.usage.prompt_tokens == 3
        chat = await client.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            logprobs=True,
            top_logprobs=2,
            extra_body={"speculation": "draft", "nodes": 4},
        )
        assert chat.choices[0].message.content == "Hello, world"
        assert chat.choices[0].logprobs is not None
        assert chat.model_extra is not None and chat.model_extra["rasd"]["steps"] > 0


async def test_streams() -> None:
    async with client_of(make_site()) as client:
        text, reasons, usage = "", [], None
        async for chunk in await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        ):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reasons.append(choice.finish_reason)
        assert (text, reasons[-1], set(reasons[:-1])) == ("Hello, world", "stop", {None})
        assert usage is not None
        assert usage.completion_tokens == len(tokens_of("Hello, world")) + 1
        parts = [
            chunk.choices[0].text
            async for chunk in await client.completions.create(
                model=MODEL, prompt="hi", stream=True, stop="wor"
            )
        ]
        assert "".join(parts) == "Hello, "


async def test_the_stream_helper_rebuilds_the_message() -> None:
    async with (
        client_of(make_site()) as client,
        client.chat.completions.stream(model=MODEL, messages=MESSAGES) as stream,
    ):
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Hello, world"


async def test_models() -> None:
    async with client_of(make_site()) as client:
        assert [model.id async for model in client.models.list()] == [MODEL]
        assert (await client.models.retrieve(MODEL)).owned_by == "rasd"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("a/b")


async def test_errors_become_the_clients_exceptions() -> None:
    site = make_site(api_keys=[ApiKey(name="k", sha256=ApiKey.digest("right"), corpora=["docs"])])
    async with client_of(site, "wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.models.list()
        assert caught.value.code == "invalid_api_key"
        client = client.with_options(api_key="right")
        with pytest.raises(openai.BadRequestError) as bad:
            await client.completions.create(model=MODEL, prompt="hi", max_tokens=0)
        assert (bad.value.param, bad.value.code) == ("max_tokens", "invalid_value")
        with pytest.raises(openai.BadRequestError, match="response_format"):
            await client.chat.completions.create(
                model=MODEL, messages=MESSAGES, response_format={"type": "json_object"}
            )
        with pytest.raises(openai.PermissionDeniedError, match="laws"):
            await client.completions.create(
                model=MODEL, prompt="hi", extra_body={"corpora": ["laws"]}
            )
        with pytest.raises(openai.NotFoundError):
            await client.completions.create(model="other", prompt="hi")


async def test_a_failure_in_mid_stream_is_an_error_and_never_a_finish() -> None:
    site = make_site(FakeEngine("Hello, world", step=2, finish="error"))
    seen: list[str | None] = []
    async with client_of(site) as client:
        with pytest.raises(openai.APIError, match="internal error in request") as caught:
            async for chunk in await client.completions.create(
                model=MODEL, prompt="hi", stream=True
            ):
                seen += [choice.finish_reason for choice in chunk.choices]
        assert "some detail" not in str(caught.value.body)
    assert seen and set(seen) == {None}
    assert site.settled()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("after", [0, 2])
async def test_a_client_that_leaves_cancels_its_sequences(streamed: bool, after: int) -> None:
    hold = Hold(after)
    site = make_site(FakeEngine("as long as it takes", step=1, pace=hold))
    async with (
        serving(site) as url,
        openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20
        ) as client,
    ):
        asked = asyncio.create_task(
            _read(client, streamed),
        )
        await until(lambda: hold.waiting == 2, "both choices run")
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await until(lambda: len(site.engine.cancelled) == 2, "the engine sees the cancellation")
        await until(site.settled, "the slots are free")
        assert site.engine.ended == []


async def _read(client: openai.AsyncOpenAI, streamed: bool) -> None:
    answer = await client.completions.create(model=MODEL, prompt="hi", n=2, stream=streamed)
    if streamed:
        async for _ in answer:
            pass
