"""Features that are late, lost or sent again: when the drafter starts cold, and when not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rasd.stages import Features
from tests.draft.twin import (
    World,
    assert_empty,
    assert_same,
    cached,
    propose,
    twin,
)


def test_cold_start_where_features_begin() -> None:
    world = World.make(6)
    drafter = world.drafter()
    text = world.text(0, 40)
    text.put(drafter, 12, 19)
    assert_same(propose(drafter, text.query(0, 20))[0], twin(world, text, 20, start=12))


def test_cold_start_where_tokens_begin() -> None:
    """A restarted drafter hears only what is new."""
    world = World.make(7)
    drafter = world.drafter()
    text = world.text(0, 40)
    text.put(drafter, 0, 24)
    assert_same(propose(drafter, text.query(20, 25))[0], twin(world, text, 25, start=19))


def test_late_features_are_waited_for_without_loss() -> None:
    world = World.make(8)
    drafter = world.drafter()
    text = world.text(0, 40)
    text.put(drafter, 0, 9)
    propose(drafter, text.query(0, 10))
    assert not drafter.ready(text.query(10, 13))
    assert propose(drafter, text.query(10, 13)) == [None]
    text.put(drafter, 9, 12)
    assert drafter.ready(text.query(10, 13))
    assert not drafter.ready(text.query(13, 15))
    text.put(drafter, 12, 14)
    assert drafter.ready(text.query(13, 15))
    assert_same(propose(drafter, text.query(13, 15))[0], twin(world, text, 15))


def test_a_query_may_be_asked_again() -> None:
    world = World.make(9)
    drafter = world.drafter()
    text = world.text(0, 40)
    assert propose(drafter, text.query(0, 10)) == [None]
    text.put(drafter, 0, 9)
    for _ in range(2):
        assert_same(propose(drafter, text.query(0, 10))[0], twin(world, text, 10))
    text.put(drafter, 9, 11)
    assert_same(propose(drafter, text.query(0, 12))[0], twin(world, text, 12))
    assert cached(drafter, text) == 11


def test_lost_features_mean_a_cold_start_behind_the_gap() -> None:
    world = World.make(10)
    drafter = world.drafter()
    text = world.text(0, 40)
    text.put(drafter, 0, 9)
    propose(drafter, text.query(0, 10))
    assert propose(drafter, text.query(10, 13)) == [None]  # rows 9 to 11 never come
    text.put(drafter, 12, 15)
    assert_same(propose(drafter, text.query(13, 16))[0], twin(world, text, 16, start=12))
    assert cached(drafter, text) == 3


def test_lost_tokens_mean_a_cold_start_behind_the_gap() -> None:
    world = World.make(11)
    drafter = world.drafter()
    text = world.text(0, 40)
    text.put(drafter, 0, 9)
    propose(drafter, text.query(0, 10))
    text.put(drafter, 9, 15)
    assert_same(propose(drafter, text.query(13, 16))[0], twin(world, text, 16, start=12))


def test_features_ahead_of_their_tokens_are_kept() -> None:
    world = World.make(12)
    drafter = world.drafter()
    text = world.text(0, 40)
    text.put(drafter, 0, 20)
    for stop, start in ((5, 0), (6, 5), (21, 6)):
        assert_same(propose(drafter, text.query(start, stop))[0], twin(world, text, stop))


def test_restarted_target_sends_features_from_the_beginning() -> None:
    world = World.make(13)
    drafter = world.drafter()
    text = world.text(0, 40)
    text.put(drafter, 0, 9)
    propose(drafter, text.query(0, 10))
    for start in range(0, 15, 4):
        text.put(drafter, start, min(start + 4, 14))
    assert drafter._features.held == 5
    assert_same(propose(drafter, text.query(10, 15))[0], twin(world, text, 15))
    assert cached(drafter, text) == 14


def test_another_text_under_a_known_number_replaces_it() -> None:
    world = World.make(14)
    drafter = world.drafter()
    long, short = world.text(0, 40), world.text(0, 40)
    long.put(drafter, 0, 29)
    propose(drafter, long.query(0, 30))
    assert propose(drafter, short.query(0, 8)) == [None]
    short.put(drafter, 0, 7)
    assert_same(propose(drafter, short.query(0, 8))[0], twin(world, short, 8))


def test_bfloat16_features_come_as_bits() -> None:
    world = World.make(15)
    text = world.text(0, 20)
    trees = []
    for bits in (False, True):
        drafter = world.drafter(dtype="bfloat16")
        rows = text.features[:19].bfloat16()
        array = rows.view(torch.uint16).numpy() if bits else rows.float().numpy()
        array.flags.writeable = False  # as it is when it comes out of a message
        drafter.put(Features(0, 0, array))
        draft = propose(drafter, text.query(0, 20))[0]
        assert draft is not None
        trees.append(draft.tree)
    np.testing.assert_array_equal(trees[0].tokens, trees[1].tokens)
    np.testing.assert_array_equal(trees[0].scores, trees[1].scores)


@pytest.mark.parametrize("seed", range(6))
def test_any_life_equals_the_twin_from_where_the_cache_begins(seed: int) -> None:
    """Features late, lost and repeated; sequences released; a cache too small for all."""
    world = World.make(100 + seed)
    chance = np.random.default_rng(seed)
    drafter = world.drafter(kv_slots=96, levels=3)
    texts = {i: world.text(i, 120) for i in range(6)}
    known = dict.fromkeys(texts, 0)  # tokens the drafter was told
    sent = dict.fromkeys(texts, 0)  # features
    compared = 0
    for _ in range(30):
        queries = []
        for i in chance.permutation(6)[: chance.integers(1, 5)].tolist():
            start, stop = known[i], min(known[i] + int(chance.integers(1, 6)), 120)
            if known[i] == 0:
                stop += 6
            if stop <= start:
                continue
            luck = chance.random()
            begin = 0 if luck < 0.1 else sent[i]
            if luck > 0.15:
                texts[i].put(drafter, begin, stop - 1)
                sent[i] = stop - 1
            elif luck > 0.12:
                sent[i] = stop - 1  # lost for ever
            queries.append(texts[i].query(start, stop))
            known[i] = stop
        released = tuple(i for i in texts if chance.random() < 0.03)
        for i in released:
            known[i] = sent[i] = 0
        drafts = propose(drafter, *queries)
        for query, draft in zip(queries, drafts, strict=True):
            if draft is None:
                continue
            stop = query.start + len(query.tokens)
            start = stop - 1 - cached(drafter, texts[query.sequence])
            text = texts[query.sequence]
            assert_same(draft, twin(world, text, stop, start=start, levels=3))
            compared += 1
        propose(drafter, release=released)
    assert compared > 20
    propose(drafter, release=tuple(texts))
    assert_empty(drafter)
