"""What a source counts against a stage, and what it leaves to it."""

from __future__ import annotations

from typing import Never

import pytest

from rasd.engine.breaker import Breaker
from rasd.engine.source import Source
from rasd.engine.timings import Timings
from rasd.errors import StageTimeout


class Late:
    """An answer that is never in time."""

    def __init__(self, counted: bool) -> None:
        self.counted = counted

    def wait(self, timeout_s: float) -> Never:
        raise StageTimeout("not yet", counted=self.counted)


@pytest.mark.parametrize("counted", [False, True])
def test_a_stage_that_counts_its_own_misses_is_asked_on(counted: bool) -> None:
    now = [0.0]
    timings = Timings(lambda: now[0])
    source: Source[object] = Source("corpus", 0.1, Breaker(3, 1.0, lambda: now[0]), timings)
    for step in range(5):
        assert source.ask(step, [], lambda: Late(counted))
        assert source.answer() is None
        assert source.late is not None and source.late.step == step
    assert source.breaker.open == (not counted)
