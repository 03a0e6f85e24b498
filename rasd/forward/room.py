"""Buffers that the kernels of a forward hand rows to each other in, and the stages over them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rasd.forward.heads import Heads
from rasd.forward.linear import new_rows
from rasd.forward.tiles import PANEL
from rasd.kv.kernel import FIELDS, attention
from rasd.kv.primitives import KINDS
from rasd.kv.program import Stage
from rasd.kv.threads import Call

Weights = tuple[Call, Call, Call, Call]
"""Products of a layer: queries, keys and values; out; gates and what they let pass; down."""


@dataclass(frozen=True, slots=True)
class Room:
    """Room for some rows of a layer's states; one for all layers, which run after each other.

    Attributes:
        hidden, added: [T, H], the two parts of the states; ``normed``: their sum, normed.
        qkv: queries, keys and values; ``seen``: what the heads saw.
        gates, opened: before and after the gate.
    """

    hidden: Tensor
    added: Tensor
    normed: Tensor
    qkv: Tensor
    seen: Tensor
    gates: Tensor
    opened: Tensor

    @classmethod
    def of(cls, rows: int, like: Tensor, widths: tuple[int, int, int, int]) -> Room:
        """Buffers of ``like``'s type.

        Args:
            widths: of states, of queries, keys and values, of what heads saw, of gates alone.
        """
        width, qkv, heads, units = widths
        return cls(
            like.new_empty((rows, width)),
            like.new_empty((rows, width)),
            new_rows(like, rows, width),
            panels(like, rows, qkv),
            like.new_empty((rows, heads)),
            panels(like, rows, 2 * units),
            new_rows(like, rows, units),
        )

    def norm(self, call: Call, *, adds: bool = True) -> Stage:
        """Sums the two parts of the states in place, and norms them."""
        added = self.added.data_ptr() if adds else 0
        states = {"x": self.hidden.data_ptr(), "added": added, "total": self.hidden.data_ptr()}
        return Stage(call, states | to(self.normed))

    def product(self, call: Call, x: Tensor, out: Tensor) -> Stage:
        """A weight's."""
        return Stage(call, {"x": x.data_ptr(), "x_width": x.stride(0)} | to(out))

    def gate(self, call: Call) -> Stage:
        """From ``gates`` to ``opened``."""
        x = {"x": self.gates.data_ptr(), "x_width": self.gates.stride(0)}
        return Stage(call, x | {"width": self.opened.shape[1]} | to(self.opened))

    def layer(
        self, x: Tensor, heads: Heads, norm: Call, gate: Call, weights: Weights
    ) -> list[Stage]:
        """From ``x`` [T, H] to both parts of the states, ``hidden`` being one part before."""
        qkv, out, gate_up, down = weights
        return [
            self.product(qkv, x, self.qkv),
            self.attend(heads),
            self.product(out, self.seen, self.added),
            self.norm(norm),
            self.product(gate_up, self.normed, self.gates),
            self.gate(gate),
            self.product(down, self.opened, self.added),
        ]

    def attend(self, heads: Heads) -> Stage:
        """From ``qkv`` to ``seen``."""
        values = self.qkv[:, (heads.heads + heads.kv_heads) * heads.dim :]
        return Stage(
            Call(attention(KINDS[self.qkv.dtype], heads.dim), FIELDS),
            {
                "states": self.qkv.data_ptr(),
                "state_width": self.qkv.stride(0),
                "new_values": values.data_ptr(),
                "value_width": self.qkv.stride(0),
                "out": self.seen.data_ptr(),
            },
        )


def panels(like: Tensor, rows: int, outputs: int) -> Tensor:
    """Uninitialised, for so many outputs of a product, which come in panels."""
    return like.new_empty((rows, -(-outputs // PANEL) * PANEL))


def to(out: Tensor) -> dict[str, int]:
    """Fields of what a stage writes."""
    return {"out": out.data_ptr(), "out_width": out.stride(0)}
