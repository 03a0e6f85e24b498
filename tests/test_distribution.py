"""The whole loop, bonus tokens included, draws from the target's distribution."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rasd.config import EngineConfig, RetrievalConfig, SpeculationConfig, TargetConfig
from rasd.engine.api import EngineSettings, Request
from rasd.engine.engine import Engine
from rasd.params import SamplingParams
from rasd.retrieval import PromptRetriever
from rasd.sampling import filter_logits
from rasd.stages import DraftReply, DraftRequest, Ready
from rasd.target import LocalTarget
from rasd.tree import CORPUS, DRAFT, Draft, fuse
from rasd.trie import build_trie, score_continuations
from tests.stats import chi_square_excess
from tests.test_verify import eager_walk

VOCABULARY = 8
LENGTH = 3
COUNT = 3000
PROMPT = np.array([1, 2, 3, 1, 2], np.int32)
SETTINGS = EngineSettings(
    EngineConfig(max_sequences=64),
    SpeculationConfig(prune_top_k=3, nodes=9, budget="fixed"),
    RetrievalConfig(suffix_min=1),
)


class Guesser:
    """Drafts fused trees at random: likely and unlikely tokens, several branches, any depth."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def propose(self, request: DraftRequest) -> Ready[DraftReply]:
        drafts = [self._draft(int(query.tokens[-1])) for query in request.queries]
        return Ready(DraftReply(request.step, drafts))

    def _draft(self, root: int) -> Draft:
        trees = []
        for source in (DRAFT, CORPUS):
            paths = self._rng.integers(0, VOCABULARY, (3, 3)).tolist()
            trees.append(score_continuations(build_trie(paths, 2), root, source))
        every = np.arange(VOCABULARY, dtype=np.int32)[None]
        flat = np.full((1, VOCABULARY), -np.log(VOCABULARY), np.float32)
        return Draft(fuse(*trees), np.zeros(1, np.int32), every, flat)

    def close(self) -> None:
        """Nothing to free."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.5,
    )
    path = tmp_path_factory.mktemp("tiny") / "model"
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def sample(model: Path, params: SamplingParams) -> tuple[np.ndarray[Any, Any], int]:
    """Counts of every continuation over COUNT seeds, and how many nodes were accepted."""
    config = TargetConfig(model=str(model), dtype="float32", threads=1, kv_slots=4096, page_size=8)
    engine = Engine(
        LocalTarget.load(config),
        SETTINGS,
        drafter=Guesser(),
        prompt=PromptRetriever(SETTINGS.retrieval),
    )
    for seed in range(COUNT):
        engine.add(Request(seed, PROMPT, replace(params, seed=seed, corpora=())))
    said: dict[int, list[int]] = {seed: [] for seed in range(COUNT)}
    accepted = 0
    while engine.has_work:
        for output in engine.step():
            said[output.sequence] += output.tokens
            if output.finish is not None:
                accepted += output.statistics.accepted_nodes
    counts = np.zeros((VOCABULARY,) * LENGTH, np.int64)
    for tokens in said.values():
        counts[tuple(tokens)] += 1
    return counts, accepted


def exact(model: Path, params: SamplingParams) -> np.ndarray[Any, Any]:
    """Probability of every continuation, by the chain rule, from transformers itself."""
    loaded = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    shape = (VOCABULARY,) * LENGTH
    endings = np.array(list(np.ndindex(*shape)))
    text = np.concatenate([np.tile(PROMPT, (len(endings), 1)), endings], axis=1)
    with torch.inference_mode():
        logits = loaded(torch.from_numpy(text)).logits
    chances = np.ones(len(endings))
    for i in range(LENGTH):
        for row, ending in enumerate(endings):
            ids, kept = filter_logits(logits[row, len(PROMPT) - 1 + i], params)
            share = dict(zip(ids.tolist(), torch.softmax(kept, -1).tolist(), strict=True))
            chances[row] *= share.get(int(ending[i]), 0.0)
    return chances.reshape(shape)


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_speculation_keeps_the_distribution(model: Path, top_p: float) -> None:
    params = SamplingParams(max_tokens=LENGTH, top_p=top_p, ignore_eos=True)
    (seen, accepted), expected = sample(model, params), exact(model, params)
    inside = expected > 0
    assert accepted > COUNT / 4
    assert not seen[~inside].any()
    assert chi_square_excess(seen[inside], expected[inside] * COUNT) < 3.3


def test_a_biased_verification_is_found_out(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def biased(logits: Any, work: Any, draws: Any) -> Any:
        if work.decided > 1:  # the prompt: nothing is proposed behind it
            return eager_walk(logits, replace(work, tokens=work.tokens[-1:]), draws)
        return eager_walk(logits, work, draws)

    monkeypatch.setattr("rasd.target.target.walk", biased)
    params = SamplingParams(max_tokens=LENGTH, ignore_eos=True)
    (seen, _), expected = sample(model, params), exact(model, params)
    assert chi_square_excess(seen.ravel(), expected.ravel() * COUNT) > 10
