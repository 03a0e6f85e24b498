"""Calibrated scores: against a slow twin, against known rates, and apart from each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.config import SpeculationConfig
from rasd.engine import kernels
from rasd.engine.branches import Branches, FusedTree
from rasd.engine.calibration import Calibration, Calibrations
from rasd.tree import CORPUS, DRAFT, PROMPT, Draft, DraftTree, Int32s
from rasd.trie import Continuations, build_trie
from tests.engine.test_branches import told, tries
from tests.test_tree import ROOT, check, tokens

CONFIG = SpeculationConfig()
SEED = 20261122


def branches_of(
    draft: Draft | None, prompt: Continuations | None, corpus: Continuations | None
) -> Branches:
    branches = Branches.of_draft(ROOT, draft, 9)
    for found, source in ((prompt, PROMPT), (corpus, CORPUS)):
        if found is not None:
            branches.add(found, source)
    return branches


class Twin:
    """What is learned, one cell at a time; ``keep`` as in `kernels_score.learn`."""

    def __init__(self, keep: float) -> None:
        self.keep = keep
        self.cells: dict[int, list[float]] = {}

    def learn(self, tree: FusedTree, decided: list[int]) -> None:
        evidence = tree.evidence
        assert evidence is not None
        at = 0
        for token in decided:
            below = np.flatnonzero(tree.parents == at)
            at = -1
            for node in below.tolist():
                hit = int(tree.tokens[node]) == token
                at = node if hit else at
                for cell, before in zip(evidence.cells[node], evidence.before[node], strict=True):
                    if cell >= 0:
                        old = self.cells.get(int(cell), [0.0, 0.0, 0.0])
                        new = [1.0, float(hit), float(before)]
                        pairs = zip(old, new, strict=True)
                        self.cells[int(cell)] = [a * self.keep + b for a, b in pairs]
            if at < 0:
                return

    def corrected(self, cell: int, chance: float) -> float:
        tried, hit, expected = self.cells.get(cell, [0.0, 0.0, 0.0])
        right, wrong = 8 * chance, 8 * (1 - chance)
        odds = chance / (1 - chance)
        odds *= ((hit + right) / (tried - hit + wrong)) / (
            (expected + right) / (tried - expected + wrong)
        )
        return odds / (1 + odds)


@given(
    st.lists(
        st.tuples(
            st.none() | told(),
            st.none() | tries,
            st.none() | tries,
            st.lists(tokens, max_size=4),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_every_chance_is_corrected_by_what_its_cell_saw(
    steps: list[tuple[Draft | None, Continuations | None, Continuations | None, list[int]]],
) -> None:
    calibration, twin = Calibration(CONFIG), Twin(1 - 1 / 1024)
    for draft, prompt, corpus, decided in steps:
        tree = calibration.scored(branches_of(draft, prompt, corpus))
        check(tree)
        evidence = tree.evidence
        assert evidence is not None
        assert (tree.scores > 0).all()
        for node in range(1, len(tree)):
            last, before = int(evidence.cells[node, -1]), float(evidence.before[node, -1])
            chance = tree.scores[node] / tree.scores[tree.parents[node]]
            assert chance == pytest.approx(twin.corrected(last, before), abs=1e-4)
        for parent in range(len(tree)):  # of siblings one can be right
            below = evidence.before[tree.parents == parent, -1]
            assert below.sum() < max(1.01, 1e-4 * len(below))
        calibration.learn(tree, np.asarray(decided, np.int32))
        twin.learn(tree, decided)


def chain(source: int, chance: float) -> Branches:
    """One node that a source believes in."""
    if source == DRAFT:
        tree = DraftTree.of([ROOT, 1], [-1, 0], [1.0, chance], [0, DRAFT])
        none = (np.zeros(0, np.int32), np.zeros((0, 1), np.int32), np.zeros((0, 1), np.float32))
        return branches_of(Draft(tree, *none), None, None)
    of = round(chance * 20)
    found = build_trie([[1]] * of + [[2]] * (20 - of), 6)
    return branches_of(None, found, None) if source == PROMPT else branches_of(None, None, found)


@pytest.mark.parametrize("source", [DRAFT, PROMPT, CORPUS])
@pytest.mark.parametrize("chance", [0.15, 0.6, 0.85])
@pytest.mark.parametrize("true", [0.05, 0.5, 0.95])
def test_scores_become_the_rates_of_acceptance(source: int, chance: float, true: float) -> None:
    """Whatever a source believes."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    calibration = Calibration(CONFIG)
    for _ in range(3000):
        tree = calibration.scored(chain(source, chance))
        decided = [1] if rng.random() < true else [9]
        calibration.learn(tree, np.asarray(decided, np.int32))
    score = calibration.scored(chain(source, chance)).scores[1]
    assert score == pytest.approx(true, abs=0.04)


