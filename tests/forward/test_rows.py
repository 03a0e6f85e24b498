"""Norms and gates by the kernels beside torch's."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from rasd.forward.rows import Gate, Norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_norms_and_sums_are_those_of_the_module(dtype: torch.dtype, rows: int, seed: int) -> None:
    torch.manual_seed(seed)
    module = LlamaRMSNorm(40, eps=1e-5).to(dtype)
    module.weight.data.normal_()
    x, added = torch.randn(2, rows, 40).to(dtype)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    norm = Norm(module)
    torch.testing.assert_close(norm(x), module(x).detach(), atol=tolerance, rtol=tolerance)
    total, normed = norm.after(x, added)
    assert (total == x + added).all()
    torch.testing.assert_close(normed, module(x + added).detach(), atol=tolerance, rtol=tolerance)


def test_a_layer_without_a_norm_keeps_its_input() -> None:
    x = torch.randn(3, 8)
    norm = Norm(torch.nn.Identity())
    assert norm(x) is x
    total, normed = norm.after(x, x)
    assert (total == 2 * x).all()
    assert (normed == total).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_gates_are_silu_times_states(dtype: torch.dtype, rows: int, seed: int) -> None:
    torch.manual_seed(seed)
    states = 30 * torch.randn(rows, 2 * 1024).to(dtype)
    gate, up = states.chunk(2, -1)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    found = Gate(states)(states)
    torch.testing.assert_close(
        found, torch.nn.functional.silu(gate) * up, atol=tolerance, rtol=tolerance
    )
