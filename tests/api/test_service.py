"""The service from Python, and what it counts."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import aclosing

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rasd.api.auth import LOCAL
from rasd.api.intake import Intake
from rasd.api.protocol import Ask
from rasd.config import ApiKey
from rasd.errors import InvalidRequest, Overloaded, Unavailable, UnsupportedParameter
from rasd.params import SamplingParams
from rasd.stages import TargetInfo
from tests.api.fakes import MODEL, TOKENIZER, FakeEngine, Hold, Site, make_site, tokens_of, until


async def test_generate() -> None:
    site = make_site()
    result = await site.service.generate("hi", n=2, temperature=0.0)
    assert [choice.text for choice in result.choices] == ["Hello, world"] * 2
    assert result.text == "Hello, world"
    assert result.completion_tokens == 2 * (len(tokens_of("Hello, world")) + 1)
    await site.service.generate([5, 6])
    await site.service.generate([{"role": "user", "content": "hi"}], corpora=("laws",))
    first, _, ids, chat = (request for request in site.engine.started)
    assert first.params.greedy
    assert ids.prompt.tolist() == [5, 6]
    assert (chat.params.corpora, len(chat.prompt)) == (("laws",), 6)
    assert site.settled()


async def test_stream_and_close() -> None:
    site = make_site(FakeEngine(step=2))
    pieces = [piece async for piece in site.service.stream("hi")]
    assert "".join(piece.text for piece in pieces) == "Hello, world"
    assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    site.engine.pace = Hold(after=1)
    async with aclosing(site.service.stream("hi", n=2)) as stream:
        assert (await anext(stream)).text
        assert site.service.gate.running == 2
    await until(site.settled, "the slots are free")
    assert len(site.engine.cancelled) == 2


async def test_wrong_calls() -> None:
    service = make_site().service
    with pytest.raises(UnsupportedParameter, match="'maxtokens'"):
        await service.generate("hi", maxtokens=4)
    with pytest.raises(InvalidRequest, match="top_p"):
        await service.generate("hi", top_p=2.0)
    for prompt in ("", [], 5, ["a"], [{"role": "nobody", "content": "x"}]):
        with pytest.raises(InvalidRequest):
            await service.generate(prompt)  # type: ignore[arg-type]
    service.begin_drain()
    with pytest.raises(Unavailable):
        await service.generate("hi")


async def test_a_drain_between_tokenising_and_running_is_a_refusal() -> None:
    site = make_site()
    job = await site.service.prepare(Ask(["hi"], SamplingParams()), LOCAL)
    assert await site.service.drain(1) is True
    with pytest.raises(Unavailable):
        await anext(site.service.run(job))
    assert site.engine.started == []


def test_no_work_is_done_for_what_will_be_refused() -> None:
    async def scenario() -> None:
        hold = Hold()
        site = make_site(FakeEngine(pace=hold), max_running=1, max_queued=0)
        first = asyncio.create_task(site.service.generate("hi"))
        await until(lambda: hold.waiting == 1, "the first runs")
        site.service.intake.close()  # encoding would fail now
        with pytest.raises(Overloaded):
            await site.service.generate("hi")
        hold.event.set()
        await first

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("positions", "slots", "context"), [(100, 1000, 100), (100, 99, 97), (100, 96, 97)]
)
def test_the_smaller_of_positions_and_slots_bounds_the_context(
    positions: int, slots: int, context: int
) -> None:
    info = TargetInfo(9, positions, kv_slots=slots, page_size=16, feature_size=1)
    assert Intake(TOKENIZER, info).context == context


def samples_of(text: str) -> dict[str, float]:
    """Values by name and labels other than the model's."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels.pop("model_name") == MODEL
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def metrics_of(site: Site) -> dict[str, float]:
    async with site.client() as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return samples_of(answer.text)