def agreed(rng: np.random.Generator) -> tuple[Branches, Int32s]:
    """The drafter says 1 or 2, the prompt 1; together they are right more often."""
    first, both = float(rng.choice([0.3, 0.7])), int(rng.integers(2))
    tree = DraftTree.of([ROOT, 1, 2], [-1, 0, 0], [1.0, first, 0.02], [0, DRAFT, DRAFT])
    top = np.array([[1, 2]], np.int32)
    draft = Draft(tree, np.zeros(1, np.int32), top, np.log([[first, 0.02]]).astype(np.float32))
    right = 0.95 if both and first > 0.5 else 0.4
    branches = branches_of(draft, build_trie([[1]], 4) if both else None, None)
    return branches, np.array([1 if rng.random() < right else 7], np.int32)


def test_sources_that_agree_are_learned_together() -> None:
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    calibration = Calibration(CONFIG)
    seen: dict[tuple[int, bool], list[float]] = {}
    for step in range(6000):
        branches, decided = agreed(rng)
        tree = calibration.scored(branches)
        if step > 5000:
            known = tree.evidence
            assert known is not None
            key = (int(tree.sources[1]), bool(known.known[1, kernels.Q] > 0.5))
            seen.setdefault(key, []).append(float(tree.scores[1]))
        calibration.learn(tree, decided)
    assert np.mean(seen[DRAFT | PROMPT, True]) == pytest.approx(0.95, abs=0.04)
    for key in ((DRAFT | PROMPT, False), (DRAFT, True), (DRAFT, False)):
        assert np.mean(seen[key]) == pytest.approx(0.4, abs=0.06)


@pytest.mark.parametrize("source", [PROMPT, CORPUS])
@pytest.mark.parametrize("chance", [0.2, 0.5, 0.8])
def test_two_sources_say_more_than_one(source: int, chance: float) -> None:
    calibration = Calibration(CONFIG)
    tree = DraftTree.of([ROOT, 1], [-1, 0], [1.0, chance], [0, DRAFT])
    none = (np.zeros(0, np.int32), np.zeros((0, 1), np.int32), np.zeros((0, 1), np.float32))
    found = build_trie([[1]] * 10, 3)
    both = branches_of(Draft(tree, *none), None, None)
    both.add(found, source)
    alone = Branches.of_draft(ROOT, None, 9)
    alone.add(found, source)
    one, other = calibration.scored(chain(DRAFT, chance)), calibration.scored(alone)
    assert calibration.scored(both).scores[1] > max(one.scores[1], other.scores[1])


def test_what_one_tenant_accepts_changes_no_other() -> None:
    known = Calibrations(CONFIG)
    fresh = float(Calibration(CONFIG).scored(chain(DRAFT, 0.6)).scores[1])
    mine = known.of("a", sampled=False)
    for _ in range(100):
        mine.learn(mine.scored(chain(DRAFT, 0.6)), np.array([9], np.int32))
    assert known.of("a", sampled=False) is mine
    assert mine.scored(chain(DRAFT, 0.6)).scores[1] < 0.2
    for tenant, sampled in (("b", False), ("a", True), ("", False)):
        others = known.of(tenant, sampled=sampled)
        assert others.scored(chain(DRAFT, 0.6)).scores[1] == pytest.approx(fresh)


def test_the_tenants_used_last_are_remembered() -> None:
    known = Calibrations(CONFIG, most=2)
    a, b = known.of("a", sampled=False), known.of("b", sampled=False)
    assert known.of("a", sampled=False) is a
    known.of("c", sampled=False)
    assert known.of("a", sampled=False) is a
    assert known.of("b", sampled=False) is not b


def test_nothing_is_learned_of_trees_without_evidence() -> None:
    calibration = Calibration(CONFIG)
    tree = DraftTree.of([ROOT, 1], [-1, 0], [1.0, 0.5], [0, DRAFT])
    plain = FusedTree(tree.tokens, tree.parents, tree.scores, tree.sources)
    calibration.learn(plain, np.array([1], np.int32))
    before = calibration.scored(chain(DRAFT, 0.5)).scores.tolist()
    assert before == Calibration(CONFIG).scored(chain(DRAFT, 0.5)).scores.tolist()
