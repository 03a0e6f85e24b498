"""Attention of a step by the kernel: one or two calls per layer for all sequences."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from rasd.kv.kernel import ATTEND, FIELDS, STORE, attention
from rasd.kv.primitives import KINDS
from rasd.kv.threads import run
from rasd.kv.tile import LANES, PAIRS, WIDE
from rasd.kv.view import Int64s, Item, first_seen
from rasd.tree import Bools

if TYPE_CHECKING:
    from rasd.kv.plan import Plan

MOST_ROWS: Final = 64
"""Rows of one sequence times query heads per key head, up to which the kernel is used where it
cannot use tiles. Above, the products are large enough for torch's own to be faster."""

MOST_FEW: Final = 9
"""Rows of a block times query heads per key head, up to which tiles of float32 would not pay.
Tiles of bf16 always do."""

MOST_QUERIES: Final = 192
"""Rows of a block times query heads per key head. Longer items are cut: what a block's rows see
ends earlier than what the item's last row sees, and threads share the blocks."""

_AT: Final = {name: index for index, name in enumerate(FIELDS)}
_OWN: Final = frozenset(
    (
        *("counter", "cache_slots", "keys", "values"),
        *("states", "state_width", "new_values", "value_width", "out"),
    )
)
_SHARED: Final = np.asarray([index for name, index in _AT.items() if name not in _OWN])
"""Fields that a plan says; the others are a layer's."""


def takes(plan: Plan, groups: int, dim: int) -> bool:
    """Whether the kernel serves this plan."""
    if plan.device.type != "cpu" or plan.dtype not in KINDS:
        return False
    most = max(item.stop - item.start for item in plan.items)
    return _tiled(dim) or most * groups <= MOST_ROWS


def _tiled(dim: int) -> bool:
    """Whether blocks of many rows are computed by tiles."""
    return WIDE and dim % LANES == 0


def _most_few(dtype: torch.dtype, dim: int) -> int:
    """Up to how many queries of a key head a block is not computed by tiles."""
    if not _tiled(dim):
        return sys.maxsize
    return 0 if PAIRS and dtype == torch.bfloat16 else MOST_FEW


class Few:
    """A plan's rows as layers of one window and shape see them.

    Rows of an item are one block, or several where they are many: an item of a few rows costs a
    reading of its slots, a prompt that enters beside them what its products cost. Where an item has
    several blocks all new keys are stored by a call of their own, before any block reads them.

    Args:
        cos, sin: [T, 1, dim], contiguous, of the plan's dtype; see `rasd.forward.rope`.
    """

    def __init__(
        self,
        plan: Plan,
        window: int | None,
        heads: int,
        kv_heads: int,
        scale: float,
        cos: Tensor,
        sin: Tensor,
    ) -> None:
        rows, dim = len(cos), cos.shape[-1]
        slots = np.concatenate([item.slots for item in plan.items])
        low, tails = _sight(plan.items, window)
        tail = np.concatenate([tail.reshape(-1) for tail in tails]).view(np.uint8)
        groups = heads // kv_heads
        items = _table(plan.items, window, low, tails, max(MOST_QUERIES // groups, 1))
        self._kept = (slots, low, tail, items, cos, sin)  # the kernel has their addresses
        self._shape = rows, heads * dim
        self._kernel = attention(KINDS[plan.dtype], dim).address
        self._fields = np.zeros(len(FIELDS), np.int64)
        self._at = self._fields.ctypes.data
        self._set(rows=rows, kv_heads=kv_heads, groups=groups)
        self._parts = (STORE | ATTEND,) if len(items) == len(plan.items) else (STORE, ATTEND)
        self._set(most_few=_most_few(plan.dtype, dim))
        self._set(scale=int(np.float32(scale).view(np.int32)))
        self._set(items=items.ctypes.data, item_count=len(items), low=low.ctypes.data)
        self._set(slots=slots.ctypes.data, slot_count=len(slots))
        self._set(tail=tail.ctypes.data, tail_size=len(tail))
        self._set(cos=cos.data_ptr(), sin=sin.data_ptr())

    def fill(self, fields: Int64s) -> bool:
        """Writes what all layers share into `FIELDS`; not if a layer takes two calls."""
        if len(self._parts) > 1:
            return False
        self._set(parts=self._parts[0])
        fields[_SHARED] = self._fields[_SHARED]
        return True

    def _set(self, **values: int) -> None:
        for name, value in values.items():
            self._fields[_AT[name]] = value

    def __call__(
        self, queries_keys: Tensor, new_values: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Turns and stores the new rows of a layer, and attends.

        Args:
            queries_keys: [T, heads + kv_heads, dim], not turned yet; rows are contiguous.
            new_values: [T, kv_heads, dim], likewise.
            keys, values: [1, kv_heads, slots, dim], the layer's stores.

        Returns:
            [T, heads * dim]
        """
        out = queries_keys.new_empty(self._shape)
        self._set(
            cache_slots=keys.shape[2],
            keys=keys.data_ptr(),
            values=values.data_ptr(),
            states=queries_keys.data_ptr(),
            state_width=queries_keys.stride(0),
            new_values=new_values.data_ptr(),
            value_width=new_values.stride(0),
            out=out.data_ptr(),
        )
        for parts in self._parts:
            self._set(counter=0, parts=parts)
            run(self._kernel, self._at)
        return out


def _table(
    items: Sequence[Item], window: int | None, low: Int64s, tails: Sequence[Bools], most: int
) -> Int64s:
    """int64[blocks, 11], as the kernel's ``ITEM`` says; at most ``most`` rows each."""
    rows: list[tuple[int, ...]] = []
    slot = seen = 0
    for item, tail in zip(items, tails, strict=True):
        begin = first_seen(item, window)
        narrow = 0 if window is None else item.committed
        size, width, new = len(item.slots), tail.shape[1], len(tail)
        place = item.committed, size, slot, seen, begin, narrow, size - new, width, item.committed
        if new <= most:
            rows.append((item.start, item.stop, *place))
        else:
            rows += _blocks(item, place, low, tail, most)
        slot += size
        seen += tail.size
    return np.asarray(rows, np.int64)


def _blocks(
    item: Item, place: tuple[int, ...], low: Int64s, tail: Bools, most: int
) -> list[tuple[int, ...]]:
    """Entries of an item's blocks of rows; the longest first, as threads take them in order."""
    committed, _, slot, seen, _, narrow, own, width, _ = place
    rows: list[tuple[int, ...]] = []
    for start in range(0, len(tail), most):
        block = tail[start : start + most]
        size = committed + int(np.flatnonzero(block.any(0))[-1]) + 1
        hidden = np.flatnonzero(~block.all(0))
        first = item.start + start
        begin = min(int(low[first : first + len(block)].min()), committed)
        rows.append(
            (
                *(first, first + len(block), committed, size, slot, seen + start * width),
                *(begin, narrow, own + start, width),
                committed + (int(hidden[0]) if len(hidden) else width),
            )
        )
    return rows[::-1]


def _sight(items: Sequence[Item], window: int | None) -> tuple[Int64s, list[Bools]]:
    """The first committed slot each row sees, int64[T]; and per item which uncommitted ones."""
    if window is None:
        return np.zeros(items[-1].stop, np.int64), [item.ancestors for item in items]
    low: list[Int64s] = []
    tails: list[Bools] = []
    for item in items:
        first = item.positions[len(item.positions) - len(item.ancestors) :, None] - window + 1
        low.append(np.maximum(first[:, 0], 0))
        tails.append(item.ancestors & (item.positions[None] >= first))
    return np.concatenate(low), tails