async def test_metrics_add_up() -> None:
    site = make_site(FakeEngine(step=3), max_running=8)
    async with site.client() as client:
        for changes in ({}, {"n": 2, "stream": True}, {"max_tokens": 2}):
            body = {"model": MODEL, "prompt": "hi", **changes}
            assert (await client.post("/v1/completions", json=body)).status_code == 200
        await client.post("/v1/completions", json={"model": MODEL, "prompt": "hi", "n": 9})
        site.engine.finish = "error"
        await client.post("/v1/completions", json={"model": MODEL, "prompt": "hi"})
    found = await metrics_of(site)
    full = len(tokens_of("Hello, world")) + 1
    steps = -(-full // 3)
    assert found["rasd:prompt_tokens_total"] == 4 * 3
    assert found["rasd:spec_decode_num_drafts_total"] == 4 * steps - 1 + 1
    assert found["rasd:spec_decode_num_draft_tokens_total"] == 8 * 4 * steps
    per_source = "rasd:spec_decode_num_draft_tokens_per_source_total"
    assert found[f"{per_source}{{source=draft}}"] == 6 * 4 * steps
    assert found[f"{per_source}{{source=prompt}}"] == 0
    assert found["rasd:request_success_total{finished_reason=stop}"] == 3
    assert found["rasd:request_success_total{finished_reason=length}"] == 1
    assert found["rasd:request_failure_total{code=server_error}"] == 1
    assert found["rasd:time_to_first_token_seconds_count"] == 5
    assert found["rasd:e2e_request_latency_seconds_count"] == 3
    assert found["rasd:request_queue_time_seconds_count"] == 4
    assert found["rasd:num_requests_running"] == found["rasd:num_requests_waiting"] == 0
    assert found["rasd:kv_cache_usage_perc"] == 0
    assert found["rasd:retrieval_partial_total"] == 4 * steps
    started = len(site.engine.started)
    assert found["rasd:prefix_cache_queries_total"] == 10 * started
    assert found["rasd:prefix_cache_hits_total"] == started


async def test_gauges_show_the_load() -> None:
    hold = Hold()
    site = make_site(FakeEngine(pace=hold), max_running=1)
    asked = [asyncio.create_task(site.service.generate("hi")) for _ in range(3)]
    await until(lambda: site.service.gate.waiting == 2 and hold.waiting == 1, "one runs, two wait")
    found = await metrics_of(site)
    assert (found["rasd:num_requests_running"], found["rasd:num_requests_waiting"]) == (1, 2)
    assert found["rasd:kv_cache_usage_perc"] == 0.25
    hold.event.set()
    await asyncio.gather(*asked)


async def test_the_openapi_page_describes_the_bodies() -> None:
    async with make_site().client() as client:
        document = (await client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/ChatBody"
    }
    assert {"speculation", "corpora", "max_completion_tokens"} <= set(
        schemas["ChatBody"]["properties"]
    )
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)):
        assert name in schemas


async def test_prompts_of_one_request_draw_their_own_seeds() -> None:
    site = make_site()
    job = await site.service.prepare(Ask([[5], [5], [5]], SamplingParams()), LOCAL)
    assert len({params.seed for params in job.params}) == 3
    job = await site.service.prepare(Ask([[5], [5]], SamplingParams(seed=7)), LOCAL)
    assert {params.seed for params in job.params} == {7}


async def test_requests_belong_to_the_tenant_of_their_key() -> None:
    keys = [ApiKey(name=name, sha256=ApiKey.digest(name)) for name in ("anna", "ben")]
    site = make_site(api_keys=keys)
    async with site.client() as client:
        for name in ("anna", "ben", "anna"):
            answer = await client.post(
                "/v1/completions",
                json={"model": MODEL, "prompt": "hi", "n": 2},
                headers={"Authorization": f"Bearer {name}"},
            )
            assert answer.status_code == 200
    await site.service.generate("hi")
    tenants = [request.tenant for request in site.engine.started]
    assert tenants == ["anna", "anna", "ben", "ben", "anna", "anna", ""]
