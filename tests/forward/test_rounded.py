"""Products in 8 bits beside exact ones."""

from __future__ import annotations

import pytest
import torch

from rasd.forward.rounded import Rounded
from rasd.forward.tiles import BLOCK, TILE

pytestmark = pytest.mark.skipif(
    not Rounded.serves(torch.device("cpu")), reason="the CPU has no avx512_vnni"
)


def slow(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The same rounding, by torch."""
    scales = weight.abs().amax(1).clamp_min(1e-12) / 127
    rounded = (weight / scales[:, None]).round()
    row_scales = x.abs().amax(1, keepdim=True).clamp_min(1e-30) / 127
    return (x / row_scales).round() @ rounded.T * scales * row_scales


@pytest.mark.parametrize(("outputs", "inputs"), [(96, 64), (70, 128), (33, 40), (5, 260)])
@pytest.mark.parametrize("biased", [False, True])
def test_products_of_rounded_numbers_are_exact(
    outputs: int, inputs: int, biased: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs) if biased else None
    product = Rounded(weight, bias)
    for rows in (0, 1, 3, TILE, TILE + 1, BLOCK, BLOCK + 1):
        x = torch.randn(rows, inputs) * 10.0 ** torch.randint(-3, 4, (rows, 1))
        expected = slow(weight, x) + (0.0 if bias is None else bias)
        # Where a number lies in the middle of two steps, either is right.
        step = x.abs().amax(1, keepdim=True) / 127 * weight.abs().max()
        assert ((product(x) - expected).abs() <= 2 * step + 1e-4).all()
        close = torch.isclose(product(x), expected, rtol=1e-4, atol=1e-4)
        assert close.float().mean() > 0.9 if rows else True


def test_eight_bits_stay_near_the_product(seed: int) -> None:
    torch.manual_seed(seed)
    weight, bias, x = torch.randn(40, 64), torch.randn(40), torch.randn(5, 64)
    weight[3] = 0  # a row without a scale of its own
    for given in (None, bias):
        expected = torch.nn.functional.linear(x, weight, given)
        error = (Rounded(weight, given)(x) - expected).norm() / expected.norm()
        assert error < 0.02


def test_what_is_not_finite_stays_visible() -> None:
    product = Rounded(torch.ones(32, 64))
    x = torch.ones(4, 64)
    x[1, 3], x[2, 0], x[3] = torch.inf, torch.nan, 0.0
    out = product(x)
    assert out[0].isfinite().all() and (out[3] == 0).all()
    assert out[1].isnan().all() and out[2].isnan().all()


def test_rows_may_lie_apart(seed: int) -> None:
    torch.manual_seed(seed)
    wide = torch.randn(5, 200)
    product = Rounded(torch.randn(32, 64))
    assert (product(wide[:, 7:71]) == product(wide[:, 7:71].contiguous())).all()
