"""The EAGLE head's forward as few operations: what `EagleHead` computes, on packed weights.

Products that read the same rows are joined, and on a CPU weights are laid out once as oneDNN reads
them: at 8 rows that takes a product from 2.3 ms to 1.4 where the weights are 39 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, rms_norm, scaled_dot_product_attention

from rasd.draft.eagle_head import EagleHead
from rasd.draft.weights import SharedWeights

_PACKED_ROWS = 8
"""Rows that weights are laid out for; other numbers read the same layout."""


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


class Linear:
    """x @ weight.T + bias, the weight [out, in] laid out for the device."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        packs = weight.device.type == "cpu" and weight.dtype == torch.bfloat16
        self._packed = packs and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        self._weight = weight.detach().contiguous()
        if self._packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, _PACKED_ROWS)
        self._bias = None if bias is None else bias.detach()

    @classmethod
    def joined(cls, *layers: nn.Linear) -> Linear:
        """Several layers of one input; their outputs stand side by side."""
        biases = [layer.bias for layer in layers if layer.bias is not None]
        weight = torch.cat([layer.weight for layer in layers])
        return cls(weight, torch.cat(biases) if biases else None)

    def __call__(self, x: Tensor) -> Tensor:
        if self._packed:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self._weight, self._bias, "none", [], ""
            )
            return out
        return linear(x, self._weight, self._bias)


class PackedHead:
    """A head with its target's embedding and LM head; computes in their dtype, on their device.

    Copies what it needs: the module's weights may go.

    Attributes:
        heads, kv_heads, dim: of the attention.
    """

    def __init__(self, head: EagleHead, shared: SharedWeights) -> None:
        layer = head.layers[0]
        attention, mlp = layer.self_attn, layer.mlp
        self.heads: int = head.config.num_attention_heads
        self.kv_heads: int = head.config.num_key_value_heads
        self.dim: int = attention.head_dim
        self._scale: float = attention.scaling
        self._embedding = shared.embedding
        self._fc = Linear.joined(head.fc)
        self._qkv = Linear.joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self._out = Linear.joined(attention.o_proj)
        self._gate_up = Linear.joined(mlp.gate_proj, mlp.up_proj)
        self._down = Linear.joined(mlp.down_proj)
        self._activation: nn.Module = mlp.act_fn
        norm = layer.post_attention_layernorm
        self._norm, self._epsilon = norm.weight.detach(), norm.variance_epsilon
        self._rotary: nn.Module = head.rotary_emb
        self._lm_head = Linear(shared.head)

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
        embeds = embedding(tokens, self._embedding)
        hidden = self._fc(torch.cat((embeds, features), dim=-1))
        queries = self._project(hidden, positions, states, slots)
        hidden = hidden + self._out(self._attend(queries, states, spans))
        normed = rms_norm(hidden, (hidden.shape[-1],), self._norm, self._epsilon)
        gate, up = self._gate_up(normed).chunk(2, dim=-1)
        return hidden + self._down(self._activation(gate) * up)

    def _project(
        self, hidden: Tensor, positions: Tensor, states: Tensor, slots: slice | Tensor
    ) -> Tensor:
        """Stores keys and values; returns the queries [kv_heads, T * groups, dim]."""
        rows, turned = len(hidden), self.heads + self.kv_heads
        qkv = self._qkv(hidden).view(rows, turned + self.kv_heads, self.dim)
        cos, sin = self._rotary(hidden, positions[None])
        qk = qkv[:, :turned]
        first, second = qk.chunk(2, dim=-1)
        qk = qk * cos[0, :, None] + torch.cat((-second, first), dim=-1) * sin[0, :, None]
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


def _mask(hidden: Tensor, size: int, groups: int, like: Tensor) -> Tensor:
    """[n * groups, size], added to the scores: -inf at what is hidden, bool[n, m] at the end."""
    rows, last = hidden.shape
    mask = like.new_zeros((rows, groups, size))
    mask[:, :, size - last :].masked_fill_(hidden[:, None], -torch.inf)
    return mask.view(rows * groups, size)
