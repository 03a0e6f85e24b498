"""Text as vectors: near in meaning, near in angle.

An embedder is first *fitted* to a corpus, for what is common there says little; the vectors of
one fitted embedder are compared with each other and with nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rasd.jit import compiled
from rasd.retrieval.segment import UInt32s

Float32s = NDArray[np.float32]
Int64s = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Spans:
    """Stretches of a text: ``tokens`` uint32[T], ``starts`` and ``ends`` int64[n] in it."""

    tokens: UInt32s
    starts: Int64s
    ends: Int64s

    def __len__(self) -> int:
        return len(self.starts)

    def of(self, rows: slice | Int64s) -> Spans:
        """Some of them."""
        return Spans(self.tokens, self.starts[rows], self.ends[rows])


class Embedder(Protocol):
    """Makes vectors. Immutable; any thread may use it."""

    @property
    def name(self) -> str:
        """Says which vectors these are."""
        ...

    @property
    def dimension(self) -> int: ...

    def fitted(self, samples: Sequence[Spans]) -> Embedder:
        """For texts like these passages; itself if it needs none."""
        ...

    def embed(self, spans: Spans) -> Float32s:
        """float32[n, dimension], each row of length 1; zeros where there is nothing to say."""
        ...


class TokenMean:
    """The mean of the target's token embeddings, rare tokens first. Needs no model.

    A token weighs log((n + 1) / (m + 1)) where m of n passages hold it, and nothing if none
    does. The mean token of the corpus is taken off, and so is the direction that its passages
    share most: what all have in common tells none apart.
    """

    def __init__(self, matrix: Float32s, name: str = "tokens") -> None:
        """Not fitted yet: all tokens weigh the same.

        Args:
            matrix: float32[V, d], kept, and never modified.
        """
        self.name = name
        self._matrix = matrix
        self._weights = np.ones(len(matrix), np.float32)
        self._mean = np.zeros(matrix.shape[1], np.float32)
        self._shared = np.zeros(matrix.shape[1], np.float32)

    @property
    def dimension(self) -> int:
        """That of the matrix."""
        return int(self._matrix.shape[1])

    def fitted(self, samples: Sequence[Spans]) -> TokenMean:
        """See `Embedder`. Counts each sample once; takes a second per 100M tokens."""
        fit = TokenMean(self._matrix, self.name)
        passages = sum(len(spans) for spans in samples)
        if passages == 0:
            return fit
        holding = np.zeros(len(self._matrix), np.int64)
        counts = np.zeros(len(self._matrix), np.int64)
        for spans in samples:
            _count(spans.tokens, spans.starts, spans.ends, holding, counts)
        rarity = np.log((passages + 1) / (holding + 1))
        fit._weights = np.where(holding > 0, rarity, 0).astype(np.float32)
        fit._mean = (counts / max(counts.sum(), 1)) @ self._matrix
        fit._mean = fit._mean.astype(np.float32)
        vectors = np.concatenate([fit.embed(_thinned(spans)) for spans in samples])
        _, directions = np.linalg.eigh(vectors.T @ vectors)
        fit._shared = np.ascontiguousarray(directions[:, -1], np.float32)
        return fit

    def embed(self, spans: Spans) -> Float32s:
        """See `Embedder`. About 20M tokens per second; tokens beyond the matrix say nothing."""
        sums, weights = _sums(spans.tokens, spans.starts, spans.ends, self._matrix, self._weights)
        sums -= weights[:, None] * self._mean
        sums -= np.outer(sums @ self._shared, self._shared)
        return normalised(sums)


def normalised(rows: Float32s) -> Float32s:
    """Rows of length 1; those that are shorter than 1e-6 become zeros."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(lengths > 1e-6, rows / np.maximum(lengths, 1e-6), 0).astype(np.float32)


def _thinned(spans: Spans, most: int = 4096) -> Spans:
    return spans.of(slice(None, None, len(spans) // most + 1))


@compiled
def _count(tokens: UInt32s, starts: Int64s, ends: Int64s, holding: Int64s, counts: Int64s) -> None:
    """Adds in how many passages each token is, and how often."""
    last = np.full(len(holding), -1, np.int64)
    for row in range(len(starts)):
        for at in range(starts[row], ends[row]):
            token = np.int64(tokens[at])
            if token >= len(holding):
                continue
            counts[token] += 1
            if last[token] != row:
                last[token] = row
                holding[token] += 1


@compiled
def _sums(
    tokens: UInt32s, starts: Int64s, ends: Int64s, matrix: Float32s, weights: Float32s
) -> tuple[Float32s, Float32s]:
    """Per passage the weighted sum of its rows, and the sum of the weights."""
    sums = np.zeros((len(starts), matrix.shape[1]), np.float32)
    totals = np.zeros(len(starts), np.float32)
    for row in range(len(starts)):
        for at in range(starts[row], ends[row]):
            token = np.int64(tokens[at])
            if token >= len(weights) or weights[token] == 0:
                continue
            weight = weights[token]
            totals[row] += weight
            for i in range(matrix.shape[1]):
                sums[row, i] += weight * matrix[token, i]
    return sums, totals
