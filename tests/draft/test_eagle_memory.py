"""What the drafter keeps in memory, and what it forgets first."""

from __future__ import annotations

from tests.draft.twin import (
    World,
    assert_empty,
    assert_same,
    cached,
    propose,
    twin,
)


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
    assert len(drafter._sequences) == drafter._rows.pool.pages


def test_a_sequence_that_outgrows_the_cache_starts_cold() -> None:
    world = World.make(18)
    drafter = world.drafter(kv_slots=32)
    text = world.text(0, 90)
    colds = 0
    text.put(drafter, 0, 9)
    propose(drafter, text.query(0, 10))
    for stop in range(12, 90, 2):
        before = cached(drafter, text) if 0 in drafter._rows else 0
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
    assert [i for i in range(5) if i in drafter._rows] == [0, 3, 4]
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
