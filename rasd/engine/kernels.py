"""The hot loops of `rasd.engine.branches` and `rasd.engine.calibration`, compiled.

What is *known* of a node is a row float32[7] of columns: `Q`, the drafter's probability of the
token at its parent, `BENEATH` the best ones it told, or `UNKNOWN`; and for prompt and corpus each
`COUNT`, how often the node occurred, `OF` how many occurrences its parent, and `LENGTH`, the
tokens that match before it; zeros where the source does not propose the node.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from rasd.jit import compiled

Int32s = NDArray[np.int32]
Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
UInt8s = NDArray[np.uint8]

Q: Final = 0
COUNT: Final = 1
OF: Final = 2
LENGTH: Final = 3
COLUMNS: Final = 7
PER_SOURCE: Final = 3
BENEATH: Final = 0.0
UNKNOWN: Final = -1.0

Branches = tuple[Int32s, Int32s, UInt8s, Int32s, Int32s, Float32s]
"""Tokens, parents, sources, origins, rows of the drafter's distributions (-1 where there is
none), and what is known, float32[N, 7]."""


def warm_up() -> None:
    """Compiles, or loads what was compiled before; the first step is then as quick as others."""
    one, floats = np.zeros(1, np.int32), np.zeros(1, np.float32)
    top = (one.reshape(1, 1), floats.reshape(1, 1))
    branches = start(0, (one, one - 1, floats), one, 1, 1)
    tokens, parents, sources, _, _, known = insert(
        branches, 0, (one, one - 1, one), (1, 1), (2, COUNT, -1), 1, top
    )
    table = np.zeros((CELLS, 3))
    scores, cells, before = score(parents, sources, known, table, (1.0, 1.0))
    ends(parents, scores, sources, 1)
    learn((tokens, parents), cells, before, one, table, 1.0)


# --- branches ---------------------------------------------------------------------------------


@compiled
def start(
    root: int,
    draft: tuple[Int32s, Int32s, Float32s],
    expanded: Int32s,
    source: int,
    depth: int,
) -> Branches:
    """The branches of a draft, its tokens, parents and scores; none deeper than ``depth``."""
    tokens, parents, scores = draft
    size = len(tokens)
    out = _empty(size)
    place, deep = np.full(size, -1, np.int32), np.zeros(size, np.int32)
    out[0][0], out[1][0], out[2][0], place[0], at = root, -1, 0, 0, 1
    for node in range(1, size):
        above = parents[node]
        deep[node] = deep[above] + 1
        if deep[node] > depth:
            continue
        out[0][at], out[1][at], out[2][at] = tokens[node], place[above], source
        place[node] = at
        of = np.float64(scores[above])
        out[5][at, Q] = min(np.float64(scores[node]) / of, 1.0) if of > 0 else 0.0
        at += 1
    for row in range(len(expanded)):
        if place[expanded[row]] >= 0:
            out[4][place[expanded[row]]] = row
    return out[0][:at], out[1][:at], out[2][:at], out[3][:at], out[4][:at], out[5][:at]


@compiled
def insert(
    branches: Branches,
    base: int,
    trie: tuple[Int32s, Int32s, Int32s],
    sizes: tuple[int, int],
    of_source: tuple[int, int, int],
    depth: int,
    top: tuple[Int32s, Float32s],
) -> Branches:
    """A trie, its tokens, parents and counts, below the node ``base``.

    What matches longer is believed where a source speaks twice.

    Args:
        sizes: occurrences in all, and how many tokens match before them.
        of_source: its bit, its first column, and the origin of its first node, -1 for none.
        top: the drafter's best tokens and their log-probabilities, of each row.
    """
    source, column, first_row = of_source
    size, count = len(branches[0]), len(trie[0])
    out, first, following = _with_room(branches, count)
    tokens, parents, sources, origins, rows, known = out
    above_all = _depth(parents, base)
    place, deep = np.full(count, -1, np.int32), np.full(count, above_all + 1, np.int64)
    for i in range(count):
        above = trie[1][i]
        parent = base if above < 0 else place[above]
        if above >= 0:
            deep[i] = deep[above] + 1
        if parent < 0 or deep[i] > depth:
            continue
        node = _child(tokens, first, following, parent, trie[0][i])
        if node < 0:
            node = size
            size += 1
            tokens[node], parents[node] = trie[0][i], parent
            known[node, Q] = _drafted(rows[parent], tokens[node], top[0], top[1])
            following[node], first[parent] = first[parent], node
        place[i] = node
        sources[node] |= source
        if first_row >= 0 and origins[node] < 0:
            origins[node] = first_row + i
        of = np.int64(sizes[0]) if above < 0 else np.int64(trie[2][above])
        length = sizes[1] + deep[i] - above_all - 1
        _believe(known[node], column, np.int64(trie[2][i]), of, length)
    return tokens[:size], parents[:size], sources[:size], origins[:size], rows[:size], known[:size]


@compiled
def _believe(known: Float32s, column: int, count: int, of: int, length: int) -> None:
    """Enters what a source says of a node, unless it said more already."""
    if count > 0 and length >= known[column + LENGTH - COUNT]:
        known[column] = min(count, of)
        known[column + OF - COUNT] = of
        known[column + LENGTH - COUNT] = length


@compiled
def _with_room(branches: Branches, more: int) -> tuple[Branches, Int32s, Int32s]:
    """A copy with room for ``more`` nodes; the newest child of each node, the one before it."""
    size = len(branches[0])
    out = _empty(size + more)
    first, following = np.full(size + more, -1, np.int32), np.full(size + more, -1, np.int32)
    for node in range(size):
        out[0][node], out[1][node], out[2][node] = (
            branches[0][node],
            branches[1][node],
            branches[2][node],
        )
        out[3][node], out[4][node] = branches[3][node], branches[4][node]
        for i in range(COLUMNS):
            out[5][node, i] = branches[5][node, i]
        if node > 0:
            above = branches[1][node]
            following[node], first[above] = first[above], node
    return out, first, following


@compiled
def _child(tokens: Int32s, first: Int32s, following: Int32s, node: int, token: int) -> int:
    """The child of ``node`` with ``token``, or -1."""
    child = first[node]
    while child >= 0 and tokens[child] != token:
        child = following[child]
    return child  # type: ignore[no-any-return]


@compiled
def _depth(parents: Int32s, node: int) -> int:
    depth = 0
    while node > 0:
        depth, node = depth + 1, parents[node]
    return depth


@compiled
def _empty(size: int) -> Branches:
    known = np.zeros((size, COLUMNS), np.float32)
    origins, rows = np.full(size, -1, np.int32), np.full(size, -1, np.int32)
    tokens, parents = np.empty(size, np.int32), np.empty(size, np.int32)
    return tokens, parents, np.zeros(size, np.uint8), origins, rows, known


@compiled
def _drafted(row: int, token: int, top_ids: Int32s, top_logprobs: Float32s) -> float:
    """The drafter's probability of a token where it did not propose it."""
    if row < 0:
        return UNKNOWN
    for at in range(top_ids.shape[1]):
        if top_ids[row, at] == token:
            chance = np.exp(np.float64(top_logprobs[row, at]))
            return min(chance, 1.0) if chance >= 0 else BENEATH  # not a number is no chance
    return BENEATH


