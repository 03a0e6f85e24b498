"""The compiled loops: what is malformed, and that nothing is compiled in the middle of a step."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rasd.kernels import is_forest

SCRIPT = """
from dataclasses import replace

import numpy as np

from rasd import kernels
from rasd.config import SpeculationConfig
from rasd.engine import kernels as fusing, kernels_score as scoring
from rasd.engine.calibration import Calibrations
from rasd.engine.speculate import (
    Behind, Proposals, build_tree, candidates, graft, leaves_to_extend,
)
from rasd.engine.sound import sound_continuations, sound_draft
from rasd.tree import CORPUS, PROMPT, Draft, DraftTree
from rasd.trie import build_trie

def compiled():
    names = ("fuse", "prune", "select", "below", "depths", "is_forest")
    known = {name: len(getattr(kernels, name).signatures) for name in names}
    for name in ("start", "insert", "ends"):
        known[name] = len(getattr(fusing, name).signatures)
    for name in ("score", "learn"):
        known[name] = len(getattr(scoring, name).signatures)
    return known

kernels.warm_up()
calibration = Calibrations(SpeculationConfig()).of("", sampled=False)
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
