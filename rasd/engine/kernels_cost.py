"""The hot loops of `rasd.engine.cost` and `budget`, compiled: every step runs them several times.

A *table* is what is known of calls: seconds float64[C, S] by column and size, measurements behind
each float64[C, S], fading, and bool[C], which columns have any. Changed in place.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from rasd.jit import compiled

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]
Table = tuple[Float64s, Float64s, Bools]

_SLOWER, _FASTER = 0.1, 0.2
_BOUND: Final = 1.5
_ELSEWHERE: Final = 0.25
_KNOWN: Final = 10.0
_FORGET: Final = 0.97


def warm_up() -> None:
    """Compiles, or loads what was compiled before; the first step is then as quick as others."""
    sizes = np.asarray([1.0, 2.0])
    table = np.ones((1, 2)), np.zeros((1, 2)), np.zeros(1, np.bool_)
    observe(table, sizes, np.ones((2, 2)), 0, 1.0, 1.0, False)
    curve = ascending(table[0][0], table[1][0])
    scores = np.ones(2, np.float32)
    one(curve, sizes, 1.0)
    promise(scores, 1, 1.0, 0.0)
    share(best(scores, 1, 1.0), np.ones(1, np.int64), (curve, sizes), (1.0, 1.0, 1.0), 0.0, 1.0)


@compiled
def observe(
    table: Table,
    sizes: Float64s,
    near: Float64s,
    column: int,
    size: float,
    seconds: float,
    measured: bool,
) -> None:
    """A call took ``seconds``: moves its own entry, and others the more the less is known of them.

    Args:
        near: float64[S, S], how much a measurement of one size says of another.
        measured: whether any call was before.
    """
    costs, known, met = table
    place = _nearest(sizes, size)
    ratio = seconds / _between(costs[column], sizes, min(size, sizes[-1]))
    if measured:
        ratio = min(max(ratio, 1 / _BOUND), _BOUND)
    trials = known[column, place]
    rate = 1.0
    if trials > 0:
        rate = max(min(1 / (1 + trials), 0.5), _FASTER if ratio < 1 else _SLOWER)
    change = rate * (ratio - 1)
    for c in range(len(costs)):
        for s in range(len(sizes)):
            part = _ELSEWHERE
            if c == column:
                part = near[place, s] if met[column] else 1.0
            part = 1.0 if c == column and s == place else part / (1 + 4 * known[c, s])
            costs[c, s] *= 1 + change * part
    known *= _FORGET
    known[column, place] = min(trials + 1, _KNOWN)
    met[column] = True


@compiled
def ascending(values: Float64s, weights: Float64s) -> Float64s:
    """The nearest values that never fall; where they do, neighbours share their mean."""
    means, sums, counts = np.empty_like(values), np.empty_like(values), np.empty_like(values)
    blocks = 0
    for i in range(len(values)):
        means[blocks], sums[blocks], counts[blocks] = values[i], weights[i], 1
        while blocks and means[blocks - 1] > means[blocks]:
            low, high = blocks - 1, blocks
            total = sums[low] + sums[high]
            means[low] = (means[low] * sums[low] + means[high] * sums[high]) / total
            sums[low] = total
            counts[low] += counts[high]
            blocks -= 1
        blocks += 1
    out, at = np.empty_like(values), 0
    for block in range(blocks):
        for _ in range(int(counts[block])):
            out[at] = means[block]
            at += 1
    return out


@compiled
def one(curve: Float64s, sizes: Float64s, size: float) -> float:
    """Seconds at a size of at least 1; beyond the last in proportion."""
    beyond = max(size / sizes[-1], 1.0)
    return float(_between(curve, sizes, min(size, sizes[-1])) * beyond)


@compiled
def best(scores: Float32s, limit: int, trust: float) -> Float32s:
    """The best ``limit`` scores behind the root, in their order, times ``trust``.

    Of equal scores the earlier ones: a parent's is never below its child's.
    """
    below = scores[1:]
    if len(below) <= limit:
        return below * np.float32(trust)
    keep = np.zeros(len(below), np.bool_)
    keep[np.argsort(-below, kind="mergesort")[: max(limit, 0)]] = True
    return below[keep] * np.float32(trust)


@compiled
def promise(scores: Float32s, limit: int, trust: float, price: float) -> float:
    """What the best nodes bring beyond their price."""
    total = 0.0
    for score in best(scores, limit, trust):
        total += max(np.float64(score) - price, 0.0)
    return total


@compiled
def share(
    scores: Float32s,
    counts: Int64s,
    cost: tuple[Float64s, Float64s],
    load: tuple[float, float, float],
    sunk_s: float,
    usual_s: float,
) -> tuple[Int64s, float]:
    """How many nodes each of B trees keeps, int64[B]; and seconds that a token costs this time.

    Args:
        scores: of all trees, one after the other; counts: of each.
        cost: of a verify, a curve and its sizes.
        load: rows that draw, rows of the step, sequences that gain a token.
        sunk_s: what went by before.
        usual_s: that a token cost lately; it is not worth more in this step.
    """
    order = np.argsort(-scores, kind="mergesort")
    alone, rows, gaining = load
    tokens, most, count = gaining, 0.0, 0
    tokens_at = np.empty(len(scores) + 1)
    for nodes in range(len(scores) + 1):
        if nodes:
            tokens += scores[order[nodes - 1]]
        tokens_at[nodes] = tokens
        rate = tokens / max(one(cost[0], cost[1], alone + nodes) + sunk_s, 1e-9)
        if rate > most:
            most, count = rate, nodes
    now_s = max(1 / most, 1e-9) if most > 0 else 1e-9
    token_s = min(now_s, usual_s)
    if rows > alone or token_s < now_s:
        count, gain = 0, -np.inf
        for nodes in range(len(scores) + 1):
            net = tokens_at[nodes] * token_s - one(cost[0], cost[1], rows + nodes)
            if net > gain:
                gain, count = net, nodes
    owner = np.repeat(np.arange(len(counts)), counts)
    kept = np.zeros(len(counts), np.int64)
    for node in order[:count]:
        kept[owner[node]] += 1
    return kept, now_s


@compiled
def _between(curve: Float64s, sizes: Float64s, size: float) -> float:
    """The curve at a size within them, straight between two."""
    above = min(int(np.searchsorted(sizes, size, side="right")), len(sizes) - 1)
    part = (size - sizes[above - 1]) / (sizes[above] - sizes[above - 1])
    return float(curve[above - 1] + part * (curve[above] - curve[above - 1]))


@compiled
def _nearest(sizes: Float64s, size: float) -> int:
    """Index of the size kept that is nearest in proportion."""
    place = int(np.searchsorted(sizes, size))
    if place == len(sizes) or (place and size * size < sizes[place] * sizes[place - 1]):
        return place - 1
    return place
