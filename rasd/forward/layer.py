"""One decoder layer of Llama's shape, over packed rows."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from rasd.errors import UnsupportedModel
from rasd.forward.heads import Heads, Step
from rasd.forward.linear import Linear, local
from rasd.forward.room import Room
from rasd.forward.rows import Gate, Norm
from rasd.forward.tiles import PANEL
from rasd.kv.program import Stage

_KNOWN: Final = frozenset(
    f"{name}.{kind}"
    for name in (
        *(f"self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "o_proj")),
        *(f"self_attn.{part}" for part in ("q_norm", "k_norm")),
        *(f"mlp.{part}" for part in ("gate_proj", "up_proj", "down_proj")),
        *("input_layernorm", "post_attention_layernorm"),
    )
    for kind in ("weight", "bias")
)


class Layer:
    """A layer with its queries, keys and values in one product, its gate and input in another.

    Under tensor parallelism it holds this rank's heads and units, and sums what the ranks made.

    Args:
        module: a decoder layer of a Llama, Mistral, Qwen2 or Qwen3 model; not kept.
        number: which layer of the cache it is.
        ranks: how many processes share its sums.

    Raises:
        UnsupportedModel: it has other parameters or another activation; by name.

    Attributes:
        heads: its attention.
    """

    def __init__(self, module: Any, number: int, ranks: int = 1) -> None:
        unknown = sorted(name for name, _ in module.named_parameters() if name not in _KNOWN)
        if unknown:
            raise UnsupportedModel(f"layer {number} has parameters of its own: {unknown}")
        if getattr(module.self_attn.config, "hidden_act", None) != "silu":
            raise UnsupportedModel(f"activation {module.self_attn.config.hidden_act}")
        attention, mlp = module.self_attn, module.mlp
        self._ranks = ranks
        self._in_norm, self._mlp_norm = (
            Norm(module.input_layernorm),
            Norm(module.post_attention_layernorm),
        )
        self._qkv = Linear.of(attention.q_proj, attention.k_proj, attention.v_proj)
        self._out = Linear.of(attention.o_proj)
        self._gate_up = Linear.of(mlp.gate_proj, mlp.up_proj)
        self._gate = Gate(local(mlp.gate_proj.weight))
        self._down = Linear.of(mlp.down_proj)
        dim: int = attention.head_dim
        heads = local(attention.q_proj.weight).shape[0] // dim
        kv_heads = local(attention.k_proj.weight).shape[0] // dim
        self.heads = Heads(number, heads, kv_heads, dim, attention.scaling)
        self._head_norm = _HeadNorm(attention, heads, kv_heads)

    def __call__(self, hidden: Tensor, added: Tensor | None, step: Step) -> tuple[Tensor, Tensor]:
        """Stores keys and values of the T rows.

        Args:
            hidden, added: [T, H], two parts of the states; norms add them as they read.

        Returns:
            The next states, in two parts again.
        """
        hidden, normed = self._in_norm.after(hidden, added)
        seen = self._attend(normed, step)
        hidden, normed = self._mlp_norm.after(hidden, self._sum(self._out(seen)))
        return hidden, self._sum(self._down(self._gate(self._gate_up(normed))))

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Of states, of queries, keys and values, of what heads saw, of gates alone."""
        down, out = self._down, self._out
        return down.outputs, self._qkv.outputs, out.inputs, down.inputs

    def stages(self, room: Room, *, first: bool) -> list[Stage] | None:
        """The layer as kernels that work in a room; None where a part of it has none.

        Args:
            first: its states are in one part.
        """
        before, after, gate = self._in_norm.call, self._mlp_norm.call, self._gate.call
        qkv, out, up, down = self._qkv.call, self._out.call, self._gate_up.call, self._down.call
        if before is None or after is None or gate is None or self._head_norm.changes:
            return None
        if qkv is None or out is None or up is None or down is None or self._ranks > 1:
            return None
        if self._out.outputs % PANEL or self._down.outputs % PANEL:
            return None
        if {self._in_norm.kind, self._mlp_norm.kind, self._gate.kind} != {room.hidden.dtype}:
            return None
        weights = qkv, out, up, down
        rest = room.layer(room.normed, self.heads, after, gate, weights)
        return [room.norm(before, adds=not first), *rest]

    def _attend(self, x: Tensor, step: Step) -> Tensor:
        """[T, heads * dim], what each row's heads saw."""
        states = self._qkv(x).view(len(x), -1, self.heads.dim)
        turned = self.heads.heads + self.heads.kv_heads
        return self.heads(self._head_norm(states[:, :turned]), states[:, turned:], step)

    def _sum(self, part: Tensor) -> Tensor:
        if self._ranks > 1:
            torch.distributed.all_reduce(part)
        return part


class _HeadNorm:
    """Qwen3's norms of every query and key head; the identity for models without them."""

    def __init__(self, attention: Any, heads: int, kv_heads: int) -> None:
        self._gain: Tensor | None = None
        self._eps = 0.0
        if hasattr(attention, "q_norm"):
            gains = [local(attention.q_norm.weight)] * heads
            gains += [local(attention.k_norm.weight)] * kv_heads
            self._gain = torch.stack(gains)
            self._eps = float(attention.q_norm.variance_epsilon)

    @property
    def changes(self) -> bool:
        """Whether it is not the identity."""
        return self._gain is not None

    def __call__(self, heads: Tensor) -> Tensor:
        """[T, heads, dim]"""
        if self._gain is None:
            return heads
        return functional.rms_norm(heads, self._gain.shape[1:], None, self._eps) * self._gain
