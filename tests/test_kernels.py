"""The compiled loops: what is malformed or largest, and that a step compiles nothing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rasd import kernels
from rasd.kernels import is_forest

SCRIPT = """
from dataclasses import replace

import numpy as np

from rasd import kernels
from rasd.config import SpeculationConfig
from rasd.engine import kernels as fusing, kernels_cost as costing, kernels_score as scoring
from rasd.engine.budget import Budget, Load
from rasd.engine.calibration import Calibrations
from rasd.engine.speculate import (
    Behind, Proposals, build_tree, candidates, graft, leaves_to_extend,
)
from rasd.engine.round import Round
from rasd.engine.sequence import Sequence
from rasd.engine.sound import sound_continuations, sound_draft
from rasd.tree import CORPUS, PROMPT, Draft, DraftTree
from rasd.trie import build_trie
from tests.fakes import request

def compiled():
    names = ("fuse", "prune", "select", "below", "depths", "is_forest", "reach", "largest")
    known = {name: len(getattr(kernels, name).signatures) for name in names}
    for name in ("start", "insert", "ends"):
        known[name] = len(getattr(fusing, name).signatures)
    for name in ("score", "learn"):
        known[name] = len(getattr(scoring, name).signatures)
    for name in ("observe", "ascending", "one", "best", "promise", "share"):
        known[name] = len(getattr(costing, name).signatures)
    return known

kernels.warm_up()
calibration = Calibrations(SpeculationConfig()).of("", sampled=False)
budget = Budget(SpeculationConfig(), lambda: 1.0)
budget.verified(3, 100, 0.5)
sequence = Sequence.of(request(1, [1]))
before = compiled()
assert set(before.values()) == {1}, before
config = SpeculationConfig()
trie = build_trie([[5, 6, 7], [5, 7], [4]], 3)
tree = DraftTree.of([0, 5, 6, 5], [-1, 0, 1, 1], [1, 0.9, 0.5, 0.4], [0, 1, 1, 1])
plain = Draft(tree, np.array([0, 1]), np.array([[5, 6, 7], [5, 6, 8]]), np.zeros((2, 3)))
for odd in (
    lambda array: array,
    lambda array: array.astype(np.int64),
    lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    lambda array: np.asfortranarray(array),
    lambda array: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),
):
    given = replace(trie, tokens=odd(trie.tokens), parents=odd(trie.parents))
    found = sound_continuations(replace(given, counts=odd(trie.counts)), 9)
    draft = sound_draft(
        replace(plain, expanded=odd(plain.expanded), top_ids=odd(plain.top_ids)), 0, 9
    )
    assert draft is not None and found is not None
    for nodes in (2, 30):
        proposals = Proposals(draft, found, found)
        build_tree(0, proposals, config, mode="rasd", nodes=nodes, depth=2)
        tree = candidates(0, proposals, config, mode="rasd", depth=4, calibration=calibration)
        leaves_to_extend(tree, config)
        behind = (Behind(2, PROMPT, found), Behind(0, CORPUS, found))
        proposals = replace(proposals, behind=behind)
        tree = graft(tree, proposals, depth=3, calibration=calibration)
        calibration.learn(tree, np.array([5, 6], np.int32))
        for limit in (2, 40):
            each = Round(sequence, limit, 7, calibration, proposals, tree)
            budget.nodes([each, each], Load(2 + nodes, 2, 100))
            budget.nodes([], Load(1, 1, 0))
            budget.promise(each)
            budget.verified(nodes, 100, 0.25)
            budget.drafted(1, 2, 0.01)
            budget.drafted_for([each], 1)
for draft, trie in ((None, None), (draft, None), (None, found)):
    proposals = Proposals(draft, trie, trie)
    tree = candidates(0, proposals, config, mode="rasd", depth=4, calibration=calibration)
    calibration.learn(tree, np.array([5, 6], np.int32))
assert compiled() == before, compiled()
"""


def test_a_step_compiles_nothing() -> None:
    """In a process of its own, where nothing else was compiled."""
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=300)


@given(
    st.lists(st.tuples(st.integers(-2, 6), st.integers(-2, 7)), max_size=7),
    st.integers(1, 6),
)
def test_a_forest_is_told_from_what_is_none(nodes: list[tuple[int, int]], vocabulary: int) -> None:
    wanted = (
        all(0 <= token < vocabulary for token, _ in nodes)
        and all(-1 <= parent < i for i, (_, parent) in enumerate(nodes))
        and len(set(nodes)) == len(nodes)
    )
    tokens, parents = np.asarray(nodes, np.int32).reshape(-1, 2).T.copy()
    assert is_forest(tokens, parents, vocabulary) == wanted


def test_extreme_parents_are_refused() -> None:
    low = np.array([np.iinfo(np.int32).min], np.int32)
    tokens = np.zeros(1, np.int32)
    assert not is_forest(tokens, low, 5)
    assert not is_forest(tokens, low - np.int32(1), 5)


SPECIAL = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1.0, -1.0, 3e38, -3e38]


@given(st.lists(st.one_of(st.sampled_from(SPECIAL), st.floats(width=16)), min_size=1, max_size=70))
def test_the_largest_of_bf16_is_where_torch_finds_it(values: list[float]) -> None:
    row = torch.tensor(values).bfloat16()
    assert kernels.largest(row.view(torch.int16).numpy()) == int(row.float().argmax())


def slow_reach(tokens: list[int], parents: list[int], decided: int, vocabulary: int) -> int | None:
    """The deepest node's depth; None if something is wrong."""
    depths: list[int] = []
    for node, (token, parent) in enumerate(zip(tokens, parents, strict=True)):
        chained = parent == node - 1 if node < decided else decided - 1 <= parent < node
        if not chained or not 0 <= token < vocabulary:
            return None
        depths.append(depths[parent] + 1 if parent >= 0 else 0)
    return max(depths)


@given(st.data())
def test_a_work_reaches_as_deep_as_its_deepest_node(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 8))
    decided = data.draw(st.integers(1, size))
    parents = [
        node - 1 if node < decided else data.draw(st.integers(decided - 1, node - 1))
        for node in range(size)
    ]
    tokens = data.draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
    if data.draw(st.booleans()):
        parents[data.draw(st.integers(0, size - 1))] = data.draw(st.integers(-3, size + 2))
    if data.draw(st.booleans()):
        tokens[data.draw(st.integers(0, size - 1))] = data.draw(st.integers(-2, 12))
    arrays = (np.asarray(column, np.int32) for column in (tokens, parents))
    deepest, wrong = kernels.reach(*arrays, decided, 10)
    expected = slow_reach(tokens, parents, decided, 10)
    assert (deepest if wrong < 0 else None) == expected


@pytest.mark.parametrize(
    ("tokens", "parents", "found"),
    [([3, 10], [-1, 0], (0, 1)), ([3, 4], [-1, -1], (1, 1)), ([3, 4, 5], [-1, 0, 1], (2, -1))],
)
def test_what_is_wrong_is_told(
    tokens: list[int], parents: list[int], found: tuple[int, int]
) -> None:
    arrays = (np.asarray(column, np.int32) for column in (tokens, parents))
    assert kernels.reach(*arrays, 1, 10) == found
