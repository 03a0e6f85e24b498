"""Draws against slow twins written from the definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rasd.params import SamplingParams
from rasd.sampling import Draws, filter_logits, gumbel_noise, logprobs_of
from tests.stats import chi_square_excess

VOCABULARY = 12
NONE = np.zeros(0, np.int32)
MASK = 2**64 - 1


def new_draws(params: SamplingParams, prompt: Any = NONE, output: Any = NONE) -> Draws:
    return Draws(
        params,
        prompt=np.asarray(prompt, np.int32),
        output=np.asarray(output, np.int32),
        choice=0,
    )


def twin_noise(key: int, token: int) -> float:
    """SplitMix64's finaliser on big integers, then Gumbel."""
    z = (token * 0x9E3779B97F4A7C15 + key + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    z ^= z >> 31
    return -math.log(-math.log(((z >> 11) + 0.5) * 2.0**-53))


@given(st.integers(0, MASK), st.lists(st.integers(0, 2**20), min_size=1, max_size=20))
def test_noise_equals_big_integer_twin(key: int, tokens: list[int]) -> None:
    fast = gumbel_noise(key, torch.tensor(tokens)).tolist()
    assert fast == pytest.approx([twin_noise(key, token) for token in tokens], rel=1e-12)


def test_noise_is_standard_gumbel() -> None:
    noise = gumbel_noise(7, torch.arange(1_000_000))
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.006)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.015)


def twin_filter(row: list[float], params: SamplingParams) -> dict[int, float]:
    """Filters one after the other, as the documentation words them."""
    kept = {token: (value - max(row)) / params.temperature for token, value in enumerate(row)}

    def probabilities() -> dict[int, float]:
        top = max(kept.values())
        weights = {token: math.exp(value - top) for token, value in kept.items()}
        total = sum(weights.values())
        return {token: weight / total for token, weight in weights.items()}

    order = sorted(kept, key=lambda token: (-kept[token], token))
    if params.top_k:
        kept = {token: kept[token] for token in order[: params.top_k]}
    if params.top_p < 1.0:
        share, before, survivors = probabilities(), 0.0, {}
        for token in [token for token in order if token in kept]:
            if not survivors or before < params.top_p:
                survivors[token] = kept[token]
            before += share[token]
        kept = survivors
    if params.min_p > 0.0:
        share = probabilities()
        floor = params.min_p * max(share.values())
        kept = {token: value for token, value in kept.items() if share[token] >= floor}
    return kept


@settings(max_examples=200)
@given(
    st.lists(st.floats(-8, 8, width=32), min_size=VOCABULARY, max_size=VOCABULARY),
    st.sampled_from([0.3, 1.0, 1.7]),
    st.sampled_from([1.0, 0.93, 0.51, 0.07]),
    st.sampled_from([0, 1, 3, 50]),
    st.sampled_from([0.0, 0.11, 1.0]),
)
def test_filters_equal_twin(
    row: list[float], temperature: float, top_p: float, top_k: int, min_p: float
) -> None:
    params = SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    ids, kept = filter_logits(torch.tensor(row), params)
    fast, slow = dict(zip(ids.tolist(), kept.tolist(), strict=True)), twin_filter(row, params)
    edge = 1e-4  # cumulative sums in float32 may put a token on either side of an edge
    if fast.keys() != slow.keys():
        loose = SamplingParams(
            temperature=temperature,
            top_p=min(1.0, top_p + edge),
            top_k=top_k,
            min_p=max(0.0, min_p - edge),
        )
        assert fast.keys() ^ slow.keys() <= twin_filter(row, loose).keys()
    assert fast
    for token in fast.keys() & slow.keys():
        assert fast[token] == pytest.approx(slow[token], abs=1e-5)


def test_penalties_and_bias_see_prompt_output_and_path() -> None:
    params = SamplingParams(
        temperature=0.0,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        repetition_penalty=2.0,
        logit_bias={7: 3.0},
    )
    draws = new_draws(params, prompt=[1, 1, 2], output=[3, 3])
    row = torch.tensor([4.0, 4.0, -4.0, 4.0, 4.0, 4.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    before = row.clone()
    # token 1: 4/2; 2: -4*2; 3: 4/2 - .5 - .25*2; path token 0: 4/2 - .5 - .25; 4 and 5 untouched
    reshaped = draws._reshape(row.clone(), [0])
    assert reshaped.tolist()[:8] == [1.25, 2.0, -8.0, 1.0, 4.0, 4.0, 1.0, 3.0]
    assert draws.draw(row, [0]) == 4
    assert torch.equal(row, before)


def test_same_key_same_draw_whatever_came_before() -> None:
    row = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(3))
    params = SamplingParams(seed=11)
    stepwise, jumped = new_draws(params), new_draws(params)
    path: list[int] = []
    for _ in range(20):
        token = stepwise.draw(row)
        assert jumped.draw(row, path) == token
        stepwise.commit([token])
        path.append(token)
    resumed = new_draws(params, output=path)
    assert resumed.draw(row) == stepwise.draw(row)


def test_choices_and_seeds_differ() -> None:
    row = torch.zeros(4096)
    keys = [(seed, choice) for seed in (-(2**63), -1, 0, 1, 2**63 - 1) for choice in (0, 1)]
    drawn = {
        Draws(SamplingParams(seed=seed), prompt=NONE, output=NONE, choice=choice).draw(row)
        for seed, choice in keys
    }
    assert len(drawn) >= len(keys) - 1


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_draws_follow_the_distribution(top_p: float) -> None:
    params = SamplingParams(top_p=top_p, seed=5)
    row = torch.linspace(-2, 2, VOCABULARY)
    ids, kept = filter_logits(row, params)
    expected = np.zeros(VOCABULARY)
    expected[ids.numpy()] = torch.softmax(kept, -1).numpy()
    draws, count = new_draws(params), 20_000
    seen = np.zeros(VOCABULARY, np.int64)
    for _ in range(count):
        seen[draws.draw(row)] += 1
        draws.position += 1
    assert not seen[expected == 0].any()
    inside = expected > 0
    assert chi_square_excess(seen[inside], expected[inside] * count) < 3.3


def test_logprobs_are_of_the_unmodified_distribution() -> None:
    row = torch.tensor([0.0, 1.0, 2.0])
    found = logprobs_of(row, 0, 2)
    expected = torch.log_softmax(row, -1)
    assert found.logprob == pytest.approx(float(expected[0]))
    assert found.top_ids.tolist() == [2, 1]
    assert found.top_logprobs.tolist() == pytest.approx([float(expected[2]), float(expected[1])])


@pytest.mark.parametrize("temperature", [1e-6, 1e-38, 1e-45, 5e-324])
def test_tiny_temperatures_are_greedy(temperature: float) -> None:
    draws = new_draws(SamplingParams(temperature=temperature, top_p=0.9, seed=1))
    assert draws.draw(torch.tensor([1.0, 5.0, 9.0, -1.0])) == 2
