"""LocalTarget against transformers' own generation, and what becomes of bad work."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rasd.errors import KVExhausted
from rasd.params import SamplingParams
from rasd.stages import Admission, Verified, VerifyRequest, Work
from rasd.target import LocalTarget
from tests.kv.models import VOCABULARY, build
from tests.target.conftest import Loader
from tests.target.steps import GREEDY, Run, Sink, chain, drive, generate, work_of

NONE = np.zeros(0, np.int32)


def runs_of(name: str, seed: int, count: int = 4, longest: int = 45) -> list[Run]:
    rng = np.random.default_rng(seed)
    plain = build(name, "sdpa")
    runs = []
    for sequence in range(count):
        prompt = rng.integers(0, VOCABULARY, int(rng.integers(1, longest))).tolist()
        runs.append(Run(sequence, prompt, generate(plain, prompt, int(rng.integers(5, 25)))))
    return runs


@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen3-mixed", "mistral", "gpt2"])
def test_any_trees_give_the_text_of_plain_generation(name: str, load: Loader, seed: int) -> None:
    target = load(name)
    runs = runs_of(name, seed)
    drive(target, runs, seed)
    for run in runs:
        assert run.text[: len(run.expected)] == run.expected
    assert sum(run.steps for run in runs) < sum(len(run.text) + len(run.prompt) for run in runs)
    target.cache.check_integrity()
    assert target.cache.pool.available == target.cache.pool.pages


def test_seeded_sampling_gives_the_same_text_with_any_trees(load: Loader, seed: int) -> None:
    target = load("llama")
    params = SamplingParams(
        temperature=0.9, seed=7, top_p=0.9, frequency_penalty=0.5, repetition_penalty=1.1
    )
    runs = runs_of("llama", seed, count=2)
    for run in runs:
        run.expected = [0] * 20  # nothing known: nonsense is proposed, nothing accepted
    drive(target, runs, seed, params)
    again = [Run(run.sequence + 10, run.prompt, run.text[:20]) for run in runs]
    drive(target, again, seed + 1, params)
    for first, second in zip(runs, again, strict=True):
        assert second.text[:20] == first.text[:20]
        assert second.steps < first.steps + len(first.prompt)


def admit(target: LocalTarget, *sequences: int, **options: object) -> None:
    admissions = [
        Admission(sequence, NONE, NONE, options.get("params", GREEDY), features=True)  # type: ignore[arg-type]
        for sequence in sequences
    ]
    target.verify(VerifyRequest(0, [], admissions, []))


def step(target: LocalTarget, *works: Work) -> list[Verified]:
    return target.verify(VerifyRequest(1, [], [], list(works))).wait(1.0).results


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
def test_features_are_the_hidden_states_of_kept_positions(name: str, load: Loader) -> None:
    sink = Sink()
    target = load(name, sink)
    plain = build(name, "sdpa")
    prompt = np.random.default_rng(3).integers(0, VOCABULARY, 19).tolist()
    expected = generate(plain, prompt, 6)
    admit(target, 5)
    step(target, work_of(5, *chain(prompt[:8]), 8, False))
    tokens, parents = chain([*prompt[8:], *expected[:2]])
    wrong = [(expected[2] + 1) % VOCABULARY]
    result = step(target, work_of(5, [*tokens, *wrong], [*parents, 12], 11, True))[0]
    assert result.path.tolist() == [11, 12]
    assert result.tokens.tolist() == expected[:3]
    text = prompt + expected[:2]
    with torch.inference_mode():
        states = plain(torch.tensor([text]), output_hidden_states=True).hidden_states[-1][0]
    assert [features.start for features in sink.got] == [0, 8]
    rows = np.concatenate([features.rows for features in sink.got])
    np.testing.assert_allclose(rows, states.numpy(), atol=1e-4, rtol=1e-4)


def test_features_in_bfloat16_travel_as_bits(load: Loader) -> None:
    sink = Sink()
    target = load("llama", sink, dtype="bfloat16")
    admit(target, 5)
    step(target, work_of(5, [1, 2], [-1, 0], 2, False))
    rows = sink.got[0].rows
    assert rows.dtype == np.uint16 and rows.shape == (2, target.info.feature_size)
    values = torch.from_numpy(rows).view(torch.bfloat16).float()
    assert torch.isfinite(values).all() and 0.01 < values.abs().mean() < 100


BAD = {
    "vocabulary": work_of(1, [3, VOCABULARY], [-1, 0], 1, True),
    "token -4": work_of(1, [-4], [-1], 1, True),
    "chain": work_of(1, [3, 4, 5], [-1, 0, 0], 3, True),
    "hang": work_of(1, [3, 4, 5, 6], [-1, 0, 1, 0], 2, True),
    "from its end": work_of(1, [3, 4], [-1, 1], 1, True),
    "parents": work_of(1, [3, 4], [-1], 1, True),
    "decided": work_of(1, [3], [-1], 0, True),
    "0 tokens": work_of(1, [], [], 1, True),
    "positions": work_of(1, [1] * 257, list(range(-1, 256)), 257, False),
    "unknown": work_of(8, [3], [-1], 1, True),
    "two works": work_of(2, [3], [-1], 1, True),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_work_ends_its_sequence_only(reason: str, load: Loader) -> None:
    target, alone = load("llama"), load("llama")
    admit(target, 1, 2)
    admit(alone, 2)
    good = work_of(2, [5, 6, 7, 9], [-1, 0, 1, 0], 1, True)
    results = step(target, good, BAD[reason])
    assert reason in results[1].error
    assert len(results[1].tokens) == 0
    expected = step(alone, good)[0]
    assert results[0].tokens.tolist() == expected.tokens.tolist() and not results[0].error
    assert target.cache.length(1) == 0
    target.verify(VerifyRequest(2, [1, 2, 8], [], []))
    target.cache.check_integrity()
    assert target.cache.pool.available == target.cache.pool.pages


def test_a_fault_while_drawing_ends_its_sequence_only(
    load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = load("llama")
    admit(target, 1, 2)

    def broken(*_: object) -> None:
        raise FloatingPointError("no draw")

    monkeypatch.setattr(target._sequences[1].draws, "commit", broken)
    results = step(target, work_of(1, [3], [-1], 1, True), work_of(2, [3], [-1], 1, True))
    assert "FloatingPointError: no draw" in results[0].error
    assert not results[1].error and len(results[1].tokens) == 1
    assert target.cache.length(1) == 0


def test_a_bias_beyond_the_vocabulary_is_named(load: Loader) -> None:
    target = load("llama")
    admit(target, 1, params=SamplingParams(logit_bias={VOCABULARY: 1.0}, seed=0))
    assert (
        "logit_bias names token 96 of 96" in step(target, work_of(1, [3], [-1], 1, True))[0].error
    )


def test_no_room_is_raised_and_leaves_everything_as_it_was(load: Loader) -> None:
    target = load("llama", kv_slots=32)
    admit(target, 1, 2)
    long = work_of(1, *chain([7] * 30), 30, True)
    with pytest.raises(KVExhausted, match="9 pages of 4 slots, 8 of 8 are free"):
        step(target, long, work_of(2, [3], [-1], 1, True))
    assert target.cache.pool.available == 8
    assert not step(target, long)[0].error
    assert target.info.kv_slots == 32
    request = VerifyRequest(
        2, [1], [Admission(3, NONE, NONE, GREEDY)], [work_of(3, *chain([7] * 33), 33, True)]
    )
    for _ in range(2):
        with pytest.raises(KVExhausted):
            target.verify(request)
    fitting = work_of(3, *chain([7] * 32), 32, True)
    again = VerifyRequest(2, [], request.admit, [fitting])
    assert not target.verify(again).wait(1.0).results[0].error


def test_a_fault_of_the_forward_leaves_nothing_behind(
    load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = load("llama", forward="transformers")
    admit(target, 1)
    monkeypatch.setattr(target.model, "forward", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        step(target, work_of(1, [3], [-1], 1, True))
    assert target.cache.pool.available == target.cache.pool.pages
    target.cache.check_integrity()


def test_positions_end_where_the_configuration_says(load: Loader) -> None:
    assert load("llama").info.max_positions == 256
    target = load("llama", max_model_len=9)
    assert target.info.max_positions == 9
    admit(target, 1)
    step(target, work_of(1, *chain([4] * 8), 8, False))
    assert (
        "9 positions; this step needs 10"
        in step(target, work_of(1, [3, 4], [-1, 0], 1, True))[0].error
    )
    assert not step(target, work_of(1, [3], [-1], 1, True))[0].error


def test_logprobs_are_of_the_plain_distribution(load: Loader) -> None:
    target, plain = load("llama"), build("llama", "sdpa")
    admit(target, 1, params=SamplingParams(temperature=0.0, logprobs=3, seed=0))
    result = step(target, work_of(1, *chain([4, 9, 2]), 3, True))[0]
    with torch.inference_mode():
        row = plain(torch.tensor([[4, 9, 2]])).logits[0, -1].log_softmax(-1)
    assert len(result.logprobs) == 1
    np.testing.assert_allclose(result.logprobs[0].logprob, float(row.max()), atol=1e-4)
    assert result.logprobs[0].top_ids.tolist() == row.topk(3).indices.tolist()
