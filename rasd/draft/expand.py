"""The tree of EAGLE-2 (arXiv 2406.16858): expand the best nodes, keep the best of all.

Pure functions; knows neither the head nor its cache. Shapes: B sequences, R expanded nodes ("rows")
of all sequences, k candidates below each, K known tokens per distribution. Candidate c stands below
row c // k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rasd.draft import kernels
from rasd.tree import DRAFT, Bools, Draft, DraftTree, Float32s

Int64s = NDArray[np.int64]


FIXED_ROWS: Final = 8
"""Rows that cost as much as a forward does whatever it runs: reading the weights."""

REACH: Final = 0.9
"""How often the next token is among the candidates below a node that was accepted."""


@dataclass(frozen=True, slots=True)
class Top:
    """The most probable tokens after R nodes, best first.

    Attributes:
        ids: int64[R, K]; logprobs: float32[R, K].
    """

    ids: Int64s
    logprobs: Float32s

    @classmethod
    def none(cls, rows: int) -> Top:
        """K is 0: none were wanted."""
        return cls(np.empty((rows, 0), np.int64), np.empty((rows, 0), np.float32))


@dataclass(frozen=True, slots=True)
class Beam:
    """The nodes of one level that are expanded, by sequence, then best first.

    Attributes:
        owners: int64[R], ascending; the sequence of each.
        tokens: int64[R].
        scores: float32[R]; log-probability of the path.
        above: int64[R]; the parent, as a row of the level before.
        candidates: int64[R]; which candidate each is, -1 for a root.
    """

    owners: Int64s
    tokens: Int64s
    scores: Float32s
    above: Int64s
    candidates: Int64s

    def __len__(self) -> int:
        return len(self.owners)

    def __getitem__(self, chosen: Bools) -> Beam:
        return Beam(
            self.owners[chosen],
            self.tokens[chosen],
            self.scores[chosen],
            self.above[chosen],
            self.candidates[chosen],
        )

    @classmethod
    def roots(cls, count: int) -> Beam:
        """Where every tree begins."""
        none = np.full(count, -1, np.int64)
        return cls(np.arange(count), none, np.zeros(count, np.float32), none, none)


Step = Callable[[Beam], Top]
"""One forward of a level's nodes; in the first level their parents are the B roots."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Every node that was scored, level by level, and what it was scored from.

    Attributes:
        owners: int64[R]; above: int64[R], the candidate each row expands, -1 for a root.
        tokens: int64[R, k]; scores: float32[R, k], log-probability of the path, never above the
            parent's.
        top: the distribution after every row.
    """

    owners: Int64s
    above: Int64s
    tokens: Int64s
    scores: Float32s
    top: Top


def _as_they_are(probabilities: Float32s) -> NDArray[np.float64]:
    return probabilities.astype(np.float64)


@dataclass(frozen=True, slots=True)
class Shape:
    """How trees grow: at most ``levels`` deep, at most ``top_k`` nodes expanded per level.

    ``row_worth`` is what expanding one node must bring, in expected tokens; a level must bring
    that of `FIXED_ROWS` nodes beside that of its own. ``chances`` tells of path probabilities how
    often the text goes along.
    """

    levels: int
    top_k: int
    row_worth: float = 0.0
    chances: Callable[[Float32s], NDArray[np.float64]] = _as_they_are


def expand(roots: Top, step: Step, shape: Shape, nodes: Int64s) -> Candidates:
    """Grows B trees; ``step`` is called at most ``shape.levels - 1`` times.

    Args:
        roots: what follows each root, K at least ``top_k``.
        nodes: int64[B]; how many nodes `select` will keep of each. Nodes that cannot be among
            them are not expanded, which leaves the trees as they are.
    """
    top, beam, width = roots, Beam.roots(len(nodes)), shape.top_k
    best = np.full((len(nodes), max(int(nodes.max()), 1)), -np.inf, np.float32)
    grown: list[tuple[Beam, Int64s, Float32s, Top]] = []
    rows = 0
    for level in range(shape.levels):
        if level:
            top = step(beam)
        tokens = np.ascontiguousarray(top.ids[:, :width])
        totals = beam.scores[:, None] + top.logprobs[:, :width]
        grown.append((beam, tokens, totals, top))
        picked = kernels.promising(totals, beam.owners, width, best, nodes)
        above = picked // width
        beam = Beam(
            beam.owners[above],
            tokens.reshape(-1)[picked],
            totals.reshape(-1)[picked],
            above,
            picked + rows * width,
        )
        rows += len(totals)
        beam = worthwhile(beam, shape)
        if len(beam) == 0:
            break
    return _together(grown)


def worthwhile(beam: Beam, shape: Shape) -> Beam:
    """The nodes that bring more than they cost; none if together they do not pay for a level."""
    if shape.row_worth <= 0.0:
        return beam
    net = REACH * shape.chances(np.exp(beam.scores)) - shape.row_worth
    paying = net > 0
    if float(net[paying].sum()) <= FIXED_ROWS * shape.row_worth:
        paying[:] = False
    return beam[paying]


def select(candidates: Candidates, sequence: int, root: int, nodes: int) -> Draft:
    """The ``nodes`` best candidates of one sequence as a tree below ``root``.

    Prefix-closed and in topological order without further work: a child never scores above its
    parent and comes later, and ties keep the earlier.
    """
    rows = np.flatnonzero(candidates.owners == sequence)
    tokens, parents, logprobs, expanded, expanding = kernels.select(
        rows, candidates.scores, candidates.above, candidates.tokens, nodes
    )
    tokens[0] = root
    sources = np.full(len(tokens), DRAFT, np.uint8)
    sources[0] = 0
    # In float64, where exp keeps the order of float32 arguments; then rounded.
    scores = np.exp(logprobs.astype(np.float64)).astype(np.float32)
    return Draft(
        DraftTree(tokens, parents, scores, sources),
        expanded,
        candidates.top.ids[expanding].astype(np.int32),
        candidates.top.logprobs[expanding],
    )


def _together(grown: list[tuple[Beam, Int64s, Float32s, Top]]) -> Candidates:
    beams, tokens, scores, tops = zip(*grown, strict=True)
    return Candidates(
        np.concatenate([beam.owners for beam in beams]),
        np.concatenate([beam.candidates for beam in beams]),
        np.concatenate(tokens),
        np.concatenate(scores),
        Top(
            np.concatenate([top.ids for top in tops]),
            np.concatenate([top.logprobs for top in tops]),
        ),
    )
