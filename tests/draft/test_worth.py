"""Levels and nodes that do not pay are left out; what pays is learned from the text."""

from __future__ import annotations

import numpy as np
import pytest

from rasd.draft import kernels
from rasd.draft.chances import Chances
from rasd.draft.expand import FIXED_ROWS, REACH, Beam, Shape, worthwhile
from rasd.stages import DraftRequest
from rasd.tree import DraftTree, path_to
from tests.draft.twin import World, assert_same, paths, twin


def beam(*probabilities: float) -> Beam:
    count = len(probabilities)
    index = np.arange(count)
    return Beam(index, index, np.log(np.asarray(probabilities, np.float32)), index, index)


def test_worth_nothing_keeps_every_node() -> None:
    nodes = beam(0.5, 1e-9)
    assert worthwhile(nodes, Shape(5, 8)) is nodes


def test_nodes_that_bring_less_than_they_cost_are_left_out() -> None:
    kept = worthwhile(beam(0.9, 0.009, 0.02), Shape(5, 8, 0.01))
    assert kept.tokens.tolist() == [0, 2]


def test_a_level_that_does_not_pay_for_the_weights_is_left_out() -> None:
    least = (FIXED_ROWS + 1) * 0.05 / REACH
    assert len(worthwhile(beam(least * 1.01), Shape(5, 8, 0.05))) == 1
    assert len(worthwhile(beam(least * 0.99), Shape(5, 8, 0.05))) == 0
    assert len(worthwhile(beam(least * 0.7, least * 0.7), Shape(5, 8, 0.05))) == 2


def propose(world: World, worth: float) -> tuple[list[dict[tuple[int, ...], float]], int]:
    """Paths of the drafts of two texts, and the rows of the forwards."""
    drafter = world.drafter(levels=6, nodes=30)
    texts = [world.text(i, 12) for i in range(2)]
    for text in texts:
        text.put(drafter, 0, 11)
    rows = []
    forward = drafter._runner._head.forward
    drafter._runner._head.forward = lambda tokens, *rest: (  # type: ignore[method-assign]
        rows.append(len(tokens)) or forward(tokens, *rest)
    )
    request = DraftRequest(7, [], [text.query(0, 12) for text in texts], worth)
    drafts = drafter.propose(request).wait(0.0).drafts
    drafter.check_integrity()
    return [paths(draft) for draft in drafts if draft is not None], sum(rows)


def test_more_worth_runs_fewer_rows_and_leaves_subtrees() -> None:
    found = [propose(World.make(3), worth) for worth in (0.0, 0.1, 0.5, 100.0)]
    rows = [count for _, count in found]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] > rows[2]
    assert rows[-1] == 22  # the catching up alone, whose output gives the first level
    for drafts, _ in found:
        assert len(drafts) == 2
        assert all(len(path) == 1 for path in drafts[0]) == (drafts is found[-1][0])


def test_without_worth_nothing_is_learned_and_trees_are_the_twin_s() -> None:
    world = World.make(4)
    drafter = world.drafter()
    text = world.text(0, 20)
    text.put(drafter, 0, 11)
    for start, stop in ((0, 12), (12, 15)):
        draft = drafter.propose(DraftRequest(7, [], [text.query(start, stop)])).wait(0.0).drafts[0]
        text.put(drafter, stop - 1, stop + 2)
        assert_same(draft, twin(world, text, stop))
    assert drafter._runner.chances.of(np.float32([0.5])) == pytest.approx(0.5)


def test_a_drafter_learns_how_its_nodes_fare() -> None:
    world = World.make(5)
    drafter = world.drafter()
    text = world.text(0, 60)
    text.put(drafter, 0, 59)
    start = 0
    for stop in range(12, 60, 2):
        drafter.propose(DraftRequest(7, [], [text.query(start, stop)], 1e-6)).wait(0.0)
        drafter.check_integrity()
        start = stop
    # The text is random: what the head finds likely is as rare as anything.
    assert drafter._runner.chances.of(np.float32([0.2]))[0] < 0.2


@pytest.mark.parametrize("seed", range(3))
def test_following_a_text_equals_comparing_paths(seed: int) -> None:
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    for _ in range(50):
        size = int(rng.integers(1, 12))
        tokens = rng.integers(2, size=size).astype(np.int32)
        parents = np.array([-1, *(rng.integers(i) for i in range(1, size))], np.int32)
        text = rng.integers(2, size=rng.integers(1, 5)).astype(np.int32)
        expected = []
        for node in range(size):
            path = tokens[path_to(parents, node)[1:]].tolist()
            known = text[: len(path)].tolist()
            cut = path[: len(known)]
            expected.append(int(cut == known) if len(path) <= len(known) or cut != known else -1)
        assert kernels.follow(tokens, parents, text).tolist() == expected


def test_chances_begin_as_the_head_says_and_come_to_what_is_seen() -> None:
    chances = Chances()
    asked = np.float32([0.01, 0.35, 0.95])
    np.testing.assert_allclose(chances.of(asked), asked, rtol=1e-6)
    tree = DraftTree.of([5, 6, 7], [-1, 0, 0], [1.0, 0.35, 0.01], [0, 1, 1])
    for step in range(2000):
        chances.learn(tree, np.int32([6 if step % 4 else 9]))
    found = chances.of(asked)
    assert found[1] == pytest.approx(0.75, abs=0.02)
    assert found[0] == pytest.approx(0.0, abs=1e-3)
    assert found[2] == pytest.approx(0.95)
    for _ in range(2000):
        chances.learn(tree, np.int32([9]))
    assert chances.of(asked)[1] < 0.05
