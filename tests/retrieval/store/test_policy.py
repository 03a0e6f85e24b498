"""What is compacted when: few segments, little dead weight, few rewrites."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.config import StoreConfig
from rasd.retrieval.store import policy
from rasd.retrieval.store.policy import Weight, plan

SETTINGS = StoreConfig(flush_tokens=100, max_segments=3)


def log(number: int, tokens: int, live: int | None = None) -> Weight:
    return Weight(number, True, tokens, tokens if live is None else live, 1)


def segment(number: int, tokens: int, live: int | None = None) -> Weight:
    return Weight(number, False, tokens, tokens if live is None else live, 1)


@pytest.mark.parametrize(
    ("sources", "wanted"),
    [
        ([], []),
        ([log(1, 99)], []),
        ([log(1, 50), log(2, 50, live=0)], [1, 2]),
        ([log(i, 0) for i in range(1, 65)], []),
        ([log(i, 0) for i in range(1, 66)], list(range(1, 66))),
        ([log(1, 100), segment(2, 100), segment(3, 100)], [1]),
        ([log(1, 100), segment(2, 900), segment(3, 200), segment(4, 201)], [1, 3, 4, 2]),
        ([log(1, 100), segment(2, 900), segment(3, 200), segment(4, 700)], [1, 3]),
        ([log(1, 100), segment(2, 900), segment(3, 900), segment(4, 900)], [1, 2, 3, 4]),
        ([segment(i, 10**i) for i in range(5)], [0, 1, 2]),
        ([segment(1, 100, live=75)], []),
        ([segment(1, 100, live=74)], [1]),
        ([segment(1, 100, live=0), segment(2, 100)], [1]),
        ([segment(1, 100, live=0), log(2, 100)], [2]),
    ],
)
def test_plans(sources: list[Weight], wanted: list[int]) -> None:
    assert plan(sources, SETTINGS) == wanted


def test_flushes_everything_when_asked() -> None:
    assert plan([log(1, 1), segment(2, 50)], SETTINGS, everything=True) == [1]
    assert plan([segment(2, 50)], SETTINGS, everything=True) == []


def test_no_segment_grows_past_its_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "MAX_TOKENS", 1000)
    large = [segment(i, 900) for i in range(1, 6)]
    assert plan(large, SETTINGS) == []
    assert plan([*large, log(9, 100)], SETTINGS) == [9]
    assert plan([*large, log(8, 98), log(9, 2)], SETTINGS) == [8, 9]
    assert plan([*large, segment(9, 98)], SETTINGS) == [9, 1]


@given(
    flush=st.integers(1, 50),
    limit=st.integers(1, 6),
    seed=st.integers(0, 2**32),
)
def test_comes_to_rest_with_few_segments_and_few_rewrites(
    flush: int, limit: int, seed: int
) -> None:
    settings = StoreConfig(flush_tokens=flush, max_segments=limit)
    rng = np.random.default_rng(seed)
    sources: list[Weight] = []
    added = written = 0
    for step in range(300):
        size = int(rng.integers(1, 40))
        sources.append(log(1000 + step, size))
        added += size
        while numbers := plan(sources, settings):
            chosen = [source for source in sources if source.number in numbers]
            assert len(chosen) == len(numbers)
            live = sum(source.live for source in chosen)
            written += live
            sources = [source for source in sources if source.number not in numbers]
            sources.append(segment(10_000 + written, live))
        assert sum(not source.log for source in sources) <= limit
        assert sum(source.tokens for source in sources if source.log) < flush
    # A token is rewritten when its segment at least doubles, or because there are too many.
    if limit >= 3:
        assert written <= added * (3 + 3 * np.log2(1 + added / flush))
