"""The numbers of a meter, against a list of everything that was added."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.retrieval.meter import WINDOW_S, Meter

BATCHES = st.lists(
    st.tuples(st.floats(0, 20), st.integers(1, 64), st.floats(1e-5, 1.0)), min_size=1, max_size=50
)


@given(BATCHES)
def test_numbers_are_those_of_the_last_minute(batches: list[tuple[float, int, float]]) -> None:
    now = [1000.0]
    meter = Meter(lambda: now[0])
    added = []
    for pause, queries, seconds in batches:
        now[0] += pause
        meter.add(queries, seconds)
        added.append((now[0], queries, seconds))
    load = meter.read()
    assert load.queries == sum(queries for _, queries, _ in added)
    recent = [batch for batch in added if batch[0] >= now[0] - WINDOW_S]
    elapsed = min(now[0] - 1000.0, WINDOW_S)
    assert load.queries_per_s == pytest.approx(sum(q for _, q, _ in recent) / max(elapsed, 1e-3))
    p50, p99 = np.quantile([1000 * seconds for _, _, seconds in recent], [0.5, 0.99])
    assert (load.p50_ms, load.p99_ms) == pytest.approx((p50, p99))


def test_silence_is_zero() -> None:
    now = [0.0]
    meter = Meter(lambda: now[0])
    assert meter.read().p99_ms == 0
    meter.add(64, 0.005)
    now[0] = 2 * WINDOW_S
    load = meter.read()
    assert (load.queries, load.queries_per_s, load.p50_ms) == (64, 0, 0)


def test_a_rate_beyond_what_is_kept_is_not_lowered() -> None:
    now = [0.0]
    meter = Meter(lambda: now[0])
    for _ in range(10_000):  # a thousand batches a second
        now[0] += 0.001
        meter.add(2, 0.001)
    assert meter.read().queries_per_s == pytest.approx(2000, rel=0.01)
