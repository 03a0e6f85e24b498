"""What attention reads: the items of a step, placed, and how a layer goes through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rasd.tree import Bools

Int64s = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Item:
    """One `Append`, placed.

    Attributes:
        start, stop: its rows in the packed step.
        committed: slots before the first uncommitted node.
        slots: int64[S]; where every row it may see lies: committed ones, then uncommitted ones.
        positions: int64[S - committed]; positions of the uncommitted nodes, its own last.
        ancestors: bool[stop - start, S - committed]; uncommitted nodes each of its rows may see.
    """

    start: int
    stop: int
    committed: int
    slots: Int64s
    positions: Int64s
    ancestors: Bools


@dataclass(frozen=True, slots=True)
class Part:
    """Items attended to in one kernel call, each padded to ``rows`` rows and S slots.

    Attributes:
        items: how many, B.
        rows: where their rows are in the packed step; a slice for a single item, else
            int64[B * rows].
        context: the slots to attend to; a slice where they are consecutive, else int64[B * S].
        mask: [B, 1, groups * rows, S], 0 or -inf, added to the scores; None hides nothing.
    """

    items: int
    rows: slice | Tensor
    context: slice | Tensor
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class View:
    """All items as layers of one window and number of groups see them.

    ``order`` int64[T] picks every row of the step from the parts' outputs, laid end to end;
    None where those are the step's rows already.
    """

    parts: list[Part]
    order: Tensor | None


def make_view(
    items: Sequence[Item],
    window: int | None,
    groups: int,
    dtype: torch.dtype,
    device: torch.device,
) -> View:
    """Builds masks and indices, once per step.

    On a CPU each item is a call of its own and reads its context in place. Elsewhere launching
    kernels costs more than padding, so items of like size are put together.
    """
    if device.type == "cpu" or len(items) == 1:
        return View([_single(item, window, groups, dtype, device) for item in items], None)
    return batched_view(items, window, groups, dtype, device)


def place(slots: Int64s, device: torch.device) -> slice | Tensor:
    """Slots as an index: a slice where they are consecutive."""
    first = int(slots[0])
    if len(slots) == 1 or bool((np.diff(slots) == 1).all()):
        return slice(first, first + len(slots))
    return torch.from_numpy(slots).to(device)


def _single(
    item: Item, window: int | None, groups: int, dtype: torch.dtype, device: torch.device
) -> Part:
    first = first_seen(item, window)
    visible = _visible(item, first, window)
    mask = None if visible.all() else _mask(visible[None], groups, dtype, device)
    return Part(1, slice(item.start, item.stop), place(item.slots[first:], device), mask)


def batched_view(
    items: Sequence[Item],
    window: int | None,
    groups: int,
    dtype: torch.dtype,
    device: torch.device,
) -> View:
    """Items whose rows and contexts are within a factor of two of each other share a call."""
    buckets: dict[tuple[int, int], list[Item]] = {}
    for item in items:
        rows, slots = item.stop - item.start, len(item.slots) - first_seen(item, window)
        buckets.setdefault((rows.bit_length(), slots.bit_length()), []).append(item)
    parts: list[Part] = []
    order = np.empty(items[-1].stop, np.int64)
    done = 0
    for bucket in buckets.values():
        rows = max(item.stop - item.start for item in bucket)
        parts.append(_together(bucket, rows, window, groups, dtype, device))
        for number, item in enumerate(bucket):
            begin = done + number * rows
            order[item.start : item.stop] = np.arange(begin, begin + item.stop - item.start)
        done += len(bucket) * rows
    in_order = done == len(order) and bool((np.diff(order) == 1).all())
    return View(parts, None if in_order else torch.from_numpy(order).to(device))


def _together(
    bucket: Sequence[Item],
    rows: int,
    window: int | None,
    groups: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Part:
    firsts = [first_seen(item, window) for item in bucket]
    longest = max(len(item.slots) - first for item, first in zip(bucket, firsts, strict=True))
    width = -(-longest // 8) * 8  # kernels want aligned rows of the mask
    visible = np.zeros((len(bucket), rows, width), np.bool_)
    visible[:, :, 0] = True  # padding rows see something, or they would be NaN
    at = np.empty((len(bucket), rows), np.int64)
    context = np.empty((len(bucket), width), np.int64)
    for number, (item, first) in enumerate(zip(bucket, firsts, strict=True)):
        seen, count = item.slots[first:], item.stop - item.start
        visible[number, :count, : len(seen)] = _visible(item, first, window)
        at[number] = np.minimum(np.arange(item.start, item.start + rows), item.stop - 1)
        context[number] = seen[0]
        context[number, : len(seen)] = seen
    return Part(
        len(bucket),
        torch.from_numpy(at.reshape(-1)).to(device),
        torch.from_numpy(context.reshape(-1)).to(device),
        _mask(visible, groups, dtype, device),
    )


def first_seen(item: Item, window: int | None) -> int:
    """The first slot that some row of the item may see: what a node at depth 0 sees."""
    return 0 if window is None else max(0, item.committed - window + 1)


def _visible(item: Item, first: int, window: int | None) -> Bools:
    """bool[rows, S - first]: which slots from ``first`` on each row of the item sees."""
    before = np.ones((len(item.ancestors), item.committed - first), np.bool_)
    visible = np.concatenate([before, item.ancestors], axis=1)
    if window is not None:
        seen = np.concatenate([np.arange(first, item.committed), item.positions])
        asking = item.positions[len(item.positions) - len(visible) :, None]
        visible &= seen[None] > asking - window
    return visible


def _mask(visible: Bools, groups: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[B, 1, groups * rows, S] from bool[B, rows, S]; made of the kernel's dtype, once."""
    hidden = torch.from_numpy(~np.tile(visible, (1, groups, 1)))
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)
    return mask.to(device)[:, None]
