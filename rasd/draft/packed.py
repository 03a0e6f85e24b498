"""The EAGLE head's forward as few operations: what `EagleHead` computes, on packed weights.

Products that read the same rows are joined, and weights laid out once as the machine reads them.
Drafting is bound by the bytes of its weights; a draft need not be exact, so they may be rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from rasd.draft.eagle_head import EagleHead
from rasd.draft.weights import SharedWeights
from rasd.errors import ModelError
from rasd.forward.heads import Heads, Step
from rasd.forward.rope import Rope
from rasd.forward.rows import Gate, Norm
from rasd.kv import Plan
from rasd.kv.paged import Store

Product = Callable[[Tensor], Tensor]
"""x [T, in] to x @ weight.T + bias, [T, out]."""

Layout = Callable[[Tensor, Tensor | None], Product]
"""Lays a weight [out, in] and its bias [out] out for products."""


class PackedHead:
    """A head with its target's embedding and LM head, all on one device.

    Copies what it needs: the module's weights may go.

    Args:
        layout: of the weights; `Rounded` needs ``dtype`` float32.
        dtype: of everything else.
        positions: how many there are.

    Raises:
        ModelError: the head has another activation than silu.

    Attributes:
        heads, kv_heads, dim: of the attention.
    """

    def __init__(
        self,
        head: EagleHead,
        shared: SharedWeights,
        layout: Layout,
        dtype: torch.dtype,
        positions: int,
    ) -> None:
        layer: Any = head.layers[0]
        attention, mlp = layer.self_attn, layer.mlp
        self.heads: int = head.config.num_attention_heads
        self.kv_heads: int = head.config.num_key_value_heads
        self.dim: int = attention.head_dim
        self._attend = Heads(0, self.heads, self.kv_heads, self.dim, attention.scaling)
        self._embedding = shared.embedding
        self._dtype = dtype
        self._fc = _joined(layout, head.fc)
        self._qkv = _joined(layout, attention.q_proj, attention.k_proj, attention.v_proj)
        self._out = _joined(layout, attention.o_proj)
        self._gate_up = _joined(layout, mlp.gate_proj, mlp.up_proj)
        self._down = _joined(layout, mlp.down_proj)
        if head.config.hidden_act != "silu":
            raise ModelError(f"EAGLE heads have silu, this one {head.config.hidden_act}")
        self._gate = Gate(shared.embedding.new_empty(0, dtype=dtype))
        self._norm = Norm(layer.post_attention_layernorm.to(dtype))
        like = shared.embedding[:1].to(dtype)
        # Not the head's own: its frequencies were rounded along with its weights.
        angles = LlamaRotaryEmbedding(head.config).to(like.device)
        self._rope = Rope(angles, positions, like, self.dim)
        self._lm_head = layout(shared.head.detach(), None)

    def logits(self, features: Tensor) -> Tensor:
        """[T, V] from features [T, H]."""
        return self._lm_head(features)

    def forward(
        self, tokens: Tensor, features: Tensor, plan: Plan, states: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Features [T, H] for the positions after those of the plan.

        Args:
            tokens: int64[T]; features: [T, H]; see `EagleHead.forward`.
            plan: of the rows, for one layer.
            states: keys and values of all slots, [1, kv_heads, S, dim] each; those of the rows are
                written into them.
        """
        step = Step(Store(lambda _: states, plan), plan, *self._rope.at(plan.position_ids[0]))
        embeds = embedding(tokens, self._embedding).to(self._dtype)
        hidden = self._fc(torch.cat((embeds, features), dim=-1))
        qkv = self._qkv(hidden).view(len(hidden), -1, self.dim)
        turned = self.heads + self.kv_heads
        seen = self._attend(qkv[:, :turned], qkv[:, turned:], step)
        hidden, normed = self._norm.after(hidden, self._out(seen))
        return hidden + self._down(self._gate(self._gate_up(normed)))


def _joined(layout: Layout, *layers: nn.Linear) -> Product:
    """Several layers of one input; their outputs stand side by side."""
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    weight = torch.cat([layer.weight.detach() for layer in layers])
    return layout(weight, torch.cat(biases) if biases else None)
