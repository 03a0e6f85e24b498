"""What `rasd.LLM` does with prompts, parameters and settings, on a tiny random model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from rasd import LLM, SamplingParams
from rasd.config import AppConfig, CorpusConfig
from rasd.errors import ConfigError, InvalidRequest, ModelError, NotFound, TokenizerMismatch
from rasd.local import config_of
from rasd.params import SPECULATIONS
from tests.tokenizers import END, metaspace_tokenizer
from tests.worlds import TEXTS, check_greedy, make_world, said_by, settings_of, tiny_config

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), tiny_config("llama"))


@pytest.fixture(scope="module")
def tiny(world: Path) -> Iterator[LLM]:
    llm = LLM(
        str(world / "model"),
        dtype="float32",
        drafter=str(world / "eagle"),
        corpora=[CorpusConfig(name="small", source=str(world / "corpus.jsonl")), "answers"],
        # A random head helps by chance only: it is asked whatever that costs.
        settings=settings_of(world, speculation={"budget": "fixed"}),
    )
    yield llm
    llm.close()


@pytest.fixture(scope="module")
def reference(world: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(world / "model", dtype=torch.float32)


@pytest.mark.parametrize("mode", SPECULATIONS)
def test_greedy_is_what_transformers_says(tiny: LLM, reference: Any, mode: str) -> None:
    params = SamplingParams(max_tokens=40, temperature=0.0, speculation=mode)  # type: ignore[arg-type]
    for answer in tiny.generate(TEXTS, params):
        expected, leads = said_by(reference, answer.prompt_token_ids, 40)
        check_greedy(answer.outputs[0].token_ids, expected, leads)
        assert answer.outputs[0].finish_reason == ("stop" if expected[-1] == 1 else "length")


@pytest.mark.parametrize("source", ["draft", "prompt", "corpus"])
def test_every_source_is_asked_and_helps(tiny: LLM, source: str) -> None:
    params = SamplingParams(
        max_tokens=60,
        temperature=0.0,
        ignore_eos=True,
        speculation=source,  # type: ignore[arg-type]
    )
    totals = [answer.outputs[0].statistics for answer in tiny.generate(TEXTS, params)]
    assert sum(one.drafted[source] for one in totals) > 0
    assert sum(one.accepted[source] for one in totals) > 0
    timings = tiny.step_timings()
    assert timings["step"] >= timings["verify"] >= timings["forward"] > 0
    assert timings[source] > 0


@pytest.mark.parametrize("nodes", [1, 6, 40])
@pytest.mark.parametrize("mode", ["draft", "rasd"])
def test_seeded_draws_do_not_depend_on_trees(tiny: LLM, mode: str, nodes: int) -> None:
    def sample(mode: str, nodes: int | None) -> list[list[int]]:
        params = SamplingParams(
            max_tokens=30,
            temperature=0.8,
            top_p=0.9,
            repetition_penalty=1.1,
            seed=5,
            n=2,
            speculation=mode,  # type: ignore[arg-type]
            nodes=nodes,
        )
        return [o.token_ids for answer in tiny.generate(TEXTS, params) for o in answer.outputs]

    plain = sample("off", None)
    assert sample(mode, nodes) == plain
    assert plain[0] != plain[1]


def test_seeds_are_drawn_where_none_is_given(tiny: LLM) -> None:
    params = SamplingParams(max_tokens=20, temperature=2.0)
    one, other = (tiny.generate("the", params)[0].outputs[0].token_ids for _ in range(2))
    assert one != other


# --- text ---------------------------------------------------------------------------------------


def test_text_is_what_the_tokens_decode_to(tiny: LLM) -> None:
    params = SamplingParams(max_tokens=30, temperature=1.0, seed=3)
    for answer in tiny.generate(TEXTS, params):
        tokens = answer.outputs[0].token_ids
        assert answer.outputs[0].text == tiny.tokenizer.decode(tokens, skip_special_tokens=True)


def test_a_stop_string_ends_text_and_tokens(tiny: LLM) -> None:
    params = SamplingParams(max_tokens=60, temperature=1.0, seed=3, ignore_eos=True)
    whole = tiny.generate("the", params)[0].outputs[0]
    stop = next(c for c in whole.text[5:] if whole.text.index(c) > 5)
    ended = tiny.generate(
        "the",
        SamplingParams(max_tokens=60, temperature=1.0, seed=3, ignore_eos=True, stop=(stop,)),
    )[0].outputs[0]
    assert ended.text == whole.text[: whole.text.index(stop)]
    assert ended.finish_reason == "stop"
    assert ended.token_ids == whole.token_ids[: len(ended.token_ids)]
    decode: Callable[[list[int]], str] = lambda ids: tiny.tokenizer.decode(  # noqa: E731
        ids, skip_special_tokens=True
    )
    assert stop in decode(ended.token_ids)
    assert stop not in decode(ended.token_ids[:-1])


def test_a_stop_token_is_in_the_tokens_but_not_in_the_text(tiny: LLM) -> None:
    params = SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True)
    whole = tiny.generate("ab", params)[0].outputs[0]
    stop = whole.token_ids[6]
    first = whole.token_ids.index(stop)
    params = SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True, stop_token_ids=(stop,))
    ended = tiny.generate("ab", params)[0].outputs[0]
    assert ended.token_ids == whole.token_ids[: first + 1]
    assert ended.text == tiny.tokenizer.decode(whole.token_ids[:first], skip_special_tokens=True)


def test_choices_parameters_and_prompts_come_in_order(tiny: LLM) -> None:
    params = [
        SamplingParams(max_tokens=3 + i, temperature=1.0, seed=i, n=i + 1, ignore_eos=True)
        for i in range(3)
    ]
    answers = tiny.generate([[5, 6], [7], [8, 9, 10]], params)
    assert [a.prompt_token_ids for a in answers] == [[5, 6], [7], [8, 9, 10]]
    assert [len(a.outputs) for a in answers] == [1, 2, 3]
    for i, answer in enumerate(answers):
        assert [o.index for o in answer.outputs] == list(range(i + 1))
        assert {len(o.token_ids) for o in answer.outputs} == {3 + i}
        assert answer.prompt is None


def test_logprobs_come_with_each_token(tiny: LLM) -> None:
    params = SamplingParams(max_tokens=12, temperature=0.0, logprobs=3, ignore_eos=True)
    output = tiny.generate("ab", params)[0].outputs[0]
    assert len(output.logprobs) == 12
    for token, entry in zip(output.token_ids, output.logprobs, strict=True):
        assert entry.top_ids[0] == token
        assert entry.logprob == pytest.approx(float(entry.top_logprobs[0]))


def test_chats_go_through_the_template(tiny: LLM) -> None:
    chat = [{"role": "user", "content": f"hi {END}"}]
    params = SamplingParams(max_tokens=5, temperature=0.0)
    one = tiny.chat(chat, params)[0]
    two = tiny.chat([chat, chat], params)
    assert one.prompt_token_ids == tiny.encode_chat(chat).tolist()
    assert [a.outputs[0].token_ids for a in two] == [one.outputs[0].token_ids] * 2


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "params", "reason"),
    [
        ([[]], SamplingParams(), "at least 1 token"),
        ([[5], [99999]], SamplingParams(), "prompt holds token 99999"),
        ([[0.5]], SamplingParams(), "list of token ids"),
        (["a", "b"], [SamplingParams()], "1 entries for 2 prompts"),
        ("a", SamplingParams(max_tokens=999), "max_tokens 999 exceed the context of 256"),
        ("a", SamplingParams(corpora=("other",)), "no corpus 'other'; there are: small, answers"),
        ("\ud800", SamplingParams(), "lone surrogate"),
    ],
)
def test_what_cannot_run_is_refused_and_leaves_nothing(
    tiny: LLM, prompts: Any, params: Any, reason: str
) -> None:
    with pytest.raises((InvalidRequest, NotFound), match=reason):
        tiny.generate(prompts, params)
    assert not tiny._engine.gauges().running + tiny._engine.gauges().waiting
    assert tiny.generate("a", SamplingParams(max_tokens=1))[0].outputs[0].token_ids


def test_an_interruption_leaves_an_engine_that_works(
    tiny: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True)
    expected = tiny.generate("ab", params)[0].outputs[0].token_ids
    target: Any = tiny._stages.target
    forward, calls = target._runner.forward, []

    def interrupted(works: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(works)

    monkeypatch.setattr(target._runner, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny.generate(["ab", "cd"], params)
    assert tiny.generate("ab", params)[0].outputs[0].token_ids == expected
    target.cache.check_integrity()
    assert target.cache.pool.available == target.cache.pool.pages


def test_settings_follow_the_arguments(world: Path) -> None:
    def config(**values: Any) -> AppConfig:
        arguments: dict[str, Any] = {
            "model": None,
            "dtype": "auto",
            "drafter": "auto",
            "corpora": "auto",
            "speculation": None,
            **values,
        }
        return config_of(AppConfig(), **arguments)

    assert config() == AppConfig()
    other = config(model="some/model")
    assert (other.drafter, other.datastore) == (None, None)
    both = config(dtype="float32", speculation="prompt", drafter="x/y", corpora=["stdlib"])
    assert both.drafter is not None
    assert (both.target.dtype, both.drafter.dtype, both.drafter.model) == (
        "float32",
        "float32",
        "x/y",
    )
    assert both.speculation.mode == "prompt"
    assert both.datastore is not None
    assert both.datastore.corpora == [CorpusConfig(name="stdlib", source="stdlib")]
    assert config(drafter=None, corpora=None).drafter is None
    with pytest.raises(ConfigError, match=r"speculation.mode: .*'eagle'"):
        config(speculation="eagle")
    with pytest.raises(ConfigError, match=r"tensor_parallel must be 1 .*; got 2"):
        LLM(tensor_parallel=2)


def test_the_settings_bound_what_a_request_may_use(world: Path) -> None:
    llm = LLM(str(world / "model"), speculation="off", settings=settings_of(world))
    output = llm.generate("ab ab ab", SamplingParams(max_tokens=20))[0].outputs[0]
    assert output.statistics.nodes == 0
    assert llm.corpora == ()
    llm.close()


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nothing"):
        LLM(str(tmp_path / "nothing"))


def test_a_corpus_of_another_tokenizer_is_refused(world: Path, tiny: LLM, tmp_path: Path) -> None:
    other = tmp_path / "other"
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(metaspace_tokenizer()),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    ).save_pretrained(other)
    metaspace_tokenizer().save_pretrained(other)
    with pytest.raises(TokenizerMismatch, match=r"corpus 'small'.*remove it from"):
        LLM(str(other), corpora=["small"], settings=settings_of(world))
