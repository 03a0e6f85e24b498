"""The drafter against its slow twin, through the life of several sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rasd.draft import runner
from rasd.draft.eagle import EagleDrafter
from rasd.draft.weights import SharedWeights
from rasd.errors import ConfigError, ModelError
from rasd.stages import Features
from tests.draft.twin import (
    VOCABULARY,
    WIDTH,
    Node,
    Text,
    World,
    assert_same,
    distribution,
    paths,
    propose,
    twin,
)


def cached(drafter: EagleDrafter, text: Text) -> int:
    return drafter._cache.length(text.sequence)


def assert_empty(drafter: EagleDrafter) -> None:
    assert drafter._cache.pool.available == drafter._cache.pool.pages
    assert drafter._features.held == 0
    assert not drafter._sequences


@pytest.mark.parametrize("seed", range(4))
def test_several_sequences_over_several_steps_equal_the_twin(seed: int) -> None:
    world = World.make(seed)
    drafter = world.drafter()
    texts = [world.text(i, 60) for i in range(3)]
    at = [9, 2, 23]
    for text, stop in zip(texts, at, strict=True):
        text.put(drafter, 0, stop - 1)
    drafts = propose(drafter, *(t.query(0, stop) for t, stop in zip(texts, at, strict=True)))
    for step in range(4):
        for text, stop, draft in zip(texts, at, drafts, strict=True):
            assert_same(draft, twin(world, text, stop))
        queries = []
        for i, text in enumerate(texts):
            accepted = (1 + step + i) % 4 + 1
            text.put(drafter, at[i] - 1, at[i] - 1 + accepted)
            queries.append(text.query(at[i], at[i] + accepted))
            at[i] += accepted
        drafts = propose(drafter, *queries)


@pytest.mark.parametrize(("levels", "top_k", "nodes"), [(1, 3, 14), (3, 1, 14), (6, 5, 60)])
def test_other_shapes_equal_the_twin(levels: int, top_k: int, nodes: int) -> None:
    world = World.make(levels)
    drafter = world.drafter(levels=levels, top_k=top_k, nodes=nodes)
    text = world.text(0, 12)
    text.put(drafter, 0, 11)
    draft = propose(drafter, text.query(0, 12))[0]
    assert_same(draft, twin(world, text, 12, levels=levels, top_k=top_k, nodes=nodes))


def test_query_limits_the_nodes() -> None:
    world = World.make(1)
    drafter = world.drafter()
    texts = [world.text(i, 12) for i in range(4)]
    for text in texts:
        text.put(drafter, 0, 11)
    limits = [5, 0, 1, 100]
    queries = [t.query(0, 12, nodes) for t, nodes in zip(texts, limits, strict=True)]
    for text, nodes, draft in zip(texts, limits, propose(drafter, *queries), strict=True):
        assert_same(draft, twin(world, text, 12, nodes=min(nodes, 14)))
        assert cached(drafter, text) == 11


def test_no_nodes_still_catches_up_and_tells_the_root_distribution() -> None:
    world = World.make(2)
    drafter = world.drafter()
    text = world.text(0, 12)
    text.put(drafter, 0, 9)
    draft = propose(drafter, text.query(0, 10, nodes=0))[0]
    assert draft is not None
    assert draft.tree.tokens.tolist() == [int(text.tokens[9])]
    assert draft.expanded.tolist() == [0]
    assert cached(drafter, text) == 9
    text.put(drafter, 9, 11)
    assert_same(propose(drafter, text.query(10, 12))[0], twin(world, text, 12))


def test_expanded_nodes_carry_their_distribution() -> None:
    world = World.make(3)
    drafter = world.drafter()
    text = world.text(0, 12)
    text.put(drafter, 0, 11)
    draft = propose(drafter, text.query(0, 12))[0]
    assert draft is not None
    assert len(draft.expanded) > 4
    found = [(), *paths(draft)]
    assert draft.top_ids.shape == draft.top_logprobs.shape == (len(draft.expanded), VOCABULARY)
    parents = set(draft.tree.parents[1:].tolist())
    assert parents <= set(draft.expanded.tolist())
    for node, ids, logprobs in zip(draft.expanded, draft.top_ids, draft.top_logprobs, strict=True):
        features = text.features[:11]
        for depth in range(len(found[node])):
            above = Node(found[node][:depth], 0.0, features)
            features = torch.cat([features, distribution(world, text, 0, 12, above)[1][None]])
        expected = distribution(world, text, 0, 12, Node(found[node], 0.0, features))[0]
        np.testing.assert_allclose(logprobs, np.asarray(expected)[ids], atol=1e-3)
        assert (np.diff(logprobs) <= 0).all()
        assert len(set(ids.tolist())) == VOCABULARY


def test_equal_scores_give_the_earlier_candidates() -> None:
    world = World.make(4)
    world.shared = SharedWeights(world.shared.embedding, torch.zeros(VOCABULARY, WIDTH))
    text = world.text(0, 9)
    drafts = []
    for _ in range(2):
        drafter = world.drafter(nodes=7)
        text.put(drafter, 0, 8)
        drafts.append(propose(drafter, text.query(0, 9))[0])
    first, second = drafts
    assert first is not None
    assert second is not None
    assert first.tree.tokens.tolist() == second.tree.tokens.tolist()
    assert first.tree.parents.tolist() == second.tree.parents.tolist() == [-1, 0, 0, 0, 1, 1, 1, 2]
    paths(first)


def test_long_prompts_enter_in_bounded_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World.make(5)
    drafter = world.drafter()
    monkeypatch.setattr(runner, "CATCH_UP_ROWS", 7)
    sizes: list[int] = []
    plan = drafter._cache.plan
    monkeypatch.setattr(
        drafter._cache,
        "plan",
        lambda items: sizes.append(sum(len(i.parents) for i in items)) or plan(items),
    )
    texts = [world.text(i, 40) for i in range(3)]
    stops = [4, 24, 12]
    for text, stop in zip(texts, stops, strict=True):
        text.put(drafter, 0, stop - 1)
    queries = [t.query(0, stop) for t, stop in zip(texts, stops, strict=True)]
    for text, stop, draft in zip(texts, stops, propose(drafter, *queries), strict=True):
        assert_same(draft, twin(world, text, stop))
    assert sizes == [7, 7, 7, 7, 7, 2, 9, 9, 9]


def test_a_very_long_prompt_enters_over_several_requests() -> None:
    world = World.make(27)
    drafter = world.drafter()
    drafter._runner.catch_up_rows = 16
    long, short = world.text(0, 60), world.text(1, 60)
    long.put(drafter, 0, 39)
    short.put(drafter, 0, 6)
    drafts = propose(drafter, long.query(0, 40), short.query(0, 7))
    assert drafts[0] is None
    assert_same(drafts[1], twin(world, short, 7))
    assert cached(drafter, long) == 10
    for step in range(3):
        start = 40 + 2 * step
        long.put(drafter, start - 1, start + 1)
        draft = propose(drafter, long.query(start, start + 2))[0]
        assert (draft is None) == (step < 2)
    assert_same(draft, twin(world, long, 46))


# --- features that are late, lost, or sent again --------------------------------------------------


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


# --- memory ---------------------------------------------------------------------------------------


def test_waiting_rows_of_one_sequence_are_bounded() -> None:
    world = World.make(16)
    drafter = world.drafter(kv_slots=64)
    text = world.text(0, 90)
    for start in range(0, 79, 8):
        text.put(drafter, start, min(start + 8, 79))
    assert drafter._features.held == 32
    assert_same(propose(drafter, text.query(0, 80))[0], twin(world, text, 80, start=47))


def test_waiting_tokens_are_bounded() -> None:
    world = World.make(17)
    drafter = world.drafter(kv_slots=64)
    text = world.text(0, 90)
    for stop in range(10, 81, 10):
        assert propose(drafter, text.query(stop - 10, stop)) == [None]
    assert len(drafter._sequences[0].tokens) == 32
    for sequence in range(1, 100):
        assert propose(drafter, world.text(sequence, 3).query(0, 3)) == [None]
    assert len(drafter._sequences) == drafter._cache.pool.pages


def test_a_sequence_that_outgrows_the_cache_starts_cold() -> None:
    world = World.make(18)
    drafter = world.drafter(kv_slots=32)
    text = world.text(0, 90)
    colds = 0
    text.put(drafter, 0, 9)
    propose(drafter, text.query(0, 10))
    for stop in range(12, 90, 2):
        before = cached(drafter, text) if 0 in drafter._cache._sequences else 0
        text.put(drafter, stop - 3, stop - 1)
        draft = propose(drafter, text.query(stop - 2, stop))[0]
        if draft is None:
            colds += 1
        else:
            start = stop - 1 - cached(drafter, text)
            assert before == 0 or cached(drafter, text) == before + 2
            assert_same(draft, twin(world, text, stop, start=start))
    assert 1 <= colds <= 10


def test_idle_sequences_make_room_the_longest_idle_first() -> None:
    world = World.make(19)
    drafter = world.drafter(kv_slots=64, levels=3)
    texts = [world.text(i, 40) for i in range(5)]
    for i in (0, 1, 2, 0, 3, 4):
        texts[i].put(drafter, 0, 15)
        assert propose(drafter, texts[i].query(0, 16))[0] is not None
    assert [i for i in range(5) if i in drafter._cache._sequences] == [0, 3, 4]
    for text, start in ((texts[0], 0), (texts[2], 15)):
        text.put(drafter, 15, 17)
        assert_same(
            propose(drafter, text.query(16, 18))[0], twin(world, text, 18, start=start, levels=3)
        )


def test_what_does_not_fit_is_answered_with_none() -> None:
    world = World.make(20)
    drafter = world.drafter(kv_slots=64)
    texts = [world.text(i, 40) for i in range(20)]
    for text in texts:
        text.put(drafter, 0, 3)
    drafts = propose(drafter, *(t.query(0, 4) for t in texts))
    answered = [draft is not None for draft in drafts]
    assert answered == [True] * 5 + [False] * 15
    for text, draft in zip(texts[:5], drafts, strict=False):
        assert_same(draft, twin(world, text, 4))
    release = tuple(range(5))
    drafts = propose(drafter, *(t.query(0, 4) for t in texts[5:10]), release=release)
    for text, draft in zip(texts[5:10], drafts, strict=True):
        assert_same(draft, twin(world, text, 4))


def test_release_and_close_leave_nothing() -> None:
    world = World.make(21)
    drafter = world.drafter()
    texts = [world.text(i, 40) for i in range(3)]
    for text in texts:
        text.put(drafter, 0, 12)
        propose(drafter, text.query(0, 10))
    texts[1].put(drafter, 12, 20)
    propose(drafter, release=(0, 1, 2, 99))
    assert_empty(drafter)
    texts[1].put(drafter, 12, 20)
    propose(drafter, texts[1].query(10, 20))
    drafter.close()
    assert_empty(drafter)


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


# --- what should not happen -----------------------------------------------------------------------


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
    distribution = drafter._runner._distribution
    monkeypatch.setattr(
        drafter._runner, "_distribution", lambda f: distribution(f) if next(calls) else 1 / 0
    )
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
