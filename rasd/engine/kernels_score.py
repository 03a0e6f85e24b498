"""The hot loops of `rasd.engine.calibration`, compiled: from what is known of nodes to scores.

A *cell* is a row float64[3] of the table of what was learned: trials, hits, and the hits that were
expected. Which cell a chance falls into says what it is like; that of a source alone depends on
what the source says, that of several on the chances by each of them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rasd.jit import compiled

Int32s = NDArray[np.int32]
Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
UInt8s = NDArray[np.uint8]

# Columns of what is known, as in `rasd.engine.kernels`.
_Q: Final = 0
_COUNT: Final = 1
_PER_SOURCE: Final = 3

# Bins.
_RANKS: Final = 3  # the best of its siblings, close to it, or neither
_CLOSE: Final = 0.4
_QS: Final = 14
_LENGTHS: Final = 9
_SHARES: Final = 6
_OFS: Final = 4
_SIDES: Final = 11  # see `_side`
_DRAFTS: Final = 9
_KINDS: Final = 3  # drafted, retrieved, both

_DRAFT_AT: Final = 0
_PROMPT_AT: Final = _DRAFT_AT + _QS * _RANKS
_CORPUS_AT: Final = _PROMPT_AT + _LENGTHS * _SHARES * _OFS
_PAIR_AT: Final = _CORPUS_AT + _LENGTHS * _SHARES * _OFS
_FUSED_AT: Final = _PAIR_AT + _SIDES * _SIDES
_LAST_AT: Final = _FUSED_AT + _DRAFTS * _SIDES
CELLS: Final = _LAST_AT + _QS * _KINDS
STAGES: Final = 6

_STRENGTH: Final = 8.0
_LEAST, _MOST = 1e-4, 0.999
_BENEATH_CHANCE: Final = 0.003
_ROUNDS: Final = 4
_TOLERATED: Final = 1e-3


def warm_up() -> None:
    """Compiles, or loads what was compiled before; the first step is then as quick as others."""
    tokens, table = np.zeros(2, np.int32), np.zeros((CELLS, 3))
    parents = np.arange(-1, 1, dtype=np.int32)
    known, sources = np.ones((2, 7), np.float32), np.ones(2, np.uint8)
    _, cells, before = score(parents, sources, known, table, (1.0, 1.0))
    learn((tokens, parents), cells, before, tokens, table, 1.0)


@compiled
def score(
    parents: Int32s,
    sources: UInt8s,
    known: Float32s,
    table: Float64s,
    doubts: tuple[float, float],
) -> tuple[Float32s, Int32s, Float32s]:
    """Scores float32[N]; per node and stage the cell int32[N, 6] that corrected its chance, -1
    for none, and the chance float32[N, 6] it corrected.

    Stages are: the draft alone, the prompt alone, the corpus alone; both retrieved; all; and all
    once siblings exclude each other.
    """
    size = len(parents)
    cells, before = np.full((size, STAGES), -1, np.int32), np.zeros((size, STAGES), np.float32)
    chances, claimed = np.zeros((size, STAGES)), np.zeros((size, STAGES))
    best, final = np.zeros(size), np.zeros(size)
    for node in range(1, size):
        best[parents[node]] = max(best[parents[node]], known[node, _Q])
    for node in range(1, size):
        above = parents[node]
        _alone(known[node], best[above], doubts, cells[node], before[node])
        for stage in range(3):
            if cells[node, stage] >= 0:
                chances[node, stage] = _corrected(table, cells[node], before[node], stage)
                claimed[above, stage] += chances[node, stage]
    for node in range(1, size):
        above = parents[node]
        chances[node, 3] = _retrieved(
            table, cells[node], before[node], chances[node], claimed[above]
        )
        claimed[above, 3] += chances[node, 3]
    for node in range(1, size):
        both = sources[node] & 1 and sources[node] > 1
        final[node] = _fused(
            table, cells[node], before[node], chances[node], claimed[parents[node], 3], both
        )
    _exclude(parents, final)
    scores = np.ones(size)
    for node in range(1, size):
        kind = 0 if sources[node] == 1 else 1 + (sources[node] & 1)
        cells[node, 5] = _LAST_AT + _q_bin(final[node]) * _KINDS + kind
        before[node, 5] = final[node]
        chance = _corrected(table, cells[node], before[node], 5)
        scores[node] = scores[parents[node]] * chance
    return scores.astype(np.float32), cells, before


@compiled
def _alone(
    known: Float32s, best: float, doubts: tuple[float, float], cells: Int32s, before: Float32s
) -> None:
    """Which cells and chances speak for the sources alone; ``best`` is the best drafted sibling."""
    if known[_Q] >= 0:
        rank = (known[_Q] >= best) + (known[_Q] > _CLOSE * best)
        cells[0] = _DRAFT_AT + _q_bin(known[_Q]) * _RANKS + rank
        before[0] = known[_Q] if known[_Q] > 0 else _BENEATH_CHANCE
    for which in range(2):
        column = _COUNT + which * _PER_SOURCE
        if known[column] > 0:
            share, length = known[column] / known[column + 1], known[column + 2]
            cells[1 + which] = _PROMPT_AT if which == 0 else _CORPUS_AT
            cells[1 + which] += _found_bin(share, known[column + 1], length)
            before[1 + which] = share * length / (length + doubts[which])


@compiled
def _retrieved(
    table: Float64s, cells: Int32s, before: Float32s, chances: Float64s, claimed: Float64s
) -> Any:
    """The chance of a node by prompt and corpus together; 0 where neither has it."""
    chance = 1.0 - (1.0 - chances[1]) * (1.0 - chances[2])
    one, two = _side(chances[1], claimed[1]), _side(chances[2], claimed[2])
    if one == 0 or two == 0 or chance <= 0:
        return chance
    cells[3], before[3] = _PAIR_AT + one * _SIDES + two, chance
    chance = _corrected(table, cells, before, 3)
    if chances[1] > 0 and chances[2] > 0:
        return max(chance, chances[1], chances[2])
    return chance


@compiled
def _fused(
    table: Float64s,
    cells: Int32s,
    before: Float32s,
    chances: Float64s,
    claimed: float,
    both: bool,
) -> Any:
    """The chance by all there is. Where ``both`` propose a node, not below that of either."""
    drafted, found = chances[0], chances[3]
    side = _side(found, claimed)
    if cells[0] < 0:
        return found
    if side == 0:
        return drafted
    beneath = cells[0] < _DRAFT_AT + _RANKS
    cells[4] = _FUSED_AT + (0 if beneath else _draft_bin(drafted)) * _SIDES + side
    before[4] = found if beneath else 1.0 - (1.0 - drafted) * (1.0 - found)
    chance = _corrected(table, cells, before, 4)
    return max(chance, drafted, found) if both else chance


@compiled
def _exclude(parents: Int32s, chances: Float64s) -> None:
    """Lowers ``chances``, in place: of siblings only one can be right. Where they claim more than
    that, the odds of all are divided by the same."""
    size = len(parents)
    for _ in range(_ROUNDS):
        sums, slopes = np.zeros(size), np.zeros(size)
        for node in range(1, size):
            sums[parents[node]] += chances[node]
            slopes[parents[node]] += chances[node] * (1.0 - chances[node])
        for node in range(1, size):
            excess = sums[parents[node]] - 1.0
            if excess > _TOLERATED:
                odds = chances[node] / (1.0 - chances[node])
                odds *= np.exp(-min(excess / slopes[parents[node]], 2.0))
                chances[node] = odds / (1.0 + odds)


@compiled
def _corrected(table: Float64s, cells: Int32s, before: Float32s, stage: int) -> Any:
    """A chance with its odds moved by how often the like of it came true.

    Of a cell are known the trials, the hits and the hits that were expected, to which come
    `_STRENGTH` trials that go as expected now.
    """
    chance = min(max(np.float64(before[stage]), _LEAST), _MOST)
    before[stage] = chance
    cell = cells[stage]
    tried, hit, expected = table[cell, 0], table[cell, 1], table[cell, 2]
    right, wrong = _STRENGTH * chance, _STRENGTH * (1.0 - chance)
    odds = chance / (1.0 - chance) * (hit + right) / (tried - hit + wrong)
    odds *= (tried - expected + wrong) / (expected + right)
    return odds / (1.0 + odds)


@compiled
def _q_bin(q: float) -> int:
    if q <= 0:
        return 0
    if q < 0.5:
        return 1 + (q > 0.005) + (q > 0.02) + (q > 0.05) + (q > 0.1) + (q > 0.2) + (q > 0.35)
    return 8 + (q > 0.65) + (q > 0.8) + (q > 0.9) + (q > 0.95) + (q > 0.98)


@compiled
def _found_bin(share: float, of: float, length: float) -> int:
    shares = (share > 0.1) + (share > 0.25) + (share > 0.5) + (share > 0.75) + (share >= 1)
    ofs = (of > 1) + (of > 2) + (of > 5)
    lengths = (length > 2) + (length > 3) + (length > 4) + (length > 6) + (length > 9)
    lengths += (length > 14) + (length > 19) + (length > 29)
    return (lengths * _SHARES + shares) * _OFS + ofs


@compiled
def _side(chance: float, claimed: float) -> int:
    """How a source sees a node: 0 if it says nothing there; 1 to 3 if it says only others."""
    if chance > 0:
        high = (chance > 0.6) + (chance > 0.8) + (chance > 0.93)
        return 4 + (chance > 0.05) + (chance > 0.2) + (chance > 0.4) + high
    return 1 + (claimed > 0.4) + (claimed > 0.8) if claimed > 0 else 0


@compiled
def _draft_bin(chance: float) -> int:
    high = (chance > 0.75) + (chance > 0.9) + (chance > 0.97)
    return 1 + (chance > 0.02) + (chance > 0.08) + (chance > 0.25) + (chance > 0.5) + high


@compiled
def learn(
    tree: tuple[Int32s, Int32s],
    cells: Int32s,
    before: Float32s,
    decided: Int32s,
    table: Float64s,
    keep: float,
) -> None:
    """Enters every child of every node on the decided path into ``table``.

    Args:
        tree: tokens and parents.
        keep: of what a cell knows, the part that stays at each entry.
    """
    tokens, parents = tree
    size = len(tokens)
    depths = np.full(size, -1, np.int64)  # of nodes on the path
    depths[0] = 0
    for node in range(1, size):
        above = depths[parents[node]]
        if above < 0 or above >= len(decided):
            continue
        hit = tokens[node] == decided[above]
        if hit:
            depths[node] = above + 1
        for stage in range(STAGES):
            cell = cells[node, stage]
            if cell >= 0:
                table[cell, 0] = table[cell, 0] * keep + 1.0
                table[cell, 1] = table[cell, 1] * keep + hit
                table[cell, 2] = table[cell, 2] * keep + before[node, stage]
