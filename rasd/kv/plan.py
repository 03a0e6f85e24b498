"""What one forward appends to the cache, and what attention needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rasd.errors import UnsupportedModel
from rasd.tree import Bools, Int32s

Int64s = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Append:
    """Uncommitted nodes to append to a sequence.

    Attributes:
        parents: int32[k]; indices into the nodes appended since the last commit, earlier plans
            included, each below the node's own; -1 hangs from the last committed slot.
    """

    sequence: int
    parents: Int32s


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
    """One item as a layer sees it.

    Attributes:
        start, stop: its rows in the packed step.
        context: the slots to attend to; a slice where they are consecutive, else int64[S].
        mask: [1, 1, groups * rows, S], 0 or -inf, added to the scores; None hides nothing.
    """

    start: int
    stop: int
    context: slice | Tensor
    mask: Tensor | None


@dataclass(slots=True)
class Plan:
    """One forward over [1, T] packed tokens. Made by `PagedCache.plan`, valid for one forward.

    Attributes:
        position_ids: int64[1, T]; committed length of the sequence + depth of the node.
        slots: where the T new rows go; a slice where they are consecutive, else int64[T].
        windows: the sliding window of every layer.
        attended: layers whose attention ran, in order.
        waiting: the layer whose keys and values were stored last and not attended to yet.
    """

    position_ids: Tensor
    slots: slice | Tensor
    items: list[Item]
    windows: tuple[int | None, ...]
    dtype: torch.dtype
    device: torch.device
    attended: list[int] = field(default_factory=list)
    waiting: int | None = None
    _parts: dict[tuple[int | None, int], list[Part]] = field(default_factory=dict)

    def attend(self, sliding_window: int | None, groups: int) -> list[Part]:
        """The items as the layer sees them that stored its keys and values just now.

        Built at the first layer with this window and ``groups`` query heads per key head, and
        kept: masks are made once per plan.

        Args:
            sliding_window: what the layer says of its window, if it says anything.

        Raises:
            UnsupportedModel: the layer stored nothing before, or says another window than its
                spec.
        """
        if self.waiting is None:
            raise UnsupportedModel("a layer attends to keys that it did not store in the cache")
        layer, self.waiting = self.waiting, None
        self.attended.append(layer)
        window = self.windows[layer]
        if sliding_window is not None and sliding_window != window:
            raise UnsupportedModel(
                f"layer {layer} slides over {sliding_window} positions, its cache over {window}"
            )
        parts = self._parts.get((window, groups))
        if parts is None:
            parts = [self._part(item, window, groups) for item in self.items]
            self._parts[window, groups] = parts
        return parts

    def _part(self, item: Item, window: int | None, groups: int) -> Part:
        # No row of the item sees what the window hides from a node at depth 0.
        first = 0 if window is None else max(0, item.committed - window + 1)
        context = place(item.slots[first:], self.device)
        visible = _visible(item, first, window)
        if visible.all():
            return Part(item.start, item.stop, context, None)
        hidden = torch.from_numpy(~np.tile(visible, (groups, 1)))
        mask = torch.zeros(hidden.shape, dtype=self.dtype).masked_fill_(hidden, -torch.inf)
        return Part(item.start, item.stop, context, mask.to(self.device)[None, None])


def place(slots: Int64s, device: torch.device) -> slice | Tensor:
    """Slots as an index: a slice where they are consecutive."""
    first = int(slots[0])
    if len(slots) == 1 or bool((np.diff(slots) == 1).all()):
        return slice(first, first + len(slots))
    return torch.from_numpy(slots).to(device)


def _visible(item: Item, first: int, window: int | None) -> Bools:
    """bool[rows, S - first]: which slots from ``first`` on each row of the item sees."""
    before = np.ones((len(item.ancestors), item.committed - first), np.bool_)
    visible = np.concatenate([before, item.ancestors], axis=1)
    if window is not None:
        seen = np.concatenate([np.arange(first, item.committed), item.positions])
        asking = item.positions[len(item.positions) - len(visible) :, None]
        visible &= seen[None] > asking - window
    return visible
