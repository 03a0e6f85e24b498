"""The head's program beside its parts one by one: the same kernels, so the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import rasd.draft.fused
from rasd.config import DrafterConfig
from rasd.draft.expand import Candidates
from rasd.draft.runner import EagleRunner
from rasd.draft.weights import SharedWeights
from rasd.forward.rounded import Rounded
from tests.draft.twin import VOCABULARY, tiny_head

WIDTH = 64
pytestmark = pytest.mark.skipif(
    not Rounded.serves(torch.device("cpu")), reason="the CPU has no avx512_vnni"
)


def runner_of(seed: int, *, bias: bool) -> EagleRunner:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    head = tiny_head(generator, width=WIDTH, units=128, bias=bias)
    shared = SharedWeights(
        torch.randn(VOCABULARY, WIDTH).bfloat16(), torch.randn(VOCABULARY, WIDTH).bfloat16() * 0.3
    )
    settings = DrafterConfig.model_validate(
        {"levels": 4, "top_k": 4, "nodes": 20, "kv_slots": 512, "page_size": 4}
    )
    return EagleRunner(settings, head.bfloat16(), shared)


class Seen:
    """The program, and how often it ran and refused."""

    def __init__(self, fused: Any) -> None:
        self.fused = fused
        self.ran = self.refused = 0

    def __call__(self, *args: Any) -> Any:
        done = self.fused(*args)
        self.ran += done is not None
        self.refused += done is None
        return done


def play(runner: EagleRunner, seed: int) -> list[tuple[list[torch.Tensor], Candidates]]:
    """Three sequences that catch up by some rows and draft, again and again."""
    rng = np.random.default_rng(seed)
    for sequence in range(3):
        runner.rows.open(sequence)
    found = []
    for _ in range(4):
        asked = sorted(rng.choice(3, int(rng.integers(1, 4)), replace=False).tolist())
        sizes = [int(rng.integers(1, 9)) for _ in asked]
        tokens = [rng.integers(0, VOCABULARY, size) for size in sizes]
        features = [torch.from_numpy(rng.standard_normal((n, WIDTH), np.float32)) for n in sizes]
        outputs = runner.extend(asked, tokens, features)
        nodes = np.full(len(asked), 12)
        found.append((outputs, runner.grow(asked, outputs, nodes, 4, 0.0)))
    for sequence in range(3):
        runner.rows.close(sequence)
    return found


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_bit_by_bit(bias: bool, threads: int, seed: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runner = runner_of(seed, bias=bias)
        head: Any = runner._head
        seen = head._fused = Seen(head._fused)
        one = play(runner, seed)
        assert seen.ran >= 12 and seen.refused == 0
        head._fused = None
        other = play(runner, seed)
    finally:
        torch.set_num_threads(before)
    for (outputs, mine), (others, its) in zip(one, other, strict=True):
        for output, expected in zip(outputs, others, strict=True):
            assert (output == expected).all()
        for name in ("owners", "above", "tokens", "scores"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(its, name))
        np.testing.assert_array_equal(mine.top.ids, its.top.ids)
        np.testing.assert_array_equal(mine.top.logprobs, its.top.logprobs)


def test_what_does_not_fit_goes_part_by_part(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(seed)
    monkeypatch.setattr(rasd.draft.fused, "MOST_ROWS", 4)
    runner = runner_of(seed, bias=True)
    head: Any = runner._head
    seen = head._fused = Seen(head._fused)
    runner.rows.open(0)
    for rows, counts in ((4, (1, 0)), (5, (1, 1)), (1, (2, 1))):
        runner.extend([0], [np.arange(rows)], [torch.randn(rows, WIDTH)])
        assert (seen.ran, seen.refused) == counts


def test_runners_take_turns(seed: int) -> None:
    """Each has its own buffers."""
    one, other = runner_of(seed, bias=True), runner_of(seed + 1, bias=True)
    alone = [output.clone() for outputs, _ in play(one, seed) for output in outputs]
    play(other, seed)
    again = [output for outputs, _ in play(one, seed) for output in outputs]
    assert all((a == b).all() for a, b in zip(alone, again, strict=True))
