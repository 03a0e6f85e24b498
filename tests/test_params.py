"""Parameters out of range are refused by name, limit and value."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rasd.errors import InvalidRequest
from rasd.params import MAX_SEED, SPECULATIONS, SamplingParams

REFUSED: list[tuple[str, Any, str]] = [
    ("max_tokens", 0, "between 1 and 16777216; got 0"),
    ("max_tokens", 2**24 + 1, "between 1 and 16777216; got 16777217"),
    ("max_tokens", True, "an integer; got True"),
    ("max_tokens", 3.0, "an integer; got 3.0"),
    ("max_tokens", None, "an integer; got None"),
    ("temperature", -0.1, "at least 0.0 and at most 100.0; got -0.1"),
    ("temperature", math.nan, "finite; got nan"),
    ("temperature", math.inf, "finite; got inf"),
    ("temperature", "1", "a number; got '1'"),
    ("temperature", False, "a number; got False"),
    ("top_p", 0.0, "above 0.0 and at most 1.0; got 0.0"),
    ("top_p", 1.01, "above 0.0 and at most 1.0; got 1.01"),
    ("top_k", -1, "between 0 and .*; got -1"),
    ("min_p", 1.5, "at most 1.0; got 1.5"),
    ("presence_penalty", -2.5, "at least -2.0 and at most 2.0; got -2.5"),
    ("frequency_penalty", 2.5, "at least -2.0 and at most 2.0; got 2.5"),
    ("repetition_penalty", 0.0, "above 0.0 and at most 100.0; got 0.0"),
    ("n", 0, "between 1 and 128; got 0"),
    ("n", 129, "between 1 and 128; got 129"),
    ("seed", MAX_SEED + 1, f"between {-MAX_SEED - 1} and {MAX_SEED}; got {MAX_SEED + 1}"),
    ("seed", 1.5, "an integer; got 1.5"),
    ("logprobs", 21, "between 0 and 20; got 21"),
    ("nodes", 257, "between 0 and 256; got 257"),
    ("passages", 257, "between 0 and 256; got 257"),
    ("speculation", "eagle", "one of off, draft, prompt, corpus, rasd; got 'eagle'"),
    ("stop", "END", "a list; got 'END'"),
    ("stop_token_ids", 3, "a list; got 3"),
    ("corpora", "stdlib", "a list; got 'stdlib'"),
    ("corpora", (1,), "names; got 1"),
    ("ignore_eos", 1, "true or false; got 1"),
    ("return_origins", "yes", "true or false; got 'yes'"),
    ("logit_bias", [1], "map token ids to numbers"),
    ("logit_bias", {-1: 0.0}, "between 0 and 2147483647; got -1"),
    ("logit_bias", {1: 101.0}, "at least -100.0 and at most 100.0; got 101.0"),
    ("logit_bias", dict.fromkeys(range(1025), 0.0), "at most 1024 entries; got 1025"),
    ("stop", ("",), "1 to 256 characters; got 0"),
    ("stop", ("x" * 257,), "1 to 256 characters; got 257"),
    ("stop", ("x",) * 17, "at most 16 entries; got 17"),
    ("stop", (5,), "must be strings; got 5"),
    ("stop_token_ids", (-1,), "between 0 and 2147483647; got -1"),
    ("stop_token_ids", (1,) * 17, "at most 16 entries; got 17"),
]


@pytest.mark.parametrize(("name", "value", "reason"), REFUSED)
def test_what_is_out_of_range_is_refused(name: str, value: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as refusal:
        SamplingParams(**{name: value})
    assert refusal.value.param == name
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    "values",
    [
        {"max_tokens": 1, "temperature": 0, "top_p": 1, "n": 128, "logprobs": 0},
        {"temperature": 100.0, "top_p": 1e-9, "min_p": 1.0, "repetition_penalty": 100.0},
        {"seed": -MAX_SEED - 1, "nodes": 0, "stop": ("x" * 256,) * 16},
        {"logit_bias": dict.fromkeys(range(1024), -100.0), "presence_penalty": -2.0},
        *({"speculation": mode} for mode in SPECULATIONS),
    ],
)
def test_the_limits_themselves_are_allowed(values: dict[str, Any]) -> None:
    SamplingParams(**values)


def test_greedy_and_reshaping_are_told() -> None:
    assert SamplingParams(temperature=0.0).greedy
    assert not SamplingParams().greedy
    assert not SamplingParams().reshapes_logits
    for change in (
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"repetition_penalty": 1.1},
        {"logit_bias": {1: 1.0}},
    ):
        assert SamplingParams(**change).reshapes_logits  # type: ignore[arg-type]


def test_lists_become_tuples() -> None:
    params = SamplingParams(stop=["a"], stop_token_ids=[1], corpora=["b"])  # type: ignore[arg-type]
    assert (params.stop, params.stop_token_ids, params.corpora) == (("a",), (1,), ("b",))
