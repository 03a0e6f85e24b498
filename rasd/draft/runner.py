"""The forwards of an EAGLE drafter: rows of decided tokens, and trees behind them.

Owns the head and its KV cache; knows nothing of queries, positions and features that wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rasd.config import DrafterConfig
from rasd.draft import kernels
from rasd.draft.chances import Chances
from rasd.draft.eagle_head import EagleHead
from rasd.draft.expand import FIXED_ROWS, Beam, Candidates, Shape, Top, expand
from rasd.draft.packed import Layout, PackedHead, Span
from rasd.draft.rows import Int64s, Rows, consecutive
from rasd.draft.weights import SharedWeights
from rasd.errors import ModelError
from rasd.forward.linear import Linear
from rasd.forward.rounded import Rounded
from rasd.tree import Bools

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
        rows: the sequences' keys and values; callers open and close sequences and see to free
            pages.
        top_k: nodes expanded per level.
        chances: how often nodes turned out to be right.
        tree_rows: most rows of one sequence's tree.
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
        head = head.to(self._device, self.dtype).eval()
        rounds = config.dtype == "auto" and self.dtype == torch.bfloat16
        rounds = rounds and Rounded.serves(self._device)
        self._dtype = torch.float32 if rounds else self.dtype
        shared = shared.to(self._device, self.dtype)
        layout: Layout = Rounded if rounds else Linear
        self._head = PackedHead(head, shared, layout, self._dtype, config.kv_slots)
        self.top_k = min(config.top_k, self.vocabulary)
        self._known = min(max(config.top_k, KNOWN_TOKENS), self.vocabulary)
        self.tree_rows = (config.levels - 1) * self.top_k
        self.catch_up_rows = CATCH_UP_ROWS * CATCH_UP_FORWARDS.get(self._device.type, 4)
        size = (self._head.kv_heads, self._head.dim)
        self.rows = Rows(*size, config.kv_slots, config.page_size, self._dtype, self._device)
        self.chances = Chances()
        self._usual_rows = self.top_k / 2  # of a level and sequence, on average
        kernels.warm_up()

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
        outputs: dict[int, Tensor] = {}
        for chunk in _chunks([len(t) for t in tokens], CATCH_UP_ROWS):
            sizes = {sequences[i]: part.stop - part.start for i, part in chunk}
            out = self._append(
                sizes,
                np.concatenate([tokens[i][part] for i, part in chunk]),
                torch.cat([features[i][part] for i, part in chunk]).to(self._device, self._dtype),
            )
            for sequence, rows in sizes.items():
                self.rows.keep(sequence, rows)
            last = out[np.cumsum([*sizes.values()]) - 1]
            outputs.update(zip(sizes, last, strict=True))
        return [outputs[sequence] for sequence in sequences]

    def grow(
        self,
        sequences: list[int],
        features: list[Tensor],
        nodes: Int64s,
        levels: int,
        worth: float,
    ) -> Candidates:
        """Scores trees behind each sequence; leaves no rows.

        Args:
            features: [H] each, the output at the sequence's last row.
            nodes: how many of each tree will be kept; levels: how deep trees may grow.
            worth: see `rasd.stages.DraftRequest`; of a level with as many rows as levels have on
                average.

        Raises:
            KVExhausted: pages ran out; room for trees is left with some sequences.
        """
        usual = FIXED_ROWS + self._usual_rows * len(sequences)
        shape = Shape(levels, self.top_k, worth / usual, self.chances.of)
        trees = _Trees(self.rows, sequences, (levels - 1) * self.top_k)
        outputs = torch.stack(features)

        def step(beam: Beam) -> Top:
            nonlocal outputs
            spans, slots, positions = trees.place(beam)
            outputs = self._forward(
                beam.tokens, outputs[self._tensor(beam.above)], positions, slots, spans
            )
            return self._top(outputs)

        candidates = expand(self._top(outputs), step, shape, nodes)
        for sequence in sequences:
            self.rows.keep(sequence, 0)
        rows = len(candidates.owners) / (trees.depth + 1) / len(sequences)
        self._usual_rows += (rows - self._usual_rows) / 16
        return candidates

    def _append(self, sizes: dict[int, int], tokens: Int64s, features: Tensor) -> Tensor:
        """One forward of rows behind each sequence, which sees itself and what is before it."""
        spans: list[_Placed] = []
        slots: list[Int64s] = []
        positions: list[Int64s] = []
        start = 0
        for sequence, rows in sizes.items():
            context = self.rows.reserve(sequence, rows)
            before = ~np.tri(rows, dtype=np.bool_) if rows > 1 else None
            spans.append(_Placed(start, start + rows, context, before))
            slots.append(context[-rows:])
            positions.append(np.arange(len(context) - rows, len(context)))
            start += rows
        return self._forward(
            tokens, features, np.concatenate(positions), np.concatenate(slots), spans
        )

    def _forward(
        self,
        tokens: Int64s,
        features: Tensor,
        positions: Int64s,
        slots: Int64s,
        spans: list[_Placed],
    ) -> Tensor:
        """One forward of packed rows: tokens [T], features [T, H], to features [T, H]."""
        return self._head.forward(
            self._tensor(tokens),
            features,
            self._tensor(positions),
            self.rows.states,
            consecutive(slots) or self._tensor(slots),
            [self._span(placed) for placed in spans],
        )

    def _span(self, placed: _Placed) -> Span:
        context, hidden = placed.context, placed.hidden
        return Span(
            placed.start,
            placed.stop,
            consecutive(context) or self._tensor(context),
            len(context),
            None if hidden is None else self._tensor(hidden),
        )

    def _top(self, features: Tensor) -> Top:
        logits = self._head.logits(features)
        top = logits.log_softmax(-1, dtype=torch.float32).topk(self._known)
        return Top(top.indices.cpu().numpy(), top.values.cpu().numpy())

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A `Span` whose arrays are numpy's."""

    start: int
    stop: int
    context: Int64s
    hidden: Bools | None


