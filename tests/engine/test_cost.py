"""What a call costs is learned: near the truth, never less for more, and deaf to pauses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.engine.cost import SIZES, CostTable, Credit, Rate
from tests.engine.paced import verify_s


def rehearsed() -> CostTable:
    table = CostTable(10e-3, 48)
    for rows in (1, 2, 4, 8, 16, 32, 64):
        table.observe(rows, 20, verify_s(rows, 20))
    return table


def test_a_rehearsal_is_enough_to_be_near() -> None:
    table = rehearsed()
    for rows in range(1, 65):
        assert table.one(float(rows), 20) == pytest.approx(verify_s(rows, 20), rel=0.08)
    assert table.one(512.0, 20) == pytest.approx(verify_s(512, 20), rel=0.4)


def test_noise_and_pauses_do_not_stick(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rehearsed()
    for i in range(400):
        rows = int(rng.integers(10, 30))
        seconds = verify_s(rows, 20) * (1 + 0.05 * abs(rng.normal()))
        table.observe(rows, 20, seconds + (0.3 if i % 40 == 39 else 0.0))
    for rows in range(10, 30):  # a pause just now is not forgotten yet
        table.observe(rows, 20, verify_s(rows, 20))
    for rows in range(10, 30):
        assert table.one(float(rows), 20) == pytest.approx(verify_s(rows, 20), rel=0.12)


def test_a_slower_machine_is_noticed_at_all_sizes() -> None:
    table = rehearsed()
    for _ in range(60):
        table.observe(16, 20, 2 * verify_s(16, 20))
    assert table.one(16.0, 20) == pytest.approx(2 * verify_s(16, 20), rel=0.1)
    assert table.one(64.0, 20) > 1.05 * verify_s(64, 20)


def test_longer_contexts_begin_with_what_shorter_ones_cost() -> None:
    table = rehearsed()
    np.testing.assert_array_equal(table.curve(50_000), table.curve(20))
    for _ in range(10):
        table.observe(16, 50_000, 3 * verify_s(16, 20))
    assert table.one(16.0, 50_000) == pytest.approx(3 * verify_s(16, 20), rel=0.15)
    assert table.one(32.0, 50_000) > 1.7 * verify_s(32, 20)
    assert table.one(16.0, 20) < 1.6 * verify_s(16, 20)


calls = st.tuples(st.integers(1, 5000), st.integers(0, 2**20), st.floats(1e-6, 10))


@given(st.lists(calls, max_size=40))
def test_more_rows_never_cost_less(measured: list[tuple[int, int, float]]) -> None:
    table = CostTable(10e-3, 48)
    for call in measured:
        table.observe(*call)
    for slots in (0, 700, 10**6):
        curve = table.curve(slots)
        assert np.isfinite(curve).all() and (curve > 0).all() and (np.diff(curve) >= 0).all()
        rows = np.arange(1.0, 2 * SIZES[-1], 37)
        assert (np.diff([table.one(size, slots) for size in rows.tolist()]) >= -1e-12).all()


def test_credit_is_saved_spent_and_restored() -> None:
    credit = Credit(0.01, least=1 / 4)
    for _ in range(100):
        credit.earn(1.0, limit_s=0.5)
    assert credit.affords(0.5) and not credit.affords(0.51)
    shares = []
    for _ in range(4):
        credit.spend(0.5)
        steps = 0
        while not credit.affords(0.5):
            credit.earn(1.0, limit_s=0.5)
            steps += 1
        shares.append(steps)
    assert shares == pytest.approx([100, 200, 200, 200], abs=1)
    credit.pays()
    credit.spend(0.5)
    credit.pays()
    credit.earn(49.0, limit_s=0.5)
    assert not credit.affords(0.5)
    credit.earn(2.0, limit_s=0.5)
    assert credit.affords(0.5)


def test_between_two_sizes_cost_is_a_line(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = CostTable(1e-3, 8)
    for _ in range(50):
        table.observe(rng.uniform(1, 9000), rng.uniform(0, 9000), rng.uniform(1e-3, 1e-1))
        slots = rng.uniform(0, 9000)
        sizes = np.concatenate((rng.uniform(1, 9000, 20), [1, 2, 3, 4, 5, 8192, 6144, 10_000]))
        beyond = np.maximum(sizes / SIZES[-1], 1.0)
        expected = np.interp(sizes, SIZES, table.curve(slots)) * beyond
        found = [table.one(size, slots) for size in sizes.tolist()]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_token_costs_what_it_did_lately() -> None:
    rate = Rate()
    assert rate.token_s(1) == math.inf
    for _ in range(8):
        rate.observe(1, 4, 8e-3)
        rate.observe(16, 32, 16e-3)
    assert rate.token_s(1) == pytest.approx(2e-3)
    assert rate.token_s(17) == pytest.approx(0.5e-3)
    for _ in range(200):
        rate.observe(1, 1, 5e-3)
    assert rate.token_s(1) == pytest.approx(5e-3, rel=0.01)
    rate.observe(1, 0, 1.0)
    rate.observe(1, 1, 0.0)
    assert rate.token_s(1) == pytest.approx(5e-3, rel=0.01)
