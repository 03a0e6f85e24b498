"""What should not happen to a drafter, and what becomes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rasd.draft.weights import SharedWeights
from rasd.errors import ConfigError, ModelError
from rasd.stages import Features
from tests.draft.twin import (
    VOCABULARY,
    WIDTH,
    World,
    assert_same,
    propose,
    twin,
)


def test_hostile_queries_are_answered_with_none() -> None:
    world = World.make(22)
    drafter = world.drafter()
    text = world.text(0, 40)
    text.put(drafter, 0, 11)
    good = text.query(0, 12)

    def bad(start: int, tokens: object, nodes: int = 5) -> object:
        return type(good)(1, start, np.asarray(tokens, np.int32), nodes)

    queries = [
        bad(0, [1, VOCABULARY]),
        bad(0, [-1, 2]),
        bad(0, []),
        bad(0, [[1, 2], [3, 4]]),
        bad(-3, [1, 2, 3, 4, 5]),
        bad(0, [1, 2, 3], -1),
        type(good)(1, 0, np.asarray([0.5, 1.5], np.float32), 5),
        bad(0, [1]),
        bad(2**40, [1, 2]),
        good,
        good,
    ]
    drafts = propose(drafter, *queries)
    assert drafts[:9] == [None] * 9
    assert_same(drafts[9], twin(world, text, 12))
    assert drafts[10] is None
    assert all(drafter.ready(query) for query in queries[:7])
    assert propose(drafter) == []


@pytest.mark.parametrize(
    "rows",
    [
        np.full((3, WIDTH), np.nan, np.float32),
        np.full((3, WIDTH), 0x7F80, np.uint16),
        np.zeros((3, WIDTH + 1), np.float32),
        np.zeros((3, WIDTH), np.float64),
        np.zeros(WIDTH, np.float32),
    ],
)
def test_unusable_features_are_dropped(rows: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    drafter = World.make(23).drafter()
    drafter.put(Features(0, 0, rows))
    assert "unusable features" in caplog.text
    assert drafter._features.held == 0


def test_overflow_in_one_sequence_does_not_touch_the_others() -> None:
    world = World.make(24)
    drafter = world.drafter()
    wild, calm = world.text(0, 20), world.text(1, 20)
    wild.features.fill_(3e38)
    for text in (wild, calm):
        text.put(drafter, 0, 9)
    drafts = propose(drafter, wild.query(0, 10), calm.query(0, 10))
    assert drafts[0] is None
    assert_same(drafts[1], twin(world, calm, 10))
    assert 0 not in drafter._sequences


def test_failed_forward_leaves_the_books_right(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World.make(25)
    drafter = world.drafter()
    texts = [world.text(i, 20) for i in range(2)]
    for text in texts:
        text.put(drafter, 0, 12)
        propose(drafter, text.query(0, 10))
    calls = iter([True, True, False])
    head = drafter._runner._head
    forward = head.forward
    monkeypatch.setattr(head, "forward", lambda *a: forward(*a) if next(calls) else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        propose(drafter, texts[0].query(10, 13))
    drafter.check_integrity()
    assert [*drafter._sequences] == [1]
    monkeypatch.undo()
    assert_same(propose(drafter, texts[1].query(10, 13))[0], twin(world, texts[1], 13))


def test_sizes_that_cannot_work_are_refused() -> None:
    world = World.make(26)
    with pytest.raises(ConfigError, match="kv_slots must"):
        world.drafter(kv_slots=16, levels=4, top_k=3)
    world.shared = SharedWeights(torch.zeros(VOCABULARY, 8), torch.zeros(VOCABULARY, 8))
    with pytest.raises(ModelError, match="16 wide"):
        world.drafter()
