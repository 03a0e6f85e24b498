"""The packed forward against the head's own module."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from rasd.config import DrafterConfig
from rasd.draft.runner import EagleRunner
from rasd.draft.weights import SharedWeights
from tests.draft.twin import VOCABULARY, WIDTH, World


def runner_of(world: World, **settings: object) -> EagleRunner:
    defaults = {"levels": 3, "top_k": 3, "nodes": 14, "kv_slots": 256, "page_size": 4}
    config = DrafterConfig.model_validate(defaults | settings)
    return EagleRunner(config, copy.deepcopy(world.head), world.shared)


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_rows_in_pieces_equal_the_module(seed: int) -> None:
    world = World.make(seed)
    runner = runner_of(world)
    tokens = torch.randint(VOCABULARY, (2, 30), generator=world.generator)
    features = torch.randn(2, 30, WIDTH, generator=world.generator)
    for sequence in range(2):
        runner.rows.open(sequence)
    done = 0
    for size in (1, 9, 2, 18):
        parts = slice(done, done + size)
        found = runner.extend([0, 1], [*tokens[:, parts].numpy()], [*features[:, parts]])
        done += size
    for sequence in range(2):
        positions = torch.arange(30)[None]
        embeds = world.shared.embedding[tokens[sequence]][None]
        expected = world.head(embeds, features[sequence][None], positions, DynamicCache())
        torch.testing.assert_close(found[sequence], expected[0, -1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_bfloat16_stays_near_float32() -> None:
    world = World.make(7)
    tokens = torch.randint(VOCABULARY, (12,), generator=world.generator).numpy()
    features = torch.randn(12, WIDTH, generator=world.generator)
    outputs = []
    for dtype in ("float32", "bfloat16"):
        runner = runner_of(world, dtype=dtype)
        runner.rows.open(0)
        outputs.append(runner.extend([0], [tokens], [features])[0].float())
    torch.testing.assert_close(*outputs, atol=0.1, rtol=0.1)


def test_weights_of_the_target_are_not_copied_where_the_types_agree() -> None:
    world = World.make(8)
    world.shared = SharedWeights(world.shared.embedding, world.shared.embedding)
    runner = runner_of(world)
    assert runner._head._embedding.data_ptr() == world.shared.embedding.data_ptr()


def test_a_sequence_in_scattered_pages_equals_one_in_a_row() -> None:
    world = World.make(9)
    tokens = torch.randint(VOCABULARY, (24,), generator=world.generator).numpy()
    features = torch.randn(24, WIDTH, generator=world.generator)
    outputs = []
    for scattered in (False, True):
        runner = runner_of(world, kv_slots=64)
        runner.rows.open(0)
        for start in range(0, 24, 4):
            part = slice(start, start + 4)
            outputs.append(runner.extend([0], [tokens[part]], [features[part]])[0])
            if scattered:  # takes the page behind
                runner.rows.open(start + 1)
                runner.rows.reserve(start + 1, 1)
                runner.rows.keep(start + 1, 1)
        runner.rows.check_integrity()
    for one, other in zip(outputs[:6], outputs[6:], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    slots = runner.rows.reserve(0, 0)
    assert (np.diff(slots) != 1).any()
