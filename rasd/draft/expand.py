"""The tree of EAGLE-2 (arXiv 2406.16858): expand the best nodes, keep the best of all.

Pure functions; knows neither the head nor its cache. Shapes: B sequences, C candidates, k beams,
K known tokens per distribution, H the width of a feature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rasd.tree import DRAFT, Draft, DraftTree, Float32s, Int32s

Distribution = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Features [..., H] to the most probable tokens, best first: ids and log-probabilities [..., K]."""

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""One forward of k nodes per sequence: tokens [B, k], their parents' features [B, k, H] and the
parents as indices of all nodes stepped before, -1 for the root, [B, k]; to features [B, k, H]."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Every node that was scored, level by level, for B sequences; on the CPU.

    Attributes:
        tokens: int64[B, C].
        scores: float32[B, C]; log-probability of the path, never above the parent's.
        parents: int64[B, C]; candidate above, -1 for the root.
        expanded: int64[B, E]; candidates whose distribution is known; the root, -1, first.
        top_ids: int64[B, E, K]; top_logprobs: float32[B, E, K].
    """

    tokens: NDArray[np.int64]
    scores: Float32s
    parents: NDArray[np.int64]
    expanded: NDArray[np.int64]
    top_ids: NDArray[np.int64]
    top_logprobs: Float32s


def expand(
    features: Tensor, distribution: Distribution, step: Step, *, levels: int, top_k: int
) -> Candidates:
    """Grows trees of ``levels`` levels below B roots, ``top_k`` nodes expanded per level.

    Args:
        features: [B, H], the head's output at each root.
        levels: at least 1; ``step`` is called levels - 1 times.
        top_k: at most K.
    """
    root = torch.full((len(features), 1), -1, device=features.device)
    ids, logprobs = distribution(features)
    tokens, scores, above = ids[:, :top_k], logprobs[:, :top_k], root.expand(-1, top_k)
    grown = [(tokens, scores, above, root, ids[:, None], logprobs[:, None])]
    features = features[:, None].expand(-1, top_k, -1)
    # The beam: candidates, with the nodes above them as step counts those, and their features.
    beam = torch.arange(top_k, device=features.device).expand(len(features), -1)
    for level in range(levels - 1):
        features = step(tokens, features, above)
        ids, logprobs = distribution(features)
        below = ids[..., :top_k].flatten(1)
        totals = (scores[..., None] + logprobs[..., :top_k]).flatten(1)
        grown.append((below, totals, beam.repeat_interleave(top_k, 1), beam, ids, logprobs))
        # Sorted, not topk: among equals the earlier candidate goes first, always.
        best = totals.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
        tokens, scores = below.gather(1, best), totals.gather(1, best)
        owner = best // top_k
        above = owner + level * top_k
        beam = best + (1 + level * top_k) * top_k
        features = features.gather(1, owner[..., None].expand_as(features))
    return Candidates(*(torch.cat(part, dim=1).cpu().numpy() for part in zip(*grown, strict=True)))


def select(candidates: Candidates, row: int, root: int, nodes: int) -> Draft:
    """The ``nodes`` best candidates of one sequence as a tree below ``root``.

    Prefix-closed and in topological order without further work: a child never scores above its
    parent and comes later, and ties keep the earlier.
    """
    scores = candidates.scores[row]
    kept = np.sort(np.argsort(-scores, kind="stable")[:nodes])
    index = np.full(len(scores) + 1, -1, np.int32)  # the last entry serves the root, -1
    index[kept] = np.arange(1, len(kept) + 1, dtype=np.int32)
    index[-1] = 0
    tree = DraftTree(
        _after(root, candidates.tokens[row, kept]),
        _after(-1, index[candidates.parents[row, kept]]),
        # In float64, where exp keeps the order of float32 arguments; then rounded.
        np.exp(np.append(0.0, scores[kept]).astype(np.float64)).astype(np.float32),
        np.append(np.uint8(0), np.full(len(kept), DRAFT, np.uint8)),
    )
    expanded = index[candidates.expanded[row]]
    known = np.flatnonzero(expanded >= 0)
    known = known[np.argsort(expanded[known])]
    return Draft(
        tree,
        expanded[known],
        candidates.top_ids[row, known].astype(np.int32),
        candidates.top_logprobs[row, known],
    )


def _after(first: int, rest: NDArray[Any]) -> Int32s:
    out = np.empty(len(rest) + 1, np.int32)
    out[0] = first
    out[1:] = rest
    return out
