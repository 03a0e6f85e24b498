"""The forwards of an EAGLE drafter: rows of decided tokens, and trees behind them.

Owns the head and its KV cache; knows nothing of queries, positions and features that wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from rasd.config import DrafterConfig
from rasd.draft.eagle_head import EagleHead
from rasd.draft.expand import Candidates, expand
from rasd.draft.progress import Int64s
from rasd.draft.weights import SharedWeights
from rasd.errors import ModelError
from rasd.kv import ATTENTION, PLAN_ARGUMENT, Append, LayerSpec, PagedCache

CATCH_UP_ROWS: Final = 256
"""Most rows of one catch-up forward: bounds its attention mask, which is rows x context."""

CATCH_UP_FORWARDS: Final = {"cpu": 4, "cuda": 32}
"""Most catch-up forwards of one request: a long prompt keeps the other sequences waiting that long
(some 70 ms on one core with the embedded head), and is caught up with over several requests."""

KNOWN_TOKENS: Final = 64
"""Tokens per known distribution: covers every pruning top-k in use (the paper's reading is 10,
sweeps end at 50) while a reply stays within kilobytes."""


class EagleRunner:
    """Runs the head on packed rows of several sequences; not thread-safe.

    Args:
        config: sizes, device and dtype (``auto`` keeps the head's).
        head: taken over and moved there.
        shared: the target's; used as it is where device and dtype agree.

    Attributes:
        cache: the sequences' rows; callers open and close sequences and see to free pages.
        tree_rows: most uncommitted rows of one sequence.
        catch_up_rows: rows that one request should `extend` by at most, over all sequences.

    Raises:
        ModelError: head and target do not fit together.
        ConfigError: ``kv_slots`` is smaller than a page.
    """

    def __init__(self, config: DrafterConfig, head: EagleHead, shared: SharedWeights) -> None:
        self.vocabulary, self.width = shared.embedding.shape
        expected = (self.vocabulary, head.config.hidden_size)
        if shared.embedding.shape != expected or shared.head.shape != expected:
            raise ModelError(
                f"the EAGLE head is {expected[1]} wide; the target's embedding and LM head are "
                f"{tuple(shared.embedding.shape)} and {tuple(shared.head.shape)}"
            )
        self.dtype: torch.dtype = (
            head.fc.weight.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
        )
        self._device = torch.device(config.device)
        self._head = head.to(self._device, self.dtype).eval()
        self._head.config._attn_implementation = ATTENTION
        self._shared = shared.to(self._device, self.dtype)
        self._top_k = min(config.top_k, self.vocabulary)
        self._known = min(max(config.top_k, KNOWN_TOKENS), self.vocabulary)
        self.tree_rows = (config.levels - 1) * self._top_k
        self.catch_up_rows = CATCH_UP_ROWS * CATCH_UP_FORWARDS.get(self._device.type, 4)
        self.cache = PagedCache(
            [_layer_spec(head)], config.kv_slots, config.page_size, self.dtype, self._device
        )

    def extend(
        self, sequences: list[int], tokens: list[Int64s], features: list[Tensor]
    ) -> list[Tensor]:
        """Caches rows behind each sequence, a bounded number of them per forward.

        Args:
            tokens: int64[n], n >= 1; for each row the token after its position.
            features: [n, H]; for each row the target's feature at its position.

        Returns:
            For each sequence the output at its last row, [H].

        Raises:
            KVExhausted: pages ran out; some rows are cached.
        """
        flat = [torch.from_numpy(t) for t in tokens]
        outputs: dict[int, Tensor] = {}
        for chunk in _chunks([len(t) for t in tokens], CATCH_UP_ROWS):
            sizes = {sequences[i]: part.stop - part.start for i, part in chunk}
            out = self._forward(
                [Append(s, np.arange(-1, n - 1, dtype=np.int32)) for s, n in sizes.items()],
                torch.cat([flat[i][part] for i, part in chunk]),
                torch.cat([features[i][part] for i, part in chunk]),
            )
            self.cache.commit_all({s: range(n) for s, n in sizes.items()})
            last = out[np.cumsum([*sizes.values()]) - 1]
            outputs.update(zip(sizes, last, strict=True))
        return [outputs[sequence] for sequence in sequences]

    def grow(self, sequences: list[int], features: list[Tensor], levels: int) -> Candidates:
        """Scores the trees of ``levels`` levels behind each sequence; leaves no rows.

        Args:
            features: [H] each, the output at the sequence's last row.

        Raises:
            KVExhausted: pages ran out; uncommitted rows are left.
        """

        def step(tokens: Tensor, above: Tensor, parents: Tensor) -> Tensor:
            appended = parents.int().cpu().numpy()
            appends = [Append(s, p) for s, p in zip(sequences, appended, strict=True)]
            return self._forward(appends, tokens.flatten(), above.flatten(0, 1)).view(above.shape)

        candidates = expand(
            torch.stack(features), self._distribution, step, levels=levels, top_k=self._top_k
        )
        self.cache.commit_all(dict.fromkeys(sequences, ()))
        return candidates

    def _forward(self, appends: list[Append], tokens: Tensor, features: Tensor) -> Tensor:
        """One forward of packed rows: tokens [T], features [T, H], to features [T, H]."""
        plan = self.cache.plan(appends)
        out: Tensor = self._head(
            embedding(tokens.to(self._device), self._shared.embedding)[None],
            features.to(self._device)[None],
            plan.position_ids,
            past_key_values=self.cache,
            **{PLAN_ARGUMENT: plan},
        )
        return out[0]

    def _distribution(self, features: Tensor) -> tuple[Tensor, Tensor]:
        logits = linear(features, self._shared.head)
        top = logits.log_softmax(-1, dtype=torch.float32).topk(self._known)
        return top.indices, top.values


def _layer_spec(head: EagleHead) -> LayerSpec:
    config = head.config
    return LayerSpec("full", config.num_key_value_heads, config.head_dim, config.head_dim)


def _chunks(lengths: list[int], room: int) -> Iterator[list[tuple[int, slice]]]:
    """Parts of items, packed in order into chunks of at most ``room`` rows."""
    chunk: list[tuple[int, slice]] = []
    left = room
    for item, length in enumerate(lengths):
        start = 0
        while start < length:
            stop = min(start + left, length)
            chunk.append((item, slice(start, stop)))
            left -= stop - start
            start = stop
            if left == 0:
                yield chunk
                chunk, left = [], room
    if chunk:
        yield chunk
