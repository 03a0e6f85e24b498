"""What is compacted when: few segments, none too large, little dead weight, few rewrites."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rasd.config import StoreConfig
from rasd.retrieval.store.policy import Weight, flush, merge

SETTINGS = StoreConfig(flush_tokens=100, max_segments=3, max_segment_tokens=1000)


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
        ([log(2, 50), log(1, 50)], [1, 2]),
        ([log(i, 0) for i in range(1, 65)], []),
        ([log(i, 0) for i in range(1, 66)], list(range(1, 66))),
        ([log(9, 100), *(segment(i, 1) for i in range(1, 6))], [9]),
        ([log(1, 500), log(2, 498), log(3, 1)], [1, 2]),  # a separator is a token
        ([log(1, 500), log(2, 499)], [1]),
        ([log(1, 5000), log(2, 1)], [1]),  # what is too large is indexed all the same
        ([log(1, 1), log(2, 5000), log(3, 1)], [1]),
        ([log(1, 5000, live=900), log(2, 98)], [1, 2]),
    ],
)
def test_flushes(sources: list[Weight], wanted: list[int]) -> None:
    assert flush(sources, SETTINGS) == wanted


def test_flushes_everything_when_asked() -> None:
    assert flush([log(1, 1), segment(2, 50)], SETTINGS, everything=True) == [1]
    assert flush([segment(2, 50)], SETTINGS, everything=True) == []


@pytest.mark.parametrize(
    ("sources", "wanted"),
    [
        ([], []),
        ([log(9, 5000), *(segment(i, 100) for i in range(3))], []),
        ([segment(i, 10 + i) for i in range(4)], [0, 1, 2, 3]),
        ([segment(1, 490), segment(2, 30), segment(3, 300), segment(4, 1)], [4, 2]),
        ([segment(i, 5 * 4**i) for i in range(4)], [0, 1]),
        # Half of what a segment may hold, and more, is merged no further, and not counted.
        ([segment(i, 499) for i in range(9)], []),
        ([segment(i, 498) for i in range(9)], [0, 1]),
        ([segment(1, 499), *(segment(i, 9) for i in range(2, 5))], []),
        ([segment(1, 499), *(segment(i, 9) for i in range(2, 6))], [2, 3, 4, 5]),
        ([segment(i, 300) for i in range(9)], [0, 1, 2]),
        ([segment(1, 5000), segment(2, 800, live=700), segment(3, 1)], []),
        # Until it has lost enough: then it is written anew, or is a small one again.
        ([segment(1, 100, live=75)], []),
        ([segment(1, 100, live=74)], [1]),
        ([segment(1, 100, live=0), segment(2, 100)], [1]),
        ([segment(1, 5000, live=3700)], [1]),
        ([segment(1, 600, live=498), *(segment(i, 490) for i in range(2, 5))], [2, 3]),
    ],
)
def test_merges(sources: list[Weight], wanted: list[int]) -> None:
    assert merge(sources, SETTINGS) == wanted


class Partition:
    """Sources, compacted whenever that is due, as `Upkeep` does it."""

    def __init__(self, settings: StoreConfig) -> None:
        self.settings = settings
        self.sources: list[Weight] = []
        self.written = self._number = 0

    def add(self, tokens: int, documents: int) -> None:
        self._number += 1
        self.sources.append(Weight(self._number, True, tokens, tokens, documents))

    def lose(self, rng: np.random.Generator) -> None:
        """Some documents of any source are deleted."""
        at = int(rng.integers(len(self.sources)))
        one = self.sources[at]
        documents = int(rng.integers(one.documents + 1))
        live = one.live * documents // max(one.documents, 1)
        self.sources[at] = Weight(one.number, one.log, one.tokens, live, documents)

    def rest(self, *, everything: bool = False) -> None:
        most = self.settings.max_segment_tokens
        while numbers := (
            flush(self.sources, self.settings, everything=everything)
            or merge(self.sources, self.settings)
        ):
            chosen = [source for source in self.sources if source.number in numbers]
            assert len(chosen) == len(numbers)
            size = sum(source.size for source in chosen)
            assert size <= most or len(chosen) == 1
            live = sum(source.live for source in chosen)
            self.written += live
            self._number += 1
            self.sources = [source for source in self.sources if source.number not in numbers]
            if documents := sum(source.documents for source in chosen):
                self.sources.append(Weight(self._number, False, live, live, documents))


@given(
    flush_tokens=st.integers(1, 50),
    limit=st.integers(1, 6),
    most=st.integers(1, 3000),
    deletes=st.booleans(),
    seed=st.integers(0, 2**32),
)
@example(flush_tokens=10, limit=3, most=100, deletes=False, seed=1)
def test_comes_to_rest_with_few_segments_and_few_rewrites(
    flush_tokens: int, limit: int, most: int, deletes: bool, seed: int
) -> None:
    settings = StoreConfig(flush_tokens=flush_tokens, max_segments=limit, max_segment_tokens=most)
    rng = np.random.default_rng(seed)
    partition = Partition(settings)
    added = 0
    for _ in range(300):
        size = int(rng.integers(1, 40))
        added += size
        partition.add(size, int(rng.integers(1, size + 1)))
        if deletes:
            partition.lose(rng)
        partition.rest()
        logs = [source for source in partition.sources if source.log]
        segments = [source for source in partition.sources if not source.log]
        assert sum(log.tokens for log in logs) < flush_tokens
        assert len(segments) <= limit + 2 * sum(one.size for one in segments) / most
        assert all(one.tokens - one.live <= one.tokens / 4 for one in segments)
    # A token is rewritten when its segment at least doubles, or because there are too many.
    if limit >= 3 and not deletes:
        grown = min(2 * added, most) / flush_tokens
        assert partition.written <= added * (4 + 3 * np.log2(1 + grown))


def test_a_large_partition_is_not_rewritten_for_ever() -> None:
    partition = Partition(StoreConfig(flush_tokens=2**20, max_segment_tokens=2**24))
    for _ in range(2000):
        partition.add(2**20, 1)
        partition.rest()
    assert partition.written < 6 * 2000 * 2**20
    assert 125 <= len(partition.sources) <= 253
