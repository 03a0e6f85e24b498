"""A whole Llama-shaped model over packed rows: embedding, layers, norm, logits where needed."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import embedding

from rasd.errors import UnsupportedModel
from rasd.forward.fused import Fused
from rasd.forward.heads import Step
from rasd.forward.layer import Layer
from rasd.forward.linear import Linear, local
from rasd.forward.rope import Rope
from rasd.forward.rows import Norm
from rasd.kv import PagedCache, Plan
from rasd.kv.paged import PagedPlan, Store

_TYPES: Final = ("llama", "mistral", "qwen2", "qwen3")


def unsupported(model: Any) -> str:
    """Why a transformers model has no packed decoder; empty if it may have one."""
    kind = model.config.model_type
    if kind not in _TYPES:
        return f"{kind} models have no packed forward; {', '.join(_TYPES)} have"
    if getattr(model, "is_quantized", False):
        return "quantized models have no packed forward"
    return ""


class Decoder:
    """Computes what the model does. Takes its layers: the model itself cannot run afterwards.

    The embedding and the LM head stay with the model too, for drafters that share them.

    Args:
        model: a transformers causal language model, in evaluation mode; sharded over ``ranks``.
        positions: tokens a sequence may have.

    Raises:
        UnsupportedModel: it is of another shape; naming what. Some layers may be taken already.
    """

    def __init__(self, model: Any, positions: int, ranks: int = 1) -> None:
        if reason := unsupported(model):
            raise UnsupportedModel(reason)
        body = model.model
        self._embedding = local(body.embed_tokens.weight)
        self._first = _first_token(self._embedding, model.config.vocab_size, ranks)
        self._norm = Norm(body.norm)
        self.head = Linear.of(model.lm_head)
        self.ranks = ranks
        self._parts = ranks if self.head.outputs < model.config.vocab_size else 1
        if self.head.outputs * self._parts != model.config.vocab_size:
            raise UnsupportedModel(f"{ranks} ranks share a vocabulary of {model.config.vocab_size}")
        dim = body.layers[0].self_attn.head_dim
        self._rope = Rope(body.rotary_emb, positions, self._embedding, dim)
        self._layers: list[Layer] = []
        while body.layers:  # one by one, so that no two copies of all weights exist
            self._layers.append(Layer(body.layers.pop(0), len(self._layers), ranks))
        self._fused = Fused.of(self._layers, self._norm, self.head, self._embedding)

    def __call__(
        self,
        tokens: Tensor,
        plan: Plan | PagedPlan,
        cache: PagedCache | Store,
        rows: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Runs the rows of a plan of this cache.

        Args:
            tokens: int64[T].
            rows: int64[R], which of them get logits; None for all.

        Returns:
            Logits [R, V], and the last hidden states [T, H] after the final norm.
        """
        cos, sin = self._rope.at(plan.position_ids[0])
        step = Step(cache, plan, cos, sin)
        hidden = self._embed(tokens)
        done = None
        if self._fused is not None:
            done = self._fused(hidden, step, logits=rows is None)
        normed = self._one_by_one(hidden, step) if done is None else done[0]
        if done is not None and rows is None:
            return done[1], normed
        return self._logits(normed if rows is None else normed.index_select(0, rows)), normed

    def _embed(self, tokens: Tensor) -> Tensor:
        """[T, H]; of tokens that another rank has, from there."""
        if self._first is None:
            return embedding(tokens, self._embedding)
        place = tokens - self._first
        here = (place >= 0) & (place < len(self._embedding))
        hidden = embedding(place.where(here, 0), self._embedding) * here[:, None]
        torch.distributed.all_reduce(hidden)
        return hidden

    def _one_by_one(self, hidden: Tensor, step: Step) -> Tensor:
        """The last states, normed."""
        added: Tensor | None = None
        for layer in self._layers:
            hidden, added = layer(hidden, added, step)
        return self._norm.after(hidden, added)[1]

    def close(self) -> None:
        """Nothing is held beside memory."""

    def _logits(self, hidden: Tensor) -> Tensor:
        if len(hidden) == 0:
            return hidden.new_zeros((0, self.head.outputs * self._parts))
        part = self.head(hidden)
        if self._parts == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self._parts)]
        torch.distributed.all_gather(parts, part)
        return torch.cat(parts, -1)


def _first_token(table: Tensor, vocabulary: int, ranks: int) -> int | None:
    """Which token this rank's part of the embedding begins with; None if it has all of it."""
    if len(table) == vocabulary or ranks == 1:
        return None
    return torch.distributed.get_rank() * -(-vocabulary // ranks)
