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
from rasd.draft.expand import Top
from rasd.draft.fused import FusedHead, Int64s, Parts
from rasd.draft.top import most_probable
from rasd.draft.weights import SharedWeights
from rasd.errors import ModelError
from rasd.forward.heads import Heads, Step
from rasd.forward.rope import Rope
from rasd.forward.rounded import Rounded
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
        kv_heads, dim: of the attention.
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
        if head.config.hidden_act != "silu":
            raise ModelError(f"EAGLE heads have silu, this one {head.config.hidden_act}")
        self.kv_heads: int = head.config.num_key_value_heads
        self.dim: int = attention.head_dim
        heads = head.config.num_attention_heads
        self._heads = Heads(0, heads, self.kv_heads, self.dim, attention.scaling)
        self._embedding = shared.embedding
        self._dtype = dtype
        self._fc = _joined(layout, head.fc)
        self._qkv = _joined(layout, attention.q_proj, attention.k_proj, attention.v_proj)
        self._out = _joined(layout, attention.o_proj)
        self._gate_up = _joined(layout, mlp.gate_proj, mlp.up_proj)
        self._down = _joined(layout, mlp.down_proj)
        self._gate = Gate(shared.embedding.new_empty(0, dtype=dtype))
        self._norm = Norm(layer.post_attention_layernorm.to(dtype))
        like = shared.embedding[:1].to(dtype)
        # Not the head's own: its frequencies were rounded along with its weights.
        angles = LlamaRotaryEmbedding(head.config).to(like.device)
        self._rope = Rope(angles, positions, like, self.dim)
        self._lm_head = layout(shared.head.detach(), None)
        self._fused = self._fuse()

    def top(self, features: Tensor, known: int) -> Top:
        """The ``known`` best tokens behind features [T, H]."""
        return most_probable(self._lm_head(features), known)

    def forward(
        self,
        tokens: Int64s,
        features: Tensor,
        sources: Int64s | None,
        plan: Plan,
        states: tuple[Tensor, Tensor],
        known: int = 0,
    ) -> tuple[Tensor, Top]:
        """Runs the T rows of a plan for one layer; see `EagleHead.forward`.

        Args:
            tokens: int64[T]; features: [F, H].
            sources: int64[T], which of the features is each row's; None if all are, in order.
            states: keys and values of all slots, [1, kv_heads, S, dim] each; those of the rows are
                written into them.
            known: how many of the best tokens behind each row are wanted.

        Returns:
            Features [T, H] for the positions after those of the plan, and the best tokens there.
        """
        step = Step(Store(lambda _: states, plan), plan, *self._rope.at(plan.position_ids[0]))
        if self._fused is not None:
            done = self._fused(tokens, features, sources, step, known)
            if done is not None:
                return done
        if sources is not None:
            features = features[torch.from_numpy(sources).to(features.device)]
        out = self._run(torch.from_numpy(tokens).to(features.device), features, step)
        return out, self.top(out, known) if known else Top.none(len(out))

    def _run(self, tokens: Tensor, features: Tensor, step: Step) -> Tensor:
        embeds = embedding(tokens, self._embedding).to(self._dtype)
        hidden = self._fc(torch.cat((embeds, features), dim=-1))
        qkv = self._qkv(hidden).view(len(hidden), -1, self.dim)
        turned = self._heads.heads + self.kv_heads
        seen = self._heads(qkv[:, :turned], qkv[:, turned:], step)
        hidden, normed = self._norm.after(hidden, self._out(seen))
        return hidden + self._down(self._gate(self._gate_up(normed)))

    def _fuse(self) -> FusedHead | None:
        """A program for few rows, where all weights are rounded."""
        every = self._fc, self._qkv, self._out, self._gate_up, self._down, self._lm_head
        products = [product for product in every if isinstance(product, Rounded)]
        if len(products) < len(every):
            return None
        fc, qkv, out, gate_up, down, lm_head = products
        parts = fc, qkv, self._heads, out, self._norm, gate_up, self._gate, down, lm_head
        return FusedHead.of(Parts(self._embedding, *parts))


def _joined(layout: Layout, *layers: nn.Linear) -> Product:
    """Several layers of one input; their outputs stand side by side."""
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    weight = torch.cat([layer.weight.detach() for layer in layers])
    return layout(weight, torch.cat(biases) if biases else None)
