"""A decoder's layers as one program: for few rows, where calls cost more than what they compute.

The kernels are those that the layers call one by one, so all is the same bit for bit.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Final

from torch import Tensor

from rasd.forward.heads import Step
from rasd.forward.layer import Layer
from rasd.forward.linear import Linear, new_rows
from rasd.forward.room import Room, panels
from rasd.forward.rows import Norm
from rasd.kv import PagedCache, Plan
from rasd.kv.paged import Store
from rasd.kv.program import Program, Stage

MOST_ROWS: Final = 256
"""Above, calls cost next to nothing beside what they compute, and buffers leave the caches."""

_ATTENTION: Final = 2
"""Which of a layer's stages attends."""


class Fused:
    """Layers, the norm behind them and the head. Not thread-safe: there is one set of buffers.

    Args:
        stages: as many of each layer, then of the norm and of the head.
        room: that they work in.
        outputs: of the head.
    """

    def __init__(
        self, layers: Sequence[Layer], stages: Sequence[Stage], room: Room, outputs: int
    ) -> None:
        self._layers, self._room, self._outputs = layers, room, outputs
        self._program = Program(stages)
        each = (len(stages) - 2) // len(layers)
        self._attending = range(_ATTENTION, len(stages) - 2, each)
        self._norm, self._head = len(stages) - 2, len(stages) - 1
        self._cache: weakref.ref[PagedCache | Store] | None = None

    @classmethod
    def of(cls, layers: Sequence[Layer], norm: Norm, head: Linear, like: Tensor) -> Fused | None:
        """None where some of it has no kernel.

        Args:
            like: of the model's type, on its device.
        """
        if norm.call is None or head.call is None or norm.kind != like.dtype:
            return None
        room = Room.of(MOST_ROWS, like, layers[0].widths)
        stages: list[Stage] = []
        for layer in layers:
            its = layer.stages(room, first=not stages)
            if its is None or layer.widths != layers[0].widths:
                return None
            stages += its
        return cls(layers, [*stages, room.norm(norm.call), Stage(head.call)], room, head.outputs)

    def __call__(self, hidden: Tensor, step: Step, *, logits: bool) -> tuple[Tensor, Tensor] | None:
        """Runs T rows; None, and nothing has happened, if they do not fit.

        Args:
            hidden: [T, H], embedded tokens.
            logits: whether the rows get any.

        Returns:
            The last states after the norm [T, H], and logits [T, V], or [0, V].
        """
        rows, plan = len(hidden), step.plan
        if rows > MOST_ROWS or not isinstance(plan, Plan) or not self._attend(plan, step):
            return None
        program = self._program
        self._store(step.cache)
        self._room.hidden[:rows] = hidden
        normed = new_rows(hidden, rows, hidden.shape[1])
        scores = panels(hidden, rows if logits else 0, self._outputs)
        states, width = normed.data_ptr(), normed.stride(0)
        program.set("rows", rows)
        program.put(self._norm, out=states, out_width=width)
        program.put(self._head, x=states, x_width=width)
        program.put(self._head, out=scores.data_ptr(), out_width=scores.shape[1])
        program(self._head + logits)
        return normed, scores[:, : self._outputs]

    def _attend(self, plan: Plan, step: Step) -> bool:
        """Tells all layers who sees what; whether each needs but one stage for it."""
        for layer, stage in zip(self._layers, self._attending, strict=True):
            few = layer.heads.few(step)
            if few is None or not few.fill(self._program.fields[stage]):
                plan.attended.clear()
                return False
        return True

    def _store(self, cache: PagedCache | Store) -> None:
        """Tells all layers where the cache has their keys and values."""
        if self._cache is not None and self._cache() is cache:
            return
        for number, stage in enumerate(self._attending):
            keys, values = cache.states(number)
            self._program.put(stage, keys=keys.data_ptr(), values=values.data_ptr())
            self._program.put(stage, cache_slots=keys.shape[2])
        self._cache = weakref.ref(cache)
