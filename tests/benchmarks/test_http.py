"""The load of the HTTP benchmark, against our own routes."""

from __future__ import annotations

import pytest

from benchmarks.http import _read, load, summary
from tests.api.fakes import END, MODEL, FakeEngine, make_site, serving, tokens_of

TEXT = "Hello, world: ärger & 日本"
SAID = len(tokens_of(TEXT)) + 1


async def test_every_prompt_is_answered_in_its_place() -> None:
    engine = FakeEngine(answer=lambda request: [*request.prompt.tolist(), *tokens_of(TEXT), END])
    prompts = [tokens_of(f"prompt {i}") for i in range(7)]
    async with serving(make_site(engine)) as url:
        results = await load(f"{url}/v1", MODEL, prompts, 200, 3, {"temperature": 0.0})
    assert [result.text for result in results] == [f"prompt {i}{TEXT}" for i in range(7)]
    assert [result.tokens for result in results] == [len(p) + SAID for p in prompts]
    assert {(result.error, result.finish) for result in results} == {("", "stop")}
    for result in results:
        assert result.sent < result.arrivals[0] <= result.arrivals[-1] <= result.ended
        assert result.extra["steps"] > 0
    found = summary(results)
    assert found["tokens"] == sum(result.tokens for result in results)
    assert found["tokens_per_s"] == found["tokens"] / found["seconds"]


async def test_what_is_refused_is_told() -> None:
    async with serving(make_site()) as url:
        results = await load(f"{url}/v1", MODEL, [[1], [2]], 4, 2, {"temperature": -1})
    assert ["temperature" in result.error for result in results] == [True, True]
    with pytest.raises(RuntimeError, match="2 of 2"):
        summary(results)


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_events_may_be_cut_anywhere(cut: int) -> None:
    body = (
        'data: {"choices": [{"text": "ä", "finish_reason": null}]}\r\n\r\n'
        'data: {"choices": [{"text": "", "finish_reason": "length"}]}\r\n\r\n'
        'data: {"choices": [], "usage": {"completion_tokens": 3}}\r\n\r\ndata: [DONE]\r\n\r\n'
    ).encode()
    came = [(float(at), body[at : at + cut]) for at in range(0, len(body), cut)]
    result = _read(came, -1.0, 1e6, "")
    assert (result.text, result.tokens, result.finish, result.error) == ("ä", 3, "length", "")
    assert len(result.arrivals) == 1 and result.first_s == result.arrivals[0] + 1


def test_a_stream_that_breaks_off_is_an_error() -> None:
    came = [(0.0, b'data: {"choices": [{"text": "a", "finish_reason": null}]}\n\n')]
    assert _read(came, 0.0, 1.0, "").error == "the stream broke off"
