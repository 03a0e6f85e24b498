"""The drafter's trees against its slow twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rasd.draft import runner
from rasd.draft.weights import SharedWeights
from tests.draft.twin import (
    VOCABULARY,
    WIDTH,
    Node,
    World,
    assert_same,
    cached,
    distribution,
    paths,
    propose,
    twin,
)


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
    forward = drafter._runner._head.forward
    monkeypatch.setattr(
        drafter._runner._head,
        "forward",
        lambda tokens, *rest: sizes.append(len(tokens)) or forward(tokens, *rest),
    )
    texts = [world.text(i, 40) for i in range(3)]
    stops = [4, 24, 12]
    for text, stop in zip(texts, stops, strict=True):
        text.put(drafter, 0, stop - 1)
    queries = [t.query(0, stop) for t, stop in zip(texts, stops, strict=True)]
    for text, stop, draft in zip(texts, stops, propose(drafter, *queries), strict=True):
        assert_same(draft, twin(world, text, stop))
    assert sizes[:6] == [7, 7, 7, 7, 7, 2]
    assert sizes[6] == 9
    assert 1 <= max(sizes[7:]) <= 9  # what cannot be kept is not expanded


def test_a_very_long_prompt_enters_over_several_requests() -> None:
    world = World.make(27)
    drafter = world.drafter(window=64)
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
