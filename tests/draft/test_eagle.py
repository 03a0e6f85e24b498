"""The drafter against its slow twin, through the life of several sequences."""

from __future__ import annotations

import pytest

from tests.draft.twin import World, assert_same, propose, twin


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
        accepted = [(1 + step + i) % 4 + 1 for i in range(3)]
        queries = []
        for i, text in enumerate(texts):
            text.put(drafter, at[i] - 1, at[i] - 1 + accepted[i])
            queries.append(text.query(at[i], at[i] + accepted[i]))
            at[i] += accepted[i]
        drafts = propose(drafter, *queries)
