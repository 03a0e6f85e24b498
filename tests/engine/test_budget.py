"""The number of nodes is the best one, and what does not pay is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rasd.config import SpeculationConfig
from rasd.engine.api import Request
from rasd.engine.branches import FusedTree
from rasd.engine.budget import Budget, Load
from rasd.engine.round import Round
from rasd.engine.sequence import Sequence as Running
from rasd.tree import CORPUS, DRAFT, PROMPT, DraftTree, cut
from tests.engine.paced import Paced, verify_s
from tests.fakes import FakeClock, gather, request


def learned(clock: FakeClock, **settings: Any) -> Budget:
    """A budget that has measured `verify_s`."""
    budget = Budget(SpeculationConfig.model_validate(settings), clock)
    for _ in range(3):
        for rows in (1, 2, 4, 8, 16, 32, 64, 128):
            since_s = clock.now
            clock.now += verify_s(rows, 100)
            budget.verified(rows, 100, since_s)
    return budget


def rounds_of(trees: Sequence[DraftTree], limits: Sequence[int]) -> list[Round]:
    """Rounds of sequences that have these trees."""
    rounds = []
    for number, (tree, limit) in enumerate(zip(trees, limits, strict=True)):
        sequence = Running.of(request(number, [1]))
        sequence.handle = number
        fused = FusedTree(tree.tokens, tree.parents, tree.scores, tree.sources)
        rounds.append(Round(sequence, limit, DRAFT, None, tree=fused))
    return rounds


def random_tree(rng: np.random.Generator, size: int, skill: float) -> DraftTree:
    parents = [-1, *(int(rng.integers(0, i)) for i in range(1, size))]
    scores = [1.0]
    for parent in parents[1:]:
        scores.append(scores[parent] * float(rng.random()) ** (1 / skill))
    return DraftTree.of(rng.integers(0, 20, size), parents, scores, [0] + [DRAFT] * (size - 1))


@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize("skill", [0.1, 1.0, 4.0])
def test_the_best_number_of_nodes_is_taken(batch: int, skill: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    budget = learned(FakeClock())
    trees = [random_tree(rng, int(rng.integers(1, 60)), skill) for _ in range(batch)]
    load = Load(batch, batch, 100)
    kept = budget.nodes(rounds_of(trees, [32] * batch), load)
    scores = np.sort(np.concatenate([np.sort(t.scores[1:])[::-1][:32] for t in trees]))[::-1]

    def rate(nodes: int) -> float:
        return float(batch + scores[:nodes].sum()) / verify_s(batch + nodes, 100)

    best = max(rate(nodes) for nodes in range(len(scores) + 1))
    assert rate(sum(kept)) >= 0.97 * best
    assert all(n <= min(32, len(t) - 1) for n, t in zip(kept, trees, strict=True))
    taken = [cut(t, n).scores[1:] for t, n in zip(trees, kept, strict=True)]
    assert np.concatenate(taken).sum() == pytest.approx(scores[: sum(kept)].sum(), rel=1e-5)


def test_time_that_is_gone_makes_nodes_cheaper() -> None:
    clock = FakeClock()
    budget = learned(clock)
    tree = random_tree(np.random.default_rng(3), 64, 1.0)
    few = budget.nodes(rounds_of([tree] * 16, [64] * 16), Load(16, 16, 100))
    clock.now += 20e-3
    assert sum(budget.nodes(rounds_of([tree] * 16, [64] * 16), Load(16, 16, 100))) > sum(few)


def test_nothing_is_verified_where_rows_are_dear() -> None:
    budget = learned(FakeClock())
    poor = DraftTree.of([1, 2, 3], [-1, 0, 0], [1.0, 0.1, 0.05], [0, 1, 1])
    assert budget.nodes(rounds_of([poor] * 64, [8] * 64), Load(64, 64, 100)) == [0] * 64
    assert budget.nodes(rounds_of([poor], [8]), Load(1, 1, 100)) == [
        2
    ]  # one row is as dear as three
    assert budget.nodes([], Load(0, 0, 0)) == []


def test_where_tokens_were_cheap_lately_poor_nodes_are_left_out() -> None:
    budget = learned(FakeClock())
    tree = random_tree(np.random.default_rng(5), 64, 1.0)
    rounds, load = rounds_of([tree] * 16, [64] * 16), Load(16, 16, 100)
    usual = sum(budget.nodes(rounds, load))
    assert budget.price is not None
    here_s = budget.price.token_s
    for factor, compared in ((4.0, 0), (0.25, -1)):  # dear ones change nothing here
        for _ in range(100):
            budget.rate.observe(16, 16, 16 * factor * here_s)
        kept = sum(budget.nodes(rounds, load))
        assert np.sign(kept - usual) == compared
        assert budget.price.token_s == pytest.approx(factor * here_s, rel=0.05)


def test_what_several_sources_found_counts_for_one_retriever() -> None:
    budget = learned(FakeClock())
    sources = [0, PROMPT, CORPUS, PROMPT | CORPUS, DRAFT | CORPUS, DRAFT | PROMPT]
    scores = [1.0, 0.5, 0.4, 0.3, 0.2, 0.1]
    tree = DraftTree.of([1, 2, 3, 4, 5, 6], [-1, 0, 0, 0, 0, 0], scores, sources)
    (each,) = rounds_of([tree], [8])
    for kind, expected in ((PROMPT, 0.5 + 0.3 + 0.1), (CORPUS, 0.4 + 0.2)):
        for _ in range(200):
            budget.learn_found(kind, each, tree)
        found = budget.found_gains[kind].expected(each.tenant, each.handle)
        assert found == pytest.approx(expected, rel=0.01)
        budget.learn_found(kind, each, None)
        assert budget.found_gains[kind].expected(each.tenant, each.handle) < found


def test_a_fixed_budget_takes_all_it_may() -> None:
    budget = Budget(SpeculationConfig(budget="fixed"), FakeClock())
    poor = DraftTree.of([1, 2, 3], [-1, 0, 0], [1.0, 0.1, 0.05], [0, 1, 1])
    rounds = rounds_of([poor] * 64, [8] * 32 + [1] * 32)
    assert budget.nodes(rounds, Load(64, 64, 0)) == [2] * 32 + [1] * 32


# --- whole engines, on a clock that only their stages move ----------------------------------------


def asking(count: int, tokens: int, mode: str = "rasd", first: int = 0) -> list[Request]:
    return [
        request(
            first + i,
            [2 + i % 20, 3 + i % 7, 5],
            max_tokens=tokens,
            ignore_eos=True,
            speculation=mode,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(("count", "tokens"), [(1, 300), (16, 60)])
def test_sources_without_use_cost_two_percent_at_most(count: int, tokens: int, seed: int) -> None:
    plain = Paced(seed=seed).run(asking(count, tokens, "off"))
    house = Paced(skill=0.0, seed=seed)
    house.run(asking(count, 60))  # the first shall learn what the sources are worth
    assert house.drafter is not None
    drafted = house.drafter.queries
    assert house.run(asking(count, tokens, first=1000)) >= 0.975 * plain
    assert house.drafter.queries - drafted < 0.05 * count * tokens


@pytest.mark.parametrize("skill", [0.5, 0.9])
def test_at_one_sequence_it_is_as_fast_as_the_best_fixed_budget(skill: float, seed: int) -> None:
    rates = []
    for nodes in (4, 8, 16):
        house = Paced(skill=skill, seed=seed, speculation={"budget": "fixed", "nodes": nodes})
        rates.append(house.run(asking(1, 300)))
    house = Paced(skill=skill, seed=seed)
    house.run(asking(1, 60))
    assert house.run(asking(1, 300, first=1000)) >= 0.95 * max(rates)


def test_drafting_stops_when_it_does_not_pay_and_comes_back() -> None:
    house = Paced(skill=0.9)
    drafter = house.drafter
    assert drafter is not None
    for one in asking(1, 2000):
        house.engine.add(one)

    def share(steps: int) -> float:
        before = drafter.queries
        for _ in range(steps):
            house.engine.step()
        return (drafter.queries - before) / steps

    share(20)
    assert share(40) > 0.9
    drafter.skill = 0.0
    share(40)
    assert share(100) < 0.1
    drafter.skill = 0.9
    share(300)
    assert share(40) > 0.6


def test_only_those_are_looked_up_who_gain() -> None:
    house = Paced(skill=None)
    assert house.prompt is not None
    asked: list[int] = []
    honest = house.prompt.retrieve

    def retrieve(question: Any) -> Any:
        asked.extend(query.sequence for query in question.queries)
        return honest(question)

    house.prompt.retrieve = retrieve  # type: ignore[method-assign]
    requests = asking(16, 120)
    for one in requests:
        house.engine.add(one)
    house.engine.step()
    handles = sorted(house.prompt.texts)
    house.prompt.helped = set(handles[:2])
    outputs = [output for _ in range(60) for output in house.engine.step()]
    helped = [asked.count(handle) for handle in handles[:2]]
    others = [asked.count(handle) for handle in handles[2:]]
    gained = {n: each[-1].statistics.acceptance_length for n, each in gather(outputs).items()}
    assert min(gained[0], gained[1]) > 2.0 > 1.01 > max(gained[n] for n in range(2, 16))
    assert min(helped) > max(others)
