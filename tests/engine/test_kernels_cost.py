"""Compiled loops over costs say what slow and obvious ones say."""

from __future__ import annotations

import numpy as np

from rasd.engine import kernels_cost
from rasd.engine.cost import SIZES, Float64s


def slow_observe(
    costs: Float64s, known: Float64s, near: Float64s, at: tuple[int, int], ratio: float, met: bool
) -> None:
    """What one measurement changes, where others were measured before."""
    trials = known[at]
    rate = max(min(1 / (1 + trials), 0.5), 0.2 if ratio < 1 else 0.1) if trials else 1.0
    shares = np.full(known.shape, 0.25)
    shares[at[0]] = near[at[1]] if met else 1.0
    shares /= 1 + 4 * known
    shares[at] = 1.0
    costs *= 1 + rate * (ratio - 1) * shares
    known *= 0.97
    known[at] = min(trials + 1, 10.0)


def test_a_measurement_moves_what_it_should(seed: int) -> None:
    rng = np.random.default_rng(seed)
    places = np.arange(len(SIZES))
    near = np.maximum(0.8 ** np.abs(places[:, None] - places), 0.25)
    costs = np.sort(rng.uniform(1e-3, 1e-1, (3, len(SIZES))), 1)
    known, met = rng.uniform(0, 10, costs.shape), np.asarray([True, False, True])
    known[rng.random(costs.shape) < 0.3] = 0.0
    for _ in range(60):
        column, size = int(rng.integers(3)), float(rng.choice([*rng.uniform(1, 9000, 3), 1, 8192]))
        expected = float(np.interp(size, SIZES, costs[column]))
        seconds = expected * float(rng.choice([0.2, 0.9, 1.0, 1.1, 40.0]))
        place = int(np.argmin(np.abs(np.log(SIZES) - np.log(size))))
        twin = costs.copy(), known.copy()
        ratio = min(max(seconds / expected, 1 / 1.5), 1.5)
        slow_observe(*twin, near, (column, place), ratio, bool(met[column]))
        kernels_cost.observe((costs, known, met), SIZES, near, column, size, seconds, True)
        np.testing.assert_allclose(costs, twin[0], rtol=1e-12)
        np.testing.assert_allclose(known, twin[1], rtol=1e-12)
        assert met[column]


def test_ascending_is_the_nearest_that_never_falls(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(50):
        values, weights = rng.uniform(0, 1, 8), rng.uniform(0.1, 2, 8)
        found = kernels_cost.ascending(values, weights)
        assert (np.diff(found) >= 0).all()
        # Isotonic regression: the largest over beginnings of the least mean over ends.
        slow = [
            max(
                min(np.average(values[a : b + 1], weights=weights[a : b + 1]) for b in range(i, 8))
                for a in range(i + 1)
            )
            for i in range(8)
        ]
        np.testing.assert_allclose(found, slow, rtol=1e-9)


def test_the_best_scores_keep_their_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for limit in (-1, 0, 1, 5, 19, 40):
        scores = rng.choice([0.1, 0.5, 0.9], 20).astype(np.float32)
        chosen = sorted(np.argsort(-scores[1:], kind="stable")[: max(limit, 0)].tolist())
        expected = scores[1:][chosen] * np.float32(0.5)
        np.testing.assert_array_equal(kernels_cost.best(scores, limit, 0.5), expected)
        slow = sum(max(float(score) - 0.2, 0.0) for score in expected)
        np.testing.assert_allclose(kernels_cost.promise(scores, limit, 0.5, 0.2), slow, rtol=1e-6)


def test_trees_share_the_nodes_that_pay(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(40):
        curve = np.sort(rng.uniform(1e-3, 3e-2, len(SIZES)))
        counts = rng.integers(0, 12, int(rng.integers(1, 5)))
        scores = rng.random(int(counts.sum())).astype(np.float32)
        gaining = float(rng.integers(1, 6))
        alone, rows = gaining, gaining + float(rng.choice([0, 100]))
        sunk_s = float(rng.uniform(0, 1e-2))
        usual_s = float(rng.choice([np.inf, rng.uniform(1e-4, 1e-2)]))
        ordered = np.sort(scores)[::-1].astype(np.float64)
        tokens = gaining + np.concatenate(([0.0], np.cumsum(ordered)))
        more = np.arange(len(tokens))
        rates = tokens / (np.interp(alone + more, SIZES, curve) + sunk_s)
        token_s = 1 / rates.max()
        count = int(rates.argmax())
        if rows > alone or usual_s < token_s:
            count = int(
                (tokens * min(token_s, usual_s) - np.interp(rows + more, SIZES, curve)).argmax()
            )
        kept, its = kernels_cost.share(
            scores, counts, (curve, SIZES), (alone, rows, gaining), sunk_s, usual_s
        )
        assert its == np.float64(token_s) or abs(its / token_s - 1) < 1e-9
        best = np.argsort(-scores, kind="stable")[:count]
        owner = np.repeat(np.arange(len(counts)), counts)
        np.testing.assert_array_equal(kept, np.bincount(owner[best], minlength=len(counts)))
