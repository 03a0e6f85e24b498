"""What attention refuses, because it would change the text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rasd.errors import UnsupportedModel
from rasd.kv import Append, LayerSpec, PagedCache
from rasd.kv.attention import tree_attention
from rasd.kv.plan import Plan


def step(window: int | None = None) -> tuple[Plan, torch.Tensor, torch.Tensor, torch.Tensor]:
    spec = LayerSpec("sliding" if window else "full", 1, 4, 4, window)
    cache = PagedCache([spec], 32, 4, torch.float32, "cpu")
    cache.open(0)
    plan = cache.plan([Append(0, np.asarray([-1, 0], np.int32))])
    key, value = cache.update(torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4), 0)
    return plan, torch.ones(1, 2, 2, 4), key, value


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias", "head_mask"])
def test_arguments_that_change_the_result_are_refused_by_name(name: str) -> None:
    plan, query, key, value = step()
    with pytest.raises(UnsupportedModel, match=name):
        tree_attention(nn.Module(), query, key, value, None, rasd_plan=plan, **{name: 1.0})
    tree_attention(nn.Module(), query, key, value, None, rasd_plan=plan, **{name: None})


def test_masks_dropout_and_encoders_are_refused() -> None:
    plan, query, key, value = step()
    module = nn.Module()
    with pytest.raises(UnsupportedModel, match="attention_mask"):
        tree_attention(module, query, key, value, torch.zeros(1), rasd_plan=plan)
    with pytest.raises(UnsupportedModel, match="dropout"):
        tree_attention(module, query, key, value, None, dropout=0.1, rasd_plan=plan)
    with pytest.raises(UnsupportedModel, match="not causal"):
        tree_attention(module, query, key, value, None, is_causal=False, rasd_plan=plan)
    with pytest.raises(UnsupportedModel, match="keyword"):
        tree_attention(module, query, key, value, None)


def test_a_layer_must_store_before_it_attends_and_say_the_window_of_its_spec() -> None:
    plan, query, key, value = step(window=8)
    with pytest.raises(UnsupportedModel, match="slides over 16 positions, its cache over 8"):
        tree_attention(nn.Module(), query, key, value, None, sliding_window=16, rasd_plan=plan)
    with pytest.raises(UnsupportedModel, match="did not store"):
        tree_attention(nn.Module(), query, key, value, None, rasd_plan=plan)
