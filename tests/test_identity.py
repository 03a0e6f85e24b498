"""Speculation changes no token: `rasd.LLM` in float32 against transformers' own `generate`.

The shipped model is part of the repository: where it is missing, these tests fail.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rasd import LLM, SamplingParams
from rasd.config import EMBEDDED, STDLIB_CORPUS, CorpusConfig, parse_config
from rasd.params import SPECULATIONS
from rasd.train.text import documents, questions
from tests.tokenizers import byte_tokenizer
from tests.worlds import (
    check_greedy,
    check_speculated,
    keep_answers,
    make_world,
    said_by,
    settings_of,
    tiny_config,
)

torch.set_num_threads(1)

Said = tuple[list[int], list[float]]
SOURCES_OF = {
    "off": set(),
    "draft": {"draft"},
    "prompt": {"prompt"},
    "corpus": {"corpus"},
    "rasd": {"draft", "prompt", "corpus"},
}


def params_of(mode: str, tokens: int, **others: Any) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, speculation=mode, **others)  # type: ignore[arg-type]


def check_modes(
    llm: LLM, prompts: list[list[int]], expected: list[Said], tokens: int, **others: Any
) -> None:
    """Every mode says what is expected, and all of its sources were right at times."""
    for mode in SPECULATIONS:
        answers = llm.generate(prompts, params_of(mode, tokens, temperature=0.0, **others))
        for answer, (said, leads) in zip(answers, expected, strict=True):
            check_greedy(answer.outputs[0].token_ids, said, leads)
        check_speculated([a.outputs[0].statistics for a in answers], SOURCES_OF[mode], mode)


# --- random models ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen3", "mistral"])
def test_random_models_say_what_transformers_says(name: str, tmp_path: Path) -> None:
    world = make_world(tmp_path, tiny_config(name))
    model = AutoModelForCausalLM.from_pretrained(world / "model", dtype=torch.float32)
    rng = np.random.default_rng(0)
    # Longer than Mistral's window of 16. Its text depends on the last 46 tokens alone, so that a
    # phrase of 48 is continued the same the second time: work for prompt lookup.
    phrases = [rng.integers(4, len(byte_tokenizer()), 48 + i).tolist() for i in range(8)]
    prompts = [phrase + said_by(model, phrase, 24)[0] + phrase for phrase in phrases]
    expected = [said_by(model, prompt, 40) for prompt in prompts]
    texts = [prompt + said for prompt, (said, _) in zip(prompts, expected, strict=True)]
    keep_answers(world, texts[:4], "said")  # the other four are left to prompt lookup
    settings = settings_of(
        world,
        engine={"max_sequences": 3, "chunk_tokens": 20},
        drafter={"nodes": 12},  # a random head knows nothing: it may neither fill the trees
        # nor prune them, and nobody asks what it is worth
        speculation={"prune_top_k": None, "scores": "static", "budget": "fixed"},
    )
    llm = LLM(
        str(world / "model"),
        dtype="float32",
        drafter=str(world / "eagle"),
        corpora=["said"],
        settings=settings,
    )
    check_modes(llm, prompts, expected, 40)
    llm.close()


# --- the shipped model --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LLM]:
    """Loads the shipped pair in float32 with a corpus of the standard library's held-in text."""
    store = tmp_path_factory.mktemp("datastore")
    few = tmp_path_factory.mktemp("sources")
    for name in ("argparse.py", "textwrap.py", "asyncio/events.py"):
        text = Path(sysconfig.get_path("stdlib"), name).read_text()
        (few / name.replace("/", "_")).write_text(text)
    sources = {"few": str(few), STDLIB_CORPUS: STDLIB_CORPUS}

    def load(max_sequences: int, corpus: str, budget: str = "fixed") -> LLM:
        # Few tokens of prompts per step: they enter beside the trees of running sequences.
        settings = parse_config(
            {
                "target": {"kv_slots": 4096, "threads": 1},
                "datastore": {"root": str(store)},
                "engine": {"max_sequences": max_sequences, "chunk_tokens": 48},
                # With a fixed budget all sources are asked, though on so small a model few pay.
                "speculation": {"budget": budget},
            }
        )
        corpora = [CorpusConfig(name=corpus, source=sources[corpus])]
        return LLM(dtype="float32", corpora=corpora, settings=settings)

    return load


