"""From proposals to candidates: sources, routing, and what is found behind drafted nodes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.config import SpeculationConfig
from rasd.engine.branches import FusedTree
from rasd.engine.calibration import Calibration
from rasd.engine.speculate import (
    Behind,
    Proposals,
    build_tree,
    candidates,
    graft,
    leaves_to_extend,
    routed,
)
from rasd.errors import RasdError
from rasd.params import Speculation
from rasd.tree import CORPUS, DRAFT, PROMPT, Draft, DraftTree, depths, path_to
from rasd.trie import Continuations, build_trie
from tests.engine.test_branches import told, tries
from tests.test_tree import ROOT, check, table, with_origins

CONFIG = SpeculationConfig()
ROUTE = SpeculationConfig(combine="route", route_length=5)


def all_of(proposals: Proposals, config: SpeculationConfig = CONFIG, depth: int = 20) -> FusedTree:
    calibration = Calibration(config)
    return candidates(ROOT, proposals, config, mode="rasd", depth=depth, calibration=calibration)


@given(st.none() | told(), st.none() | tries, st.none() | tries, st.integers(0, 6))
def test_candidates_are_all_that_is_proposed(
    draft: Draft | None, prompt: Continuations | None, corpus: Continuations | None, depth: int
) -> None:
    proposals = Proposals(draft, prompt, corpus)
    unpruned = SpeculationConfig(scores="static", prune_top_k=None)
    static = candidates(ROOT, proposals, unpruned, mode="rasd", depth=depth)
    fused = all_of(proposals, depth=depth)
    check(fused)
    assert fused.evidence is not None
    assert static.evidence is None
    want = {path: sources for path, (_, sources) in table(static).items()}
    assert {path: sources for path, (_, sources) in table(fused).items()} == want


@given(told(), tries, tries, st.sampled_from(["draft", "prompt", "corpus", "rasd"]))
def test_a_mode_uses_its_sources(
    draft: Draft, prompt: Continuations, corpus: Continuations, mode: Speculation
) -> None:
    proposals = Proposals(draft, prompt, corpus)
    bits = {"draft": DRAFT, "prompt": PROMPT, "corpus": CORPUS, "rasd": DRAFT | PROMPT | CORPUS}
    for config in (CONFIG, SpeculationConfig(scores="static")):
        tree = build_tree(
            ROOT, proposals, config, mode=mode, nodes=9, depth=5, calibration=Calibration(config)
        )
        check(tree)
        assert len(tree) <= 10
        assert not int(np.bitwise_or.reduce(tree.sources)) & ~bits[mode]


# --- routing ------------------------------------------------------------------------------------


def draft_of(*chances: float) -> Draft:
    """A chain of tokens 1, 2, ... that the drafter gives these chances."""
    size = len(chances) + 1
    tree = DraftTree.of(
        [ROOT, *range(1, size)],
        range(-1, size - 1),
        np.cumprod([1.0, *chances]),
        [0] + [DRAFT] * len(chances),
    )
    none = (np.zeros(0, np.int32), np.zeros((0, 1), np.int32), np.zeros((0, 1), np.float32))
    return Draft(tree, *none)


@pytest.mark.parametrize("scores", ["static", "calibrated"])
def test_routing_takes_long_matches_alone_and_the_draft_elsewhere(scores: str) -> None:
    config = SpeculationConfig.model_validate({**ROUTE.model_dump(), "scores": scores})
    for prompt, corpus, long in ((5, 1, True), (1, 9, True), (4, 4, False)):
        proposals = Proposals(
            draft_of(0.5, 0.5), build_trie([[3]], prompt), build_trie([[4]], corpus)
        )
        assert routed(proposals, config) == long
        assert not routed(proposals, CONFIG)
        want = {3, 4} if long else {1, 2}
        assert set(all_of(proposals, config).tokens[1:].tolist()) == want
    assert len(all_of(Proposals(None, build_trie([[3]], 4)), config)) == 1


# --- what is behind -----------------------------------------------------------------------------


@given(told(), st.none() | tries, st.integers(0, 5))
def test_it_asks_where_the_path_most_probably_ends(
    draft: Draft, prompt: Continuations | None, most: int
) -> None:
    tree = all_of(Proposals(draft, prompt))
    leaves = leaves_to_extend(tree, SpeculationConfig(extend=most))
    ends = {}
    for node in range(1, len(tree)):
        below = np.flatnonzero(tree.parents == node)
        retrieved = any(int(tree.sources[child]) & ~DRAFT for child in below)
        if tree.sources[node] & DRAFT and not retrieved:
            ends[node] = float(tree.scores[node]) - float(tree.scores[below].sum())
    worth = {node: end for node, end in ends.items() if end > 0.02 + 1e-6}
    assert set(leaves) <= {node for node, end in ends.items() if end > 0.02 - 1e-6}
    assert len(leaves) >= min(most, len(worth))
    for one, two in pairwise(leaves):
        assert ends[one] >= ends[two] - 1e-6
    if leaves:
        rest = [end for node, end in worth.items() if node not in leaves]
        assert max(rest, default=0.0) <= min(ends[node] for node in leaves) + 1e-6


def test_static_scores_ask_nobody_behind() -> None:
    static = SpeculationConfig(scores="static")
    tree = all_of(Proposals(draft_of(0.9, 0.9)), static)
    assert leaves_to_extend(tree, static) == []
    behind = Proposals(behind=(Behind(1, PROMPT, build_trie([[3]], 4)),))
    assert graft(tree, behind, depth=9, calibration=Calibration(static)) is tree
    assert leaves_to_extend(all_of(Proposals()), CONFIG) == []


@given(
    told(),
    st.none() | tries,
    st.lists(st.tuples(st.integers(0, 99), st.sampled_from([PROMPT, CORPUS]), tries), max_size=4),
    st.integers(0, 7),
)
def test_grafts_stand_behind_their_nodes(
    draft: Draft,
    prompt: Continuations | None,
    found: list[tuple[int, int, Continuations]],
    depth: int,
) -> None:
    proposals = Proposals(draft, prompt)
    tree = all_of(proposals, depth=depth)
    behind = tuple(Behind(node % len(tree), source, trie) for node, source, trie in found)
    proposals = replace(proposals, behind=behind)
    grown = graft(tree, proposals, depth=depth, calibration=Calibration(CONFIG))
    check(grown)
    assert grown.tokens[: len(tree)].tolist() == tree.tokens.tolist()
    assert grown.parents[: len(tree)].tolist() == tree.parents.tolist()
    want = {path: sources for path, (_, sources) in table(tree).items()}
    for one in behind:
        base = tuple(tree.tokens[path_to(tree.parents, one.node)[1:]].tolist())
        paths: list[tuple[int, ...]] = []
        for token, parent in zip(
            one.found.tokens.tolist(), one.found.parents.tolist(), strict=True
        ):
            paths.append((*(paths[parent] if parent >= 0 else base), token))
        for path in paths:
            if len(path) <= depth:
                want[path] = want.get(path, 0) | one.source
    assert {path: sources for path, (_, sources) in table(grown).items()} == want


def test_what_is_grafted_has_an_origin_if_the_whole_path_stands_there() -> None:
    trie = with_origins(build_trie([[5, 6]], 2))
    proposals = Proposals(
        draft_of(0.9, 0.9, 0.9),
        with_origins(build_trie([[1]], 3)),
        behind=(Behind(1, PROMPT, trie), Behind(3, CORPUS, replace(trie, total=2))),
    )
    tree = all_of(replace(proposals, behind=()))
    grown = graft(tree, proposals, depth=9, calibration=Calibration(CONFIG))
    assert grown.origins is not None
    found = {
        (int(token), int(depth)): int(row)
        for token, depth, row in zip(
            grown.tokens, depths(grown.parents), grown.origins, strict=True
        )
    }
    # A match of two behind the first node covers it and the root; three nodes it does not cover.
    assert found == {
        (ROOT, 0): -1, (1, 1): 0, (2, 2): -1, (3, 3): -1,
        (5, 2): 1, (6, 3): 2, (5, 4): -1, (6, 5): -1,
    }  # fmt: skip
    assert [proposals.origin(row)[2] for row in range(5)] == [7, 7, 8, 7, 8]
    with pytest.raises(RasdError, match="no source has origin 5"):
        proposals.origin(5)
