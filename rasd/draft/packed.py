"""The EAGLE head's forward as few operations: what `EagleHead` computes, on packed weights.

Products that read the same rows are joined, and weights laid out once as the machine reads them.
Drafting is bound by the bytes of its weights; a draft need not be exact, so they may be rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, scaled_dot_product_attention
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from rasd.draft.eagle_head import EagleHead
from rasd.draft.weights import SharedWeights
from rasd.errors import ModelError
from rasd.forward.rope import Rope, turn
from rasd.forward.rows import Gate, Norm


@dataclass(frozen=True, slots=True)
class Span:
    """Rows of one sequence in a forward, and what they see.

    Attributes:
        start, stop: the rows, n of them.
        context: where the S rows lie that some of them see, their own last; a slice costs no copy.
        size: S.
        hidden: bool[n, m]; which of the last m of those each row does not see. None hides none.
    """

    start: int
    stop: int
    context: slice | Tensor
    size: int
    hidden: Tensor | None


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
        self._scale: float = attention.scaling
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
        self,
        tokens: Tensor,
        features: Tensor,
        positions: Tensor,
        states: Tensor,
        slots: slice | Tensor,
        spans: Sequence[Span],
    ) -> Tensor:
        """Features [T, H] for the positions after the given ones.

        Args:
            tokens: int64[T]; features: [T, H]; positions: int64[T]; see `EagleHead.forward`.
            states: [2, kv_heads, S, dim]; the rows' keys and values are written into it.
            slots: where, T of them.
            spans: cover the rows in order.
        """
        embeds = embedding(tokens, self._embedding).to(self._dtype)
        hidden = self._fc(torch.cat((embeds, features), dim=-1))
        queries = self._project(hidden, positions, states, slots)
        hidden = hidden + self._out(self._attend(queries, states, spans))
        return hidden + self._down(self._gate(self._gate_up(self._norm(hidden))))

    def _project(
        self, hidden: Tensor, positions: Tensor, states: Tensor, slots: slice | Tensor
    ) -> Tensor:
        """Stores keys and values; returns the queries [kv_heads, T * groups, dim]."""
        rows, turned = len(hidden), self.heads + self.kv_heads
        qkv = self._qkv(hidden).view(rows, turned + self.kv_heads, self.dim)
        qk = turn(qkv[:, :turned], *self._rope.at(positions))
        keys_values = (qk[:, self.heads :].transpose(0, 1), qkv[:, turned:].transpose(0, 1))
        for store, new in zip(states, keys_values, strict=True):
            if isinstance(slots, slice):
                store[:, slots] = new
            else:
                store.index_copy_(1, slots, new)
        queries = qk[:, : self.heads].view(rows, self.kv_heads, -1, self.dim).transpose(0, 1)
        return queries.reshape(self.kv_heads, -1, self.dim)

    def _attend(self, queries: Tensor, states: Tensor, spans: Sequence[Span]) -> Tensor:
        """[T, heads * dim]. The heads that share a key are rows of one product."""
        groups = self.heads // self.kv_heads
        outputs: list[Tensor] = []
        for span in spans:
            if isinstance(span.context, slice):
                keys, values = states[:, None, :, span.context]
            else:
                keys, values = states.index_select(2, span.context)[:, None]
            asked = queries[None, :, span.start * groups : span.stop * groups]
            mask = None
            if span.hidden is not None:
                mask = _mask(span.hidden, span.size, groups, queries)
            outputs.append(
                scaled_dot_product_attention(asked, keys, values, attn_mask=mask, scale=self._scale)
            )
        out = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
        out = out.view(self.kv_heads, -1, groups, self.dim).transpose(0, 1)
        return out.reshape(-1, self.heads * self.dim)


def _joined(layout: Layout, *layers: nn.Linear) -> Product:
    """Several layers of one input; their outputs stand side by side."""
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    weight = torch.cat([layer.weight.detach() for layer in layers])
    return layout(weight, torch.cat(biases) if biases else None)


def _mask(hidden: Tensor, size: int, groups: int, like: Tensor) -> Tensor:
    """[n * groups, size], added to the scores: -inf at what is hidden, bool[n, m] at the end."""
    rows, last = hidden.shape
    mask = like.new_zeros((rows, groups, size))
    mask[:, :, size - last :].masked_fill_(hidden[:, None], -torch.inf)
    return mask.view(rows * groups, size)
