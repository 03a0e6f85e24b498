"""The buffer of features against a dictionary of rows."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from rasd.draft.features import FeatureBuffer

PER_SEQUENCE, TOTAL = 8, 14


def rows(start: int, count: int, salt: int = 0) -> np.ndarray:
    return np.stack([np.full(2, 100 * salt + start + i, np.float32) for i in range(count)])


def buffer() -> FeatureBuffer:
    return FeatureBuffer(2, torch.float32, per_sequence=PER_SEQUENCE, total=TOTAL)


puts = st.tuples(st.just("put"), st.integers(0, 2), st.integers(0, 30), st.integers(1, 10))
takes = st.tuples(st.just("take"), st.integers(0, 2), st.integers(0, 9), st.integers(1, 9))
drops = st.tuples(st.just("drop"), st.integers(0, 2), st.just(0), st.just(0))


class Description:
    """What the buffer promises: by sequence the values by position; the last fed comes last."""

    def __init__(self) -> None:
        self.held: dict[int, dict[int, int]] = {}

    def put(self, sequence: int, start: int, count: int, salt: int) -> None:
        held = self.held.get(sequence, {})
        end = max(held, default=start - 1) + 1
        if start > end:
            del self.held[sequence]
            held, end = {}, start
        fresh = {p: 100 * salt + p for p in range(start, start + count) if p >= end}
        if fresh:
            self.held.pop(sequence, None)
            merged = held | fresh
            self.held[sequence] = {p: merged[p] for p in sorted(merged)[-PER_SEQUENCE:]}
        while sum(map(len, self.held.values())) > TOTAL:
            del self.held[next(iter(self.held))]

    def take(self, sequence: int, start: int, stop: int) -> list[int]:
        held = self.held[sequence]
        rest = {p: v for p, v in held.items() if p >= stop}
        self.held[sequence] = rest  # keeps its place in the order
        if not rest:
            del self.held[sequence]
        return [held[p] for p in range(start, stop)]

    def span(self, sequence: int) -> tuple[int, int]:
        held = self.held.get(sequence)
        return (min(held), max(held) + 1) if held else (0, 0)


@given(st.lists(st.one_of(puts, puts, takes, drops), max_size=25))
def test_buffer_equals_its_description(actions: list[tuple[str, int, int, int]]) -> None:
    real, description = buffer(), Description()
    for salt, (action, sequence, a, b) in enumerate(actions):
        first, end = description.span(sequence)
        if action == "put":
            assert real.put(sequence, a, rows(a, b, salt))
            description.put(sequence, a, b, salt)
        elif action == "take" and first + a + b <= end:
            taken = real.take(sequence, first + a, first + a + b)[:, 0].tolist()
            assert taken == description.take(sequence, first + a, first + a + b)
        elif action == "drop":
            real.drop(sequence)
            description.held.pop(sequence, None)
        real.check_integrity()
        assert [real.span(i) for i in range(3)] == [description.span(i) for i in range(3)]
    assert real.held == sum(map(len, description.held.values()))
    real.clear()
    assert real.held == 0


def test_the_sequence_fed_the_longest_ago_goes_first() -> None:
    real = buffer()
    for sequence, start in ((0, 0), (1, 0), (0, 4), (2, 0)):
        real.put(sequence, start, rows(start, 4))
    assert [real.span(i) for i in range(3)] == [(0, 8), (0, 0), (0, 4)]


def test_rows_are_copied_and_converted() -> None:
    real = FeatureBuffer(2, torch.bfloat16, per_sequence=4, total=8)
    given_rows = rows(0, 3)
    real.put(1, 0, given_rows)
    given_rows[:] = 7
    taken = real.take(1, 0, 3)
    assert taken.dtype == torch.bfloat16
    assert taken[:, 1].tolist() == [0, 1, 2]


def test_a_large_message_does_not_stay_alive_for_its_last_rows() -> None:
    real = buffer()
    real.put(0, 0, rows(0, 1000))
    taken = real.take(0, 992, 1000)
    assert real.held == 0
    assert taken[:, 0].tolist() == list(range(992, 1000))
    real.put(0, 0, rows(0, 1000))
    piece = real._runs[0].pieces[0]
    assert piece.untyped_storage().nbytes() == PER_SEQUENCE * 2 * 4


def test_negative_positions_and_wrong_shapes_are_refused() -> None:
    real = buffer()
    assert not real.put(0, -1, rows(0, 2))
    assert not real.put(0, 0, np.zeros((2, 3), np.float32))
    assert not real.put(0, 0, np.zeros((2, 2), np.int32))
    assert real.put(0, 0, np.zeros((0, 2), np.float32))
    assert real.held == 0
    assert real.span(0) == (0, 0)
    real.check_integrity()
