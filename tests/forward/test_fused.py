"""The layers as one program beside the layers one by one: the same kernels, so the same bits."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

import rasd.forward.fused
from rasd.forward import Decoder
from rasd.forward.gemm import multiplies_bf16
from rasd.kv import LayerSpec, PagedCache
from rasd.stages import Work
from rasd.target.runner import Outputs, Runner
from rasd.target.support import check_config
from tests.forward.test_decoder import model_of, random_tree
from tests.kv.models import VOCABULARY

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not multiplies_bf16(), reason="there are no kernels for this CPU")


def decoder_of(name: str, seed: int) -> tuple[Decoder, list[LayerSpec]]:
    model = model_of(name, seed).bfloat16()
    heads, dim = model.config.num_key_value_heads, model.model.layers[0].self_attn.head_dim
    windows = check_config(model.config)
    specs = [LayerSpec("sliding" if w else "full", heads, dim, dim, w) for w in windows]
    return Decoder(model, 256), specs


def work(rng: np.random.Generator, sequence: int, nodes: int, decided: int = 1) -> Work:
    tokens = rng.integers(0, VOCABULARY, nodes).astype(np.int32)
    return Work(sequence, tokens, random_tree(rng, nodes), decided, True)


class Seen:
    """The program, and whether it ran."""

    def __init__(self, fused: Any) -> None:
        self.fused = fused
        self.ran = False

    def __call__(self, *args: Any, **named: Any) -> Any:
        done = self.fused(*args, **named)
        self.ran = done is not None
        return done


def alone(
    decoder: Decoder, runner: Runner, cache: PagedCache, works: list[Work], *, runs: bool = True
) -> list[Outputs]:
    """By the program, and then by the layers; the cache stays as it was.

    Args:
        runs: whether the program must take it.
    """
    fused, found = Seen(decoder._fused), []
    for each in (fused, None):
        decoder._fused = each
        found.append(runner.forward(works))
        cache.commit_all({one.sequence: [] for one in works})
    decoder._fused = fused.fused
    assert fused.ran == runs
    return found


def assert_same(found: list[Outputs]) -> None:
    one, other = found
    assert one.attended == other.attended
    assert (one.hidden == other.hidden).all()
    for mine, its in zip(one.logits, other.logits, strict=True):
        assert mine.shape == its.shape
        assert (mine == its).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral"])
def test_bit_by_bit(name: str, threads: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    decoder, specs = decoder_of(name, seed)
    assert decoder._fused is not None
    cache = PagedCache(specs, 600, 4, torch.bfloat16, CPU)
    runner = Runner(decoder, cache, CPU)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for sequence in range(3):
            cache.open(sequence)
        for _ in range(6):
            works = [
                work(rng, sequence, int(rng.integers(1, 20)), int(rng.integers(1, 3)))
                for sequence in range(3)
            ]
            works = [w if len(w.tokens) >= w.decided else work(rng, w.sequence, 2) for w in works]
            assert_same(alone(decoder, runner, cache, works))
            runner.forward(works)
            cache.commit_all({one.sequence: [0] for one in works})
    finally:
        torch.set_num_threads(before)


def test_what_does_not_fit_goes_layer_by_layer(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    decoder, specs = decoder_of("llama", seed)
    cache = PagedCache(specs, 600, 4, torch.bfloat16, CPU)
    runner = Runner(decoder, cache, CPU)
    cache.open(0)
    monkeypatch.setattr(rasd.forward.fused, "MOST_ROWS", 9)
    for nodes in (8, 9, 10, 30):
        assert_same(alone(decoder, runner, cache, [work(rng, 0, nodes)], runs=nodes <= 9))


def test_caches_take_turns_and_are_not_kept(seed: int) -> None:
    rng = np.random.default_rng(seed)
    decoder, specs = decoder_of("llama", seed)
    caches = [PagedCache(specs, 64, 4, torch.bfloat16, CPU) for _ in range(2)]
    for cache in caches:
        cache.open(0)
    for cache in caches * 2:
        works = [work(rng, 0, 5)]
        assert_same(alone(decoder, Runner(decoder, cache, CPU), cache, works))
    gone = weakref.ref(caches.pop())
    del cache
    gc.collect()
    assert gone() is None


def test_models_with_parts_of_their_own_have_no_program(seed: int) -> None:
    assert decoder_of("qwen3", seed)[0]._fused is None
    assert Decoder(model_of("llama", seed), 256)._fused is None  # float32