@compiled
def ends(parents: Int32s, scores: Float32s, sources: UInt8s, drafted: int) -> Float32s:
    """float32[N]: the probability that the accepted path ends at a node; 0 for the root, for
    nodes that are not ``drafted``, and for those that have other children than drafted ones."""
    out = scores.copy()
    for node in range(1, len(parents)):
        out[parents[node]] -= scores[node]
    for node in range(1, len(parents)):
        if sources[node] & ~drafted:
            out[parents[node]] = 0.0
        if not sources[node] & drafted:
            out[node] = 0.0
    out[0] = 0.0
    return out


# --- chances ----------------------------------------------------------------------------------

_DEPTHS: Final = 5
_QS: Final = 14
_LENGTHS: Final = 9
_SHARES: Final = 6
_OFS: Final = 4
_SIDES: Final = 11  # see `_side`
_DRAFTS: Final = 9
_KINDS: Final = 3  # drafted, retrieved, both

_DRAFT_AT: Final = 0
_PROMPT_AT: Final = _DRAFT_AT + _QS * _DEPTHS
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
    deep, final = np.zeros(size, np.int64), np.zeros(size)
    for node in range(1, size):
        above = parents[node]
        deep[node] = deep[above] + 1
        _alone(known[node], deep[node], doubts, cells[node], before[node])
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
    known: Float32s, depth: int, doubts: tuple[float, float], cells: Int32s, before: Float32s
) -> None:
    """Which cells and chances speak for the sources alone."""
    if known[Q] >= 0:
        cells[0] = _DRAFT_AT + _q_bin(known[Q]) * _DEPTHS + min(depth, _DEPTHS) - 1
        before[0] = known[Q] if known[Q] > 0 else _BENEATH_CHANCE
    for which in range(2):
        column = COUNT + which * PER_SOURCE
        if known[column] > 0:
            share, length = known[column] / known[column + 1], known[column + 2]
            cells[1 + which] = _PROMPT_AT if which == 0 else _CORPUS_AT
            cells[1 + which] += _found_bin(share, known[column + 1], length)
            before[1 + which] = share * length / (length + doubts[which])


@compiled
def _retrieved(
    table: Float64s, cells: Int32s, before: Float32s, chances: Float64s, claimed: Float64s
) -> float:
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
) -> float:
    """The chance by all there is. Where ``both`` propose a node, not below that of either."""
    drafted, found = chances[0], chances[3]
    side = _side(found, claimed)
    if cells[0] < 0:
        return found
    if side == 0:
        return drafted
    beneath = cells[0] < _DRAFT_AT + _DEPTHS
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
def _corrected(table: Float64s, cells: Int32s, before: Float32s, stage: int) -> float:
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
