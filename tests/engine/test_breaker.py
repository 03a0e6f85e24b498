"""The breaker: three misses, then silence, then probes."""

from __future__ import annotations

from rasd.engine.breaker import Breaker
from tests.fakes import FakeClock


def test_it_opens_after_misses_in_a_row_only() -> None:
    breaker = Breaker(3, 1.0, FakeClock())
    for _ in range(5):
        breaker.miss()
        breaker.miss()
        breaker.success()
        assert breaker.allow()
    for _ in range(3):
        assert breaker.allow()
        breaker.miss()
    assert breaker.open
    assert not breaker.allow()


def test_open_it_lets_one_probe_pass_per_interval() -> None:
    clock = FakeClock()
    breaker = Breaker(1, 2.0, clock)
    breaker.miss()
    clock.now = 1.9
    assert not breaker.allow()
    clock.now = 2.0
    assert [breaker.allow(), breaker.allow()] == [True, False]
    breaker.miss()
    clock.now = 3.9
    assert not breaker.allow()
    clock.now = 4.0
    assert breaker.allow()
    breaker.success()
    assert not breaker.open
    assert [breaker.allow(), breaker.allow()] == [True, True]
