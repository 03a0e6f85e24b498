"""What one forward appends to the cache, and what attention needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rasd.errors import UnsupportedModel
from rasd.kv.few import Few, takes
from rasd.kv.view import Item, View, make_view
from rasd.tree import Int32s


@dataclass(frozen=True, slots=True)
class Append:
    """Uncommitted nodes to append to a sequence.

    Attributes:
        parents: int32[k]; indices into the nodes appended since the last commit, earlier plans
            included, each below the node's own; -1 hangs from the last committed slot.
    """

    sequence: int
    parents: Int32s


@dataclass(slots=True)
class Plan:
    """One forward over [1, T] packed tokens. Made by who places the rows, valid for one forward.

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
    _views: dict[tuple[int | None, int], View] = field(default_factory=dict)
    _few: dict[int | None, Few] = field(default_factory=dict)

    def few(
        self, layer: int, heads: int, kv_heads: int, scale: float, cos: Tensor, sin: Tensor
    ) -> Few | None:
        """What turns, stores and attends for a layer in one call; None where it does not pay.

        Built at the first layer of its window, and kept: layers of a model differ in nothing else.

        Args:
            cos, sin: [T, 1, dim], the angles of the rows.
        """
        if not takes(self, heads // kv_heads, cos.shape[-1]):
            return None
        window = self.windows[layer]
        few = self._few.get(window)
        if few is None:
            few = Few(self, window, heads, kv_heads, scale, cos, sin)
            self._few[window] = few
        self.attended.append(layer)
        return few

    def attend(self, sliding_window: int | None, groups: int) -> View:
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
        view = self._views.get((window, groups))
        if view is None:
            view = make_view(self.items, window, groups, self.dtype, self.device)
            self._views[window, groups] = view
        return view
