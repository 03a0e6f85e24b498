"""The packed decoder beside transformers' own forward, in float32."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import rasd.kv.few
import rasd.kv.plan
from rasd.errors import UnsupportedModel
from rasd.forward import Decoder, Linear, unsupported
from rasd.kv import LayerSpec, PagedCache
from rasd.stages import Work
from rasd.target.runner import Runner
from rasd.target.support import check_config
from tests.kv.models import VOCABULARY, build

NAMES = ("llama", "qwen2", "qwen3", "mistral", "qwen3-mixed")
CPU = torch.device("cpu")


def model_of(name: str, seed: int) -> PreTrainedModel:
    """A tiny model whose gains and biases matter."""
    model = build(name, "eager")
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data = parameter + 0.3 * torch.randn_like(parameter)
    return model.requires_grad_(False)


def cache_of(model: PreTrainedModel) -> PagedCache:
    heads, dim = model.config.num_key_value_heads, model.model.layers[0].self_attn.head_dim
    specs = [
        LayerSpec("sliding" if window else "full", heads, dim, dim, window)
        for window in check_config(model.config)
    ]
    return PagedCache(specs, 600, 4, torch.float32, CPU)


def random_tree(rng: np.random.Generator, nodes: int) -> np.ndarray:
    return np.asarray([-1, *(rng.integers(0, node) for node in range(1, nodes))], np.int32)


def path_to(parents: np.ndarray, node: int) -> list[int]:
    path = [node]
    while parents[path[-1]] >= 0:
        path.append(int(parents[path[-1]]))
    return path[::-1]


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_what_transformers_computes_of_its_path(
    name: str, kernel: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rasd.kv.few, "MOST_ROWS", 1000)
    if not kernel:
        monkeypatch.setattr(rasd.kv.plan, "takes", lambda *_: False)
    model = model_of(name, seed)
    plain, cache = deepcopy(model), cache_of(model)
    runner = Runner(Decoder(model, 256), cache, CPU)
    assert not model.model.layers
    rng = np.random.default_rng(seed)
    texts: dict[int, list[int]] = {sequence: [] for sequence in (3, 5, 9)}
    for sequence in texts:
        cache.open(sequence)
    for step in range(4):
        asked = [sequence for sequence in texts if step == 0 or rng.random() < 0.8] or [3]
        works = []
        for sequence in asked:
            nodes = int(rng.integers(1, 90 if step == 0 else 9))
            tokens = rng.integers(0, VOCABULARY, nodes).astype(np.int32)
            parents = np.arange(-1, nodes - 1) if step == 0 else random_tree(rng, nodes)
            works.append(Work(sequence, tokens, parents.astype(np.int32), 1, True))
        outputs = runner.forward(works)
        for work, logits, start in zip(works, outputs.logits, outputs.starts, strict=True):
            text = texts[work.sequence]
            for node in {0, len(work.tokens) - 1, int(rng.integers(len(work.tokens)))}:
                path = [*text, *work.tokens[path_to(work.parents, node)].tolist()]
                expected = plain(torch.tensor([path]), output_hidden_states=True)
                torch.testing.assert_close(
                    logits[node], expected.logits[0, -1], atol=1e-4, rtol=1e-5
                )
                hidden = expected.hidden_states[-1][0, -1]
                torch.testing.assert_close(
                    outputs.hidden[start + node], hidden, atol=1e-4, rtol=1e-5
                )
            kept = path_to(work.parents, len(work.tokens) - 1)
            text += work.tokens[kept].tolist()
            cache.commit(work.sequence, kept)


def test_only_the_rows_that_draw_get_logits(seed: int) -> None:
    model = model_of("llama", seed)
    cache = cache_of(model)
    decoder = Decoder(model, 256)
    cache.open(0)
    tokens = np.arange(6, dtype=np.int32)
    parents = np.arange(-1, 5, dtype=np.int32)
    runner = Runner(decoder, cache, CPU)
    outputs = runner.forward([Work(0, tokens, parents, 6, False)])
    assert outputs.logits[0].shape == (0, VOCABULARY)
    assert outputs.hidden.shape == (6, 32)
    cache.commit(0, [])
    every = runner.forward([Work(0, tokens, parents, 1, True)]).logits[0]
    cache.commit(0, [])
    last = runner.forward([Work(0, tokens, parents, 6, True)]).logits[0]
    torch.testing.assert_close(last, every[5:], atol=1e-5, rtol=1e-5)


def test_what_is_not_of_this_shape_is_refused() -> None:
    gpt2 = build("gpt2", "eager")
    assert "gpt2 models have no packed forward" in unsupported(gpt2)
    with pytest.raises(UnsupportedModel, match="gpt2 models"):
        Decoder(gpt2, 64)
    odd = build("llama", "eager")
    odd.config.hidden_act = "gelu"
    with pytest.raises(UnsupportedModel, match="activation gelu"):
        Decoder(odd, 64)
    more = build("llama", "eager")
    more.model.layers[1].self_attn.sink = torch.nn.Parameter(torch.zeros(4))
    with pytest.raises(UnsupportedModel, match=r"layer 1 has parameters .*self_attn\.sink"):
        Decoder(more, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [0, 1, 5, 70])
def test_a_product_is_that_of_its_weights(dtype: torch.dtype, rows: int, seed: int) -> None:
    torch.manual_seed(seed)
    parts = [torch.nn.Linear(48, out, dtype=dtype) for out in (8, 24)]
    x = torch.randn(rows, 48, dtype=dtype)
    expected = torch.cat([part(x) for part in parts], -1)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(
        Linear.of(*parts)(x).detach(), expected.detach(), atol=tolerance, rtol=tolerance
    )
