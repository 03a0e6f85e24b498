"""Products in every layout beside plain ones."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from rasd.forward.gemm import multiplies_bf16
from rasd.forward.linear import Linear, Panels, new_rows
from rasd.forward.tiles import BLOCK, TILE

ROWS = [0, 1, 2, 3, TILE - 1, TILE, TILE + 1, 2 * TILE + 1, BLOCK, BLOCK + 1]
needs_bf16 = pytest.mark.skipif(not multiplies_bf16(), reason="the CPU has no avx512_bf16")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("outputs", "inputs"), [(96, 64), (70, 64), (33, 40)])
@pytest.mark.parametrize("biased", [False, True])
def test_products_are_those_of_plain_weights(
    dtype: torch.dtype, outputs: int, inputs: int, biased: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(outputs, inputs).to(dtype)
    bias = torch.randn(outputs).to(dtype) if biased else None
    linear = Linear(weight, bias)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-4
    for rows in ROWS:
        x = torch.randn(rows, inputs).to(dtype)
        exact = functional.linear(
            x.double(), weight.double(), None if bias is None else bias.double()
        )
        torch.testing.assert_close(linear(x).double(), exact, atol=tolerance, rtol=tolerance)


@needs_bf16
def test_a_row_does_not_depend_on_the_rows_beside_it(seed: int) -> None:
    torch.manual_seed(seed)
    linear = Linear(torch.randn(64, 96).bfloat16())
    x = torch.randn(BLOCK + 9, 96).bfloat16()
    alone = torch.cat([linear(x[row : row + 1]) for row in range(len(x))])
    assert (linear(x) == alone).all()
    assert (linear(x[3:8]) == alone[3:8]).all()


@needs_bf16
def test_rows_may_lie_apart(seed: int) -> None:
    torch.manual_seed(seed)
    wide = torch.randn(5, 160).bfloat16()
    linear = Linear(torch.randn(32, 64).bfloat16())
    assert (linear(wide[:, 32:96]) == linear(wide[:, 32:96].contiguous())).all()
    turned = torch.randn(64, 5).bfloat16().T
    assert (linear(turned) == linear(turned.contiguous())).all()


def test_what_the_kernel_does_not_take() -> None:
    assert not Panels.take(torch.zeros(32, 40, dtype=torch.bfloat16))
    assert not Panels.take(torch.zeros(32, 64))
    assert not Panels.take(torch.zeros(32, 64, dtype=torch.bfloat16, device="meta"))


def test_rows_that_would_share_lines_lie_apart() -> None:
    like = torch.zeros(1, dtype=torch.bfloat16)
    assert new_rows(like, 3, 1024).stride(0) > 1024
    assert new_rows(like, 3, 768).stride(0) == 768
