"""Attention of one layer behind its projections, over packed rows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rasd.forward.rope import turn
from rasd.kv import PagedCache, Plan, attend
from rasd.kv.few import Few
from rasd.kv.paged import PagedPlan, Store


@dataclass(frozen=True, slots=True)
class Step:
    """What all layers of one forward share.

    Attributes:
        cache, plan: where keys and values go, and who sees what.
        cos, sin: [T, 1, dim], from `Rope.at`.
    """

    cache: PagedCache | Store
    plan: Plan | PagedPlan
    cos: Tensor
    sin: Tensor


@dataclass(frozen=True, slots=True)
class Heads:
    """The query heads of a layer, some of which share a key head.

    Attributes:
        number: which layer of the cache it is.
        heads, kv_heads, dim: how many, and how wide each is.
        scale: of scores.
    """

    number: int
    heads: int
    kv_heads: int
    dim: int
    scale: float

    def few(self, step: Step) -> Few | None:
        """What does it in one call, where that pays; see `Plan.few`."""
        shape = self.heads, self.kv_heads, self.scale
        return step.plan.few(self.number, *shape, step.cos, step.sin)

    def __call__(self, queries_keys: Tensor, new_values: Tensor, step: Step) -> Tensor:
        """Turns and stores the keys and values of T rows, and attends.

        Args:
            queries_keys: [T, heads + kv_heads, dim], not turned yet; rows are contiguous.
            new_values: [T, kv_heads, dim], likewise.

        Returns:
            [T, heads * dim], what each row's heads saw.
        """
        few = self.few(step)
        if few is not None:
            return few(queries_keys, new_values, *step.cache.states(self.number))
        turned = turn(queries_keys, step.cos, step.sin).transpose(0, 1)[None]
        queries, new_keys = turned[:, : self.heads], turned[:, self.heads :]
        keys, values = step.cache.update(new_keys, new_values.transpose(0, 1)[None], self.number)
        view = step.plan.attend(None, self.heads // self.kv_heads)
        return attend(queries, keys, values, view, self.scale).reshape(len(queries_keys), -1)
