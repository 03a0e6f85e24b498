"""A step as tables of fixed size: what attention on a GPU reads, and a captured graph replays.

The tables of a step are filled in place, so that whoever holds them, a graph above all, sees the
next step without being told. Rows and items beyond those of a step repeat its last ones: they
compute the same numbers and store them at the same slots, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor

from rasd.errors import UnsupportedModel
from rasd.kv.plan import Plan
from rasd.kv.view import Item

MASK_BITS: Final = 63
"""Nodes per word of a mask: the sign of an int64 is left alone."""

PROGRAMS: Final = 264
"""Programs that keep a GPU of 132 multiprocessors busy."""


@dataclass(slots=True)
class PagedView:
    """What rows see, in tables on the device.

    Attributes:
        starts: int32[B + 1], where each item's rows begin.
        committed, lengths: int32[B], slots before an item's first node, and with its nodes.
        pages: int32[B, P], an item's pages in order.
        masks: int64[T, W], bit ``j % MASK_BITS`` of word ``j // MASK_BITS`` of a row is set where
            it sees node j of its item.
        most_rows: of one item.
    """

    starts: Tensor
    committed: Tensor
    lengths: Tensor
    pages: Tensor
    masks: Tensor
    most_rows: int
    page_size: int

    @property
    def items(self) -> int:
        """How many, padding included."""
        return len(self.lengths)

    def shares(self, key_heads: int) -> int:
        """Into how many parts a context is cut, so that few sequences fill a GPU, too."""
        wanted = PROGRAMS // max(self.items * key_heads, 1)
        return min(max(1 << wanted.bit_length() - 1 if wanted else 1, 1), 64)


@dataclass(slots=True)
class PagedPlan:
    """A `Plan` whose contents change from step to step while its tensors stay.

    Attributes:
        position_ids: int64[1, T]; slots: int64[T], where the rows go.
        attended: layers whose attention ran, in order.
        waiting: as `Plan`.
    """

    view: PagedView
    position_ids: Tensor
    slots: Tensor
    attended: list[int] = field(default_factory=list)
    waiting: int | None = None

    @classmethod
    def empty(
        cls, rows: int, items: int, most_rows: int, pages: int, page_size: int, device: torch.device
    ) -> PagedPlan:
        """Tables for ``rows`` rows of ``items`` items, each with at most ``pages`` pages."""

        def zeros(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        words = -(-most_rows // MASK_BITS)
        view = PagedView(
            zeros(items + 1),
            zeros(items),
            zeros(items),
            zeros(items, pages),
            zeros(rows, words, dtype=torch.int64),
            most_rows,
            page_size,
        )
        return cls(view, zeros(1, rows, dtype=torch.int64), zeros(rows, dtype=torch.int64))

    def fill(self, items: Sequence[Item]) -> None:
        """Takes over a step, whose items have no nodes beside their own rows.

        It has fewer items than there are: the next one takes the rows that are left over, which
        are then at most ``most_rows``.
        """
        view, rows, count = self.view, self.slots.shape[0], len(items)
        starts = np.full(view.items + 1, rows, np.int32)
        starts[: count + 1] = [*(item.start for item in items), items[-1].stop]
        numbers = np.zeros((2, view.items), np.int32)
        pages = np.zeros((view.items, view.pages.shape[1]), np.int32)
        masks = np.zeros((rows, view.masks.shape[1]), np.int64)
        positions, slots = np.empty(rows, np.int64), np.empty(rows, np.int64)
        for place, item in enumerate(items):
            own = slice(item.start, item.stop)
            numbers[:, place] = item.committed, len(item.slots)
            first = item.slots[:: view.page_size] // view.page_size
            pages[place, : len(first)] = first
            masks[own] = _words(item, view.masks.shape[1])
            positions[own] = item.positions
            slots[own] = item.slots[item.committed :]
        for table in (masks, positions, slots):
            table[items[-1].stop :] = table[items[-1].stop - 1]
        numbers[:, count:], pages[count:] = numbers[:, count - 1 : count], pages[count - 1]
        sources = (starts, *numbers, pages, masks, positions[None], slots)
        targets = (view.starts, view.committed, view.lengths, view.pages, view.masks)
        for target, source in zip((*targets, self.position_ids, self.slots), sources, strict=True):
            target.copy_(torch.from_numpy(source), non_blocking=True)

    def few(self, *shape: object) -> None:
        """As `Plan.few`: that kernel is a CPU's."""

    def attend(self, sliding_window: int | None, groups: int) -> PagedView:
        """As `Plan.attend`; the same for all layers."""
        if self.waiting is None:
            raise UnsupportedModel("a layer attends to keys that it did not store in the cache")
        if sliding_window is not None:
            raise UnsupportedModel("tables of fixed size have no sliding windows")
        self.attended.append(self.waiting)
        self.waiting = None
        return self.view


class Store:
    """Takes a step's keys and values to where its plan says; stands in for the cache.

    Args:
        states: `PagedCache.states`.
    """

    def __init__(
        self, states: Callable[[int], tuple[Tensor, Tensor]], plan: PagedPlan | Plan
    ) -> None:
        self._states, self._plan = states, plan

    def states(self, layer: int) -> tuple[Tensor, Tensor]:
        """As `PagedCache.states`."""
        return self._states(layer)

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """As `PagedCache.update`."""
        stores, slots = self._states(layer), self._plan.slots
        for store, new in zip(stores, (keys, values), strict=True):
            if isinstance(slots, slice):
                store[:, :, slots] = new
            else:
                store.index_copy_(2, slots, new)
        self._plan.waiting = layer
        return stores


def _words(item: Item, words: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """int64[rows, words]: an item's ancestors as bits."""
    nodes = item.ancestors.shape[1]
    bits = np.zeros((len(item.ancestors), words * MASK_BITS), np.int64)
    bits[:, :nodes] = item.ancestors
    weights = np.left_shift(np.int64(1), np.arange(MASK_BITS, dtype=np.int64))
    return np.asarray((bits.reshape(-1, words, MASK_BITS) * weights).sum(2), np.int64)


def attend_paged(
    query: Tensor, key: Tensor, value: Tensor, view: PagedView, scaling: float | None
) -> Tensor:
    """As `rasd.kv.attention.attend`, by the kernel, which needs Triton."""
    from rasd.kv import paged_kernel  # only where there is a GPU

    return paged_kernel.attend_paged(query, key, value, view, scaling)
