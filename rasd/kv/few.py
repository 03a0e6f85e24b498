"""Attention of a step with few rows, by the kernel: one call per layer for all sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from torch import Tensor

from rasd.kv.kernel import FIELDS, attention
from rasd.kv.primitives import KINDS
from rasd.kv.threads import run
from rasd.kv.view import Int64s, Item, first_seen
from rasd.tree import Bools

if TYPE_CHECKING:
    from rasd.kv.plan import Plan

MOST_ROWS: Final = 64
"""Rows of one sequence times query heads per key head, up to which the kernel is used. Above, the
products are large enough for torch's own to be faster."""

_AT: Final = {name: index for index, name in enumerate(FIELDS)}


def takes(plan: Plan, groups: int) -> bool:
    """Whether the kernel serves this plan."""
    most = max(item.stop - item.start for item in plan.items)
    return plan.device.type == "cpu" and plan.dtype in KINDS and most * groups <= MOST_ROWS


class Few:
    """A plan's rows as layers of one window and shape see them.

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
        items = _table(plan.items, window, tails)
        self._kept = (slots, low, tail, items, cos, sin)  # the kernel has their addresses
        self._shape = rows, heads * dim
        self._kernel = attention(KINDS[plan.dtype], dim).address
        self._fields = np.zeros(len(FIELDS), np.int64)
        self._at = self._fields.ctypes.data
        self._set(rows=rows, kv_heads=kv_heads, groups=heads // kv_heads)
        self._set(scale=int(np.float32(scale).view(np.int32)))
        self._set(items=items.ctypes.data, item_count=len(items), low=low.ctypes.data)
        self._set(slots=slots.ctypes.data, slot_count=len(slots))
        self._set(tail=tail.ctypes.data, tail_size=len(tail))
        self._set(cos=cos.data_ptr(), sin=sin.data_ptr())

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
            counter=0,
            cache_slots=keys.shape[2],
            keys=keys.data_ptr(),
            values=values.data_ptr(),
            states=queries_keys.data_ptr(),
            state_width=queries_keys.stride(0),
            new_values=new_values.data_ptr(),
            value_width=new_values.stride(0),
            out=out.data_ptr(),
        )
        run(self._kernel, self._at)
        return out


def _table(items: Sequence[Item], window: int | None, tails: Sequence[Bools]) -> Int64s:
    """int64[items, 8], as the kernel's ``ITEM`` says."""
    rows: list[tuple[int, ...]] = []
    slot = seen = 0
    for item, tail in zip(items, tails, strict=True):
        begin = first_seen(item, window)
        narrow = 0 if window is None else item.committed
        size = len(item.slots)
        rows.append((item.start, item.stop, item.committed, size, slot, seen, begin, narrow))
        slot += size
        seen += tail.size
    return np.asarray(rows, np.int64)


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
