"""Rotary positions from a table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rasd.errors import UnsupportedModel


class Rope:
    """Angles of all positions a model may reach, as its own module computes them.

    Args:
        module: a transformers rotary embedding whose angles depend on positions alone.
        positions: how many; the table takes 2 * positions * dim numbers.
        like: a tensor of the model's dtype and device.
        dim: of a head; the angles must cover all of it.

    Raises:
        UnsupportedModel: only a part of each head is turned.
    """

    def __init__(self, module: Any, positions: int, like: Tensor, dim: int) -> None:
        at = torch.arange(positions, device=like.device)[None]
        cos, sin = (table[0, :, None] for table in module(like[:1, None], at))
        if cos.shape[-1] != dim:
            raise UnsupportedModel(f"rotary positions turn {cos.shape[-1]} of {dim} dimensions")
        self._cos = cos.clone()
        # The halves change places with one sign turned; the table carries the sign.
        self._sin = torch.cat((-sin[..., : dim // 2], sin[..., dim // 2 :]), -1)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines, [T, 1, dim] each, of positions int64[T]."""
        return self._cos.index_select(0, positions), self._sin.index_select(0, positions)


def turn(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[T, heads, dim], each row turned by its position."""
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), sin)
