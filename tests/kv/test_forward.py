"""Tree forwards over paged context against the plain forward of every root-to-leaf path."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch

from rasd.kv import ATTENTION, Append, LayerSpec, PagedCache
from rasd.kv.view import batched_view
from rasd.tree import path_to
from tests.kv.models import VOCABULARY, build, config_of

NAMES = ["llama", "qwen3", "qwen3-mixed", "mistral", "gpt2"]


def specs_of(name: str) -> list[LayerSpec]:
    config = config_of(name)
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    if name == "mistral":
        kinds = ["sliding_attention"] * config.num_hidden_layers
    return [
        LayerSpec("sliding", heads, dim, dim, config.sliding_window)
        if kind == "sliding_attention"
        else LayerSpec("full", heads, dim, dim)
        for kind in kinds
    ]


def random_parents(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.asarray([int(rng.integers(-1, i)) if i else -1 for i in range(count)], np.int32)


class Twin:
    """Plain forwards of whole sequences, one by one."""

    def __init__(self, name: str) -> None:
        self.model = build(name, "sdpa")

    def logits(self, text: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return self.model(torch.tensor([text]), use_cache=False).logits[0]


def forward(
    model: torch.nn.Module, cache: PagedCache, items: list[Append], tokens: list[list[int]]
):
    plan = cache.plan(items)
    with torch.inference_mode():
        return model(
            torch.tensor([list(chain.from_iterable(tokens))]),
            position_ids=plan.position_ids,
            past_key_values=cache,
            use_cache=True,
            rasd_plan=plan,
        ).logits[0]


@pytest.fixture(params=["one by one", "batched"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Attention item by item as on a CPU, and in batches as on accelerators."""
    if request.param == "batched":
        monkeypatch.setattr("rasd.kv.plan.make_view", batched_view)
    return str(request.param)


@pytest.mark.parametrize("name", NAMES)
def test_every_path_of_every_tree_equals_its_plain_forward(name: str, way: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    twin, model = Twin(name), build(name, ATTENTION)
    cache = PagedCache(specs_of(name), 512, 4, torch.float32, "cpu")
    texts: dict[int, list[int]] = {}
    for step in range(8):
        if step in (0, 1, 3):
            cache.open(step)
            texts[step] = []
        if step == 6:
            cache.close(1)
            del texts[1]
        items, tokens = [], []
        for sequence, text in texts.items():
            chunk = step == 0 or not text
            count = int(rng.integers(1, 14)) + 17 * (chunk and sequence == 0)
            parents = np.arange(-1, count - 1, dtype=np.int32)
            if not chunk:
                parents = random_parents(rng, count)
            items.append(Append(sequence, parents))
            tokens.append(rng.integers(0, VOCABULARY, count).tolist())
        logits = forward(model, cache, items, tokens)
        start = 0
        for item, new in zip(items, tokens, strict=True):
            text = texts[item.sequence]
            for node in range(len(new)):
                path = path_to(item.parents, node)
                expected = twin.logits(text + [new[i] for i in path])[-1]
                torch.testing.assert_close(logits[start + node], expected, atol=2e-4, rtol=1e-4)
            start += len(new)
            leaf = int(rng.integers(len(new))) if text else len(new) - 1
            kept = path_to(item.parents, leaf)
            if rng.random() < 0.2 and text:
                kept = []
            cache.commit(item.sequence, kept)
            text += [new[i] for i in kept]
            assert cache.length(item.sequence) == len(text)
        cache.check_integrity()
    assert max(map(len, texts.values())) > 16 or name != "mistral"


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_a_tree_grown_level_by_level_equals_plain_forwards(name: str, way: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    twin, model = Twin(name), build(name, ATTENTION)
    cache = PagedCache(specs_of(name), 512, 4, torch.float32, "cpu")
    texts = {
        7: rng.integers(0, VOCABULARY, 21).tolist(),
        9: rng.integers(0, VOCABULARY, 6).tolist(),
    }
    for sequence, text in texts.items():
        cache.open(sequence)
        forward(model, cache, [Append(sequence, np.arange(-1, len(text) - 1))], [text])
        cache.commit(sequence, list(range(len(text))))
    parents: dict[int, list[int]] = {7: [], 9: []}
    nodes: dict[int, list[int]] = {7: [], 9: []}
    for _level in range(4):
        items, tokens = [], []
        for sequence in texts:
            new = rng.integers(-1, max(len(nodes[sequence]), 1), 3)
            new[new >= len(nodes[sequence])] = -1
            parents[sequence] += new.tolist()
            items.append(Append(sequence, new.astype(np.int32)))
            tokens.append(rng.integers(0, VOCABULARY, 3).tolist())
            nodes[sequence] += tokens[-1]
        logits = forward(model, cache, items, tokens)
        for row, item in enumerate(items):
            drawn, above = nodes[item.sequence], np.asarray(parents[item.sequence])
            for j in range(3):
                path = path_to(above, len(drawn) - 3 + j)
                text = texts[item.sequence] + [drawn[i] for i in path]
                expected = twin.logits(text)[-1]
                torch.testing.assert_close(logits[3 * row + j], expected, atol=2e-4, rtol=1e-4)
    for sequence in texts:
        cache.commit(sequence, [])
        assert cache.length(sequence) == len(texts[sequence])
    cache.check_integrity()