class _Trees:
    """Where the nodes of growing trees stand, and what they see: themselves and those above.

    Args:
        rows: makes room for ``most`` nodes behind each of the sequences.

    Attributes:
        depth: levels placed.
    """

    def __init__(self, rows: Rows, sequences: list[int], most: int) -> None:
        self._contexts = [rows.reserve(sequence, most) for sequence in sequences]
        self._lengths = np.array([len(context) - most for context in self._contexts])
        self._placed = np.zeros(len(sequences), np.int64)  # nodes of each so far
        self._seen = np.zeros((len(sequences), most), np.bool_)  # per row of the last level
        self.depth = 0

    def place(self, beam: Beam) -> tuple[list[_Placed], Int64s, Int64s]:
        """The nodes of one level: their spans, int64[R] slots and int64[R] positions."""
        owners, rows = beam.owners, np.arange(len(beam))
        starts = np.searchsorted(owners, np.arange(len(self._contexts) + 1))
        index = self._placed[owners] + rows - starts[owners]
        self._seen = self._seen[beam.above]
        self._seen[rows, index] = True
        self._placed += np.diff(starts)
        spans: list[_Placed] = []
        slots: list[Int64s] = []
        for owner in np.unique(owners).tolist():
            start, stop = int(starts[owner]), int(starts[owner + 1])
            nodes, length = int(self._placed[owner]), int(self._lengths[owner])
            context = self._contexts[owner][: length + nodes]
            hidden = ~self._seen[start:stop, :nodes]
            spans.append(_Placed(start, stop, context, hidden if hidden.any() else None))
            slots.append(context[length + nodes - (stop - start) :])
        self.depth += 1
        return spans, np.concatenate(slots), self._lengths[owners] + self.depth - 1


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
