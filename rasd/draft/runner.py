"""The forwards of an EAGLE drafter: rows of decided tokens, and trees behind them.

Owns the head and its KV cache; knows nothing of queries, positions and features that wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from torch import Tensor

from rasd.config import DrafterConfig
from rasd.draft import kernels
from rasd.draft.chances import Chances
from rasd.draft.eagle_head import EagleHead
from rasd.draft.expand import FIXED_ROWS, Beam, Candidates, Shape, Top, expand
from rasd.draft.packed import Layout, PackedHead
from rasd.draft.rows import Int64s, Rows
from rasd.draft.weights import SharedWeights
from rasd.errors import ModelError
from rasd.forward.linear import Linear
from rasd.forward.rounded import Rounded
from rasd.kv import Plan
from rasd.kv.view import Item, place

CATCH_UP_ROWS: Final = 256
"""Most rows of one catch-up forward: bounds its attention's mask, where that needs one."""

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
            items, positions = trees.place(beam)
            placed = self._placed(positions, items)
            outputs, top = self._head.forward(
                beam.tokens, outputs, beam.above, *placed, self._known
            )
            return top

        candidates = expand(self._head.top(outputs, self._known), step, shape, nodes)
        for sequence in sequences:
            self.rows.keep(sequence, 0)
        rows = len(candidates.owners) / (trees.depth + 1) / len(sequences)
        self._usual_rows += (rows - self._usual_rows) / 16
        return candidates

    def _append(self, sizes: dict[int, int], tokens: Int64s, features: Tensor) -> Tensor:
        """One forward of rows behind each sequence, which sees itself and what is before it."""
        items: list[Item] = []
        start = 0
        for sequence, rows in sizes.items():
            context = self.rows.reserve(sequence, rows)
            first = len(context) - rows
            positions = np.arange(first, len(context))
            sees = np.tri(rows, dtype=np.bool_)
            items.append(Item(start, start + rows, first, context, positions, sees))
            start += rows
        positions = np.concatenate([item.positions for item in items])
        return self._head.forward(tokens, features, None, *self._placed(positions, items))[0]

    def _placed(self, positions: Int64s, items: list[Item]) -> tuple[Plan, tuple[Tensor, Tensor]]:
        """The plan of packed rows, and the cache.

        Args:
            positions: int64[T], of the rows.
            items: one per sequence; where their rows lie, and what those see.
        """
        own = [item.slots[len(item.slots) - (item.stop - item.start) :] for item in items]
        slots = place(np.concatenate(own), self._device)
        at = torch.from_numpy(positions).to(self._device)[None]
        return Plan(at, slots, items, (None,), self._dtype, self._device), self.rows.states


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
        self._depths = np.zeros((len(sequences), most), np.int64)
        self.depth = 0

    def place(self, beam: Beam) -> tuple[list[Item], Int64s]:
        """The nodes of one level: their items, and int64[R] positions."""
        owners, rows = beam.owners, np.arange(len(beam))
        starts = np.searchsorted(owners, np.arange(len(self._contexts) + 1))
        index = self._placed[owners] + rows - starts[owners]
        self._seen = self._seen[beam.above]
        self._seen[rows, index] = True
        self._depths[owners, index] = self.depth
        self._placed += np.diff(starts)
        items: list[Item] = []
        for owner in np.flatnonzero(np.diff(starts)).tolist():
            start, stop = int(starts[owner]), int(starts[owner + 1])
            nodes, length = int(self._placed[owner]), int(self._lengths[owner])
            context = self._contexts[owner][: length + nodes]
            positions = length + self._depths[owner, :nodes]
            items.append(
                Item(start, stop, length, context, positions, self._seen[start:stop, :nodes])
            )
        self.depth += 1
        return items, self._lengths[owners] + self.depth - 1


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
