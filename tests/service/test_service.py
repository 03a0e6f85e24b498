"""The shipped application as its users meet it: OpenAI's client over HTTP, and the handle."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import cache
from typing import Any

import httpx
import openai
import pytest

from rasd.config import EMBEDDED
from tests.service.running import PROMPTS, Service, descendants, processes, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

TOKENS = 48
GREEDY = {"temperature": 0.0, "max_tokens": TOKENS}


def client(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", timeout=120, max_retries=0)


def async_client(service: Service) -> openai.AsyncOpenAI:
    url = f"{service.url}/v1"
    return openai.AsyncOpenAI(base_url=url, api_key="none", timeout=120, max_retries=0)


@cache
def said_by_transformers(prompt: str) -> list[int]:
    """The greedy continuation, by the library the checkpoint was made for."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = EMBEDDED / "target"
    inputs = AutoTokenizer.from_pretrained(path)(prompt, return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    out = model.generate(
        inputs.input_ids,
        attention_mask=inputs.attention_mask,
        do_sample=False,
        max_new_tokens=TOKENS,
    )
    return [int(token) for token in out[0, inputs.input_ids.shape[1] :]]


def test_it_is_ready_and_says_what_it_serves(service: Service) -> None:
    assert service.status("/health") == service.status("/ready") == 200
    assert [model.id for model in client(service).models.list()] == ["rasd"]


@pytest.mark.parametrize("mode", ["off", "draft", "prompt", "corpus", "rasd"])
def test_tokens_are_those_of_the_model_alone(service: Service, mode: str) -> None:
    drafted: dict[str, int] = {}
    for prompt in PROMPTS:
        (choice,) = service.generate(prompt, **GREEDY, speculation=mode).choices
        assert choice.tokens == said_by_transformers(prompt)
        for source, count in choice.statistics.drafted.items():
            drafted[source] = drafted.get(source, 0) + count
    used = {"off": set(), "rasd": {"draft", "corpus"}}.get(mode, {mode})
    assert {source for source, count in drafted.items() if count} >= used
    assert mode == "rasd" or set(drafted) - used == {s for s in drafted if not drafted[s]}


def test_chat_streams_what_it_says_at_once(service: Service) -> None:
    ask: dict[str, Any] = {
        "model": "rasd",
        "messages": [{"role": "user", "content": "Write a loop over a list."}],
        "temperature": 0.0,
        "max_tokens": TOKENS,
    }
    whole = client(service).chat.completions.create(**ask)
    chunks = list(client(service).chat.completions.create(**ask, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content != ""
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len([chunk for chunk in chunks if chunk.choices[0].delta.content]) > 1


async def test_thirty_two_at_once_say_what_each_says_alone(service: Service) -> None:
    clients = async_client(service)

    async def ask(prompt: str, seed: int | None) -> str:
        answer = await clients.completions.create(
            model="rasd",
            prompt=prompt,
            max_tokens=TOKENS,
            temperature=0.0 if seed is None else 1.0,
            seed=seed,
        )
        assert answer.choices[0].finish_reason in ("stop", "length")
        return answer.choices[0].text

    asked = [(prompt, seed) for seed in (None, 1, 2, 3, 4, 5, 6, 7) for prompt in PROMPTS]
    together = await asyncio.gather(*(ask(*one) for one in asked))
    for (prompt, seed), text in list(zip(asked, together, strict=True))[::5]:
        assert await ask(prompt, seed) == text
    assert len(set(together)) > 16  # seeds differ
    await clients.close()


async def test_who_goes_away_frees_the_sequence(service: Service) -> None:
    clients = async_client(service)
    stream = await clients.completions.create(
        model="rasd",
        prompt=PROMPTS[0],
        max_tokens=1500,
        temperature=0.0,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    async for _ in stream:
        if await asyncio.to_thread(service.metric, "num_requests_running") == 1:
            break
    await stream.close()
    idle = ["num_requests_running", "num_requests_waiting"]
    until(lambda: [service.metric(name) for name in idle] == [0, 0], "idle", 30)
    until(lambda: service.metric("kv_cache_usage_perc") == 0, "no slot in use", 30)
    await clients.close()


def test_haproxy_is_in_front_and_only_this_machine_is_served(service: Service) -> None:
    assert descendants("haproxy")
    ask = {"model": "rasd", "prompt": "a", "max_tokens": 1}
    with httpx.Client(base_url=service.url, timeout=60) as http:
        for headers in ({"X-Forwarded-For": "10.1.2.3"}, {"Host": "example.org"}):
            refused = http.post("/v1/completions", json=ask, headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
        huge = http.post("/v1/completions", json={**ask, "prompt": "a" * (8 * 1024 * 1024)})
        assert huge.status_code == 413 and "8388608" in huge.json()["error"]["message"]
        assert http.post("/v1/completions", json=ask).status_code == 200


def test_tokens_that_come_together_share_an_event(service: Service) -> None:
    ask: dict[str, Any] = {"model": "rasd", "prompt": PROMPTS[0], **GREEDY}
    ask["extra_body"] = {"ignore_eos": True}
    counts = []
    for stop in (None, "never said"):
        chunks = list(client(service).completions.create(**ask, stop=stop, stream=True))
        text = "".join(chunk.choices[0].text for chunk in chunks)
        assert text == client(service).completions.create(**ask, stop=stop).choices[0].text
        counts.append(len(chunks))
    assert 1 < counts[0] <= counts[1]


def test_a_killed_engine_takes_its_models_along_and_text_goes_on(service: Service) -> None:
    (victim,) = processes("EngineActor")
    stream = service.stream(PROMPTS[0], temperature=0.0, max_tokens=200, ignore_eos=True)
    pieces = [next(stream)]
    os.kill(victim, signal.SIGKILL)
    pieces += stream
    assert processes("EngineActor") not in ([], [victim])
    plain = service.generate(PROMPTS[0], temperature=0.0, max_tokens=200, ignore_eos=True)
    assert [token for p in pieces for token in p.tokens] == plain.choices[0].tokens
    assert service.metric("stage_restarts", 'stage="engine"') == 1


def test_the_handle_streams(service: Service) -> None:
    pieces = list(service.stream(PROMPTS[1], **GREEDY))
    assert [token for piece in pieces for token in piece.tokens] == said_by_transformers(PROMPTS[1])
    assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish in ("stop", "length") and len(pieces) > 1


def test_errors_are_openais(service: Service) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client(service).completions.create(model="rasd", prompt="a", temperature=-1)
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client(service).completions.create(model="other", prompt="a")


def test_a_corpus_is_made_quoted_and_dropped(service: Service) -> None:
    said = service.generate(PROMPTS[2], **GREEDY, speculation="off").choices[0].text
    ask: dict[str, Any] = {
        **{"model": "rasd", "prompt": PROMPTS[2], **GREEDY},
        **{"speculation": "corpus", "corpora": ["quotes"], "return_origins": True},
    }

    with httpx.Client(base_url=service.url, timeout=60) as http:

        def quoted() -> list[dict[str, Any]]:
            answer = http.post("/v1/completions", json=ask)
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"][0]["text"] == said
            found: list[dict[str, Any]] = answer.json()["rasd"]["origins"]
            return found

        assert http.post("/v1/completions", json=ask).status_code == 404
        assert http.post("/v1/corpora", json={"name": "quotes"}).status_code == 201
        assert quoted() == []
        document = {"id": "talks/one", "text": PROMPTS[2] + said}
        added = http.post("/v1/corpora/quotes/documents", json={"documents": [document]})
        assert [one["change"] for one in added.json()["data"]] == ["created"]
        until(quoted, "the document is quoted", 30)
        origins = quoted()
        assert {(one["corpus"], one["document"]) for one in origins} == {("quotes", "talks/one")}
        deleted = http.delete("/v1/corpora/quotes/documents/talks/one")
        assert deleted.status_code == 200
        until(lambda: not quoted(), "the document is quoted no more", 5)
        assert http.delete("/v1/corpora/quotes").status_code == 200
        until(lambda: http.post("/v1/completions", json=ask).status_code == 404, "no corpus", 30)


def test_large_documents_come_and_go(service: Service) -> None:
    large = "import os\n" * (4 * 2**20 // 10)  # of the 4 MiB that a text may have
    with httpx.Client(base_url=service.url, timeout=120) as http:
        assert http.post("/v1/corpora", json={"name": "large"}).status_code == 201
        documents = [
            {"id": "most", "text": large},
            {"id": "more", "text": large + "import os\n" * 99},
        ]
        added = http.post("/v1/corpora/large/documents", json={"documents": documents[:1]})
        assert added.status_code == 200, added.text
        added = http.post("/v1/corpora/large/documents", json={"documents": documents[1:]})
        assert [one["change"] for one in added.json()["data"]] == ["rejected"]
        read = http.get("/v1/corpora/large/documents/most")
        assert read.status_code == 200 and read.json()["text"] == large
        assert http.delete("/v1/corpora/large").status_code == 200


def test_shards_come_and_go_while_requests_run(service: Service) -> None:
    before = set(processes("ShardActor"))
    untouched = {kind: processes(kind) for kind in ("Router", "EngineActor")}
    assert all(untouched.values())
    stream = service.stream(PROMPTS[0], temperature=0.0, max_tokens=400, ignore_eos=True)
    pieces = [next(stream)]
    service.set_shards(3)
    until(lambda: len(processes("ShardActor")) == 3, "three shards")
    assert before < set(processes("ShardActor"))
    assert service.scale(1, 1)["override"]
    until(lambda: len(processes("ShardActor")) == 1, "one shard")
    service.set_shards(2)
    until(lambda: len(processes("ShardActor")) == 2, "two shards")
    pieces += stream
    tokens = [token for piece in pieces for token in piece.tokens]
    plain = service.generate(
        PROMPTS[0], temperature=0.0, max_tokens=400, ignore_eos=True, speculation="off"
    )
    assert tokens == plain.choices[0].tokens and len(tokens) == 400
    assert service.generate(PROMPTS[0], **GREEDY).choices[0].statistics.drafted["corpus"] > 0
    assert untouched == {kind: processes(kind) for kind in untouched}


def test_nothing_is_left_of_a_deleted_application(service: Service) -> None:
    from ray import serve

    kinds = ("EngineActor", "ShardActor", "WriterActor", "Router", "Datastore")
    assert all(processes(kind) for kind in kinds)
    serve.delete("rasd")
    until(lambda: not any(processes(kind) for kind in kinds), "nothing left", 30)