@pytest.fixture(scope="module")
def small(shipped: Callable[..., LLM]) -> Iterator[LLM]:
    llm = shipped(3, "few")
    yield llm
    llm.close()


def held_out(llm: LLM, count: int) -> list[list[int]]:
    """Prompts that neither training nor corpus has seen: code and docstring questions by turns."""
    rng = np.random.default_rng(0)
    texts = [llm.encode(doc.text) for doc in documents(held_out=True)]
    texts = [ids for ids in texts if len(ids) > 200]
    asked = [pair for pair in questions(held_out=True) if "```" not in pair.answer]
    prompts: list[list[int]] = []
    for i in range(count // 2):
        ids = texts[i % len(texts)]
        start, length = int(rng.integers(0, len(ids) - 80)), int(rng.integers(32, 80))
        prompts.append(ids[start : start + length].tolist())
        question = asked[i * len(asked) // (count // 2)].question
        prompts.append(llm.encode_chat([{"role": "user", "content": question}]).tolist())
    return prompts


@pytest.fixture(scope="module")
def reference() -> Any:
    return AutoModelForCausalLM.from_pretrained(EMBEDDED / "target", dtype=torch.float32)


def test_the_shipped_model_says_what_transformers_says(small: LLM, reference: Any) -> None:
    prompts = held_out(small, 8)
    check_modes(small, prompts, [said_by(reference, prompt, 16) for prompt in prompts], 16)


def test_budgets_by_time_change_no_text(shipped: Callable[..., LLM], reference: Any) -> None:
    llm = shipped(3, "few", "auto")
    prompts = held_out(llm, 6)
    expected = [said_by(reference, prompt, 16) for prompt in prompts]
    for mode in SPECULATIONS:
        answers = llm.generate(prompts, params_of(mode, 16, temperature=0.0))
        for answer, (said, leads) in zip(answers, expected, strict=True):
            check_greedy(answer.outputs[0].token_ids, said, leads)
    check_draws(llm, prompts[:2], 24, (1, 32))
    llm.close()


@pytest.fixture(scope="module")
def many(small: LLM, reference: Any) -> tuple[list[list[int]], list[Said]]:
    """64 prompts with 32 tokens of transformers each, also where a text would have ended."""
    prompts = held_out(small, 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference.generation_config, "eos_token_id", None)
        expected = [said_by(reference, prompt, 32) for prompt in prompts]
    assert {len(said) for said, _ in expected} == {32}
    return prompts, expected


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("max_sequences", [1, 8])
def test_64_prompts_say_what_transformers_says(
    max_sequences: int, shipped: Callable[..., LLM], many: tuple[list[list[int]], list[Said]]
) -> None:
    llm = shipped(max_sequences, STDLIB_CORPUS)
    check_modes(llm, *many, 32, ignore_eos=True)
    llm.close()


def check_draws(llm: LLM, prompts: list[list[int]], tokens: int, budgets: tuple[int, ...]) -> None:
    """Seeded draws are the same for all modes and budgets."""

    def sample(mode: str, nodes: int | None) -> list[list[int]]:
        params = params_of(mode, tokens, temperature=0.8, top_p=0.95, seed=11, nodes=nodes)
        return [answer.outputs[0].token_ids for answer in llm.generate(prompts, params)]

    plain = sample("off", None)
    for mode in SPECULATIONS[1:]:
        for nodes in budgets:
            assert sample(mode, nodes) == plain, (mode, nodes)


def test_seeded_draws_do_not_depend_on_trees(small: LLM) -> None:
    check_draws(small, held_out(small, 2), 24, (1, 32))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_16_seeded_draws_do_not_depend_on_trees(shipped: Callable[..., LLM]) -> None:
    llm = shipped(8, STDLIB_CORPUS)
    check_draws(llm, held_out(llm, 16), 32, (1, 8, 48))
    llm.close()
