"""The memory of the cache: keys and values of all layers. Knows slots, not who they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rasd.kv.view import Int64s


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What one layer stores per token.

    ``window`` is the number of newest positions a sliding layer sees, its own included. All are
    kept nevertheless.
    """

    kind: Literal["full", "sliding", "latent"]
    kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None


class Stores:
    """One tensor [n, heads, slots, dim] per shape, so that a commit moves all its layers.

    Slots lie next to each other within a head: a context is read as one stream.

    Attributes:
        views: per layer its keys and its values, [1, heads, slots, dim].
    """

    def __init__(
        self, specs: Sequence[LayerSpec], slots: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._device = device
        shapes: dict[tuple[int, int], int] = {}
        rows: list[list[tuple[tuple[int, int], int]]] = []
        for spec in specs:
            rows.append([])
            for shape in ((spec.kv_heads, spec.key_dim), (spec.kv_heads, spec.value_dim)):
                rows[-1].append((shape, shapes.get(shape, 0)))
                shapes[shape] = shapes.get(shape, 0) + 1
        stores = {
            (heads, dim): torch.zeros((count, heads, slots, dim), dtype=dtype, device=device)
            for (heads, dim), count in shapes.items()
        }
        self._stores = list(stores.values())
        self.views: list[tuple[Tensor, Tensor]] = []
        for (key_shape, key_row), (value_shape, value_row) in rows:
            key, value = stores[key_shape][key_row], stores[value_shape][value_row]
            self.views.append((key[None], value[None]))

    def move(self, sources: Int64s, targets: Int64s) -> None:
        """Copies a few rows, from slots to slots; a target may be another one's source."""
        if len(sources) == 0:
            return
        source = torch.from_numpy(sources).to(self._device)
        target = torch.from_numpy(targets).to(self._device)
        for store in self._stores:
            store.index_copy_(2, target, store.index_select(2, source))

    def copy(self, sources: Sequence[slice], targets: Sequence[slice]) -> None:
        """Copies many rows, as `move` does; three times as fast where stretches are long.

        Args:
            targets: together as many slots as ``sources``, cut anywhere.
        """
        lengths = [target.stop - target.start for target in targets]
        for store in self._stores:
            for layer in store:  # so that what is held meanwhile is small
                rows = torch.cat([layer[:, source] for source in sources], dim=1)
                for target, part in zip(targets, torch.split(rows, lengths, dim=1), strict=True):
                    layer[:, target] = part
