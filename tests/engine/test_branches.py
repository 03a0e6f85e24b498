"""Fused branches against sets of paths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.engine import kernels
from rasd.engine.branches import Branches
from rasd.tree import CORPUS, DRAFT, PROMPT, Draft, DraftTree, path_to
from rasd.trie import Continuations, build_trie
from tests.test_tree import ROOT, check, drafts, tokens

Path = tuple[int, ...]
tries = st.builds(
    build_trie, st.lists(st.lists(tokens, min_size=1, max_size=5), max_size=6), st.integers(1, 20)
)


@dataclass
class Known:
    """What the twin knows of a path."""

    q: float = kernels.UNKNOWN
    sources: int = 0
    origin: int = -1
    prompt: tuple[float, ...] = (0, 0, 0)
    corpus: tuple[float, ...] = (0, 0, 0)


def paths_of(ids: list[int], parents: list[int], above: Path = ()) -> list[Path]:
    """The path of each node of a trie that hangs below ``above``."""
    out: list[Path] = []
    for token, parent in zip(ids, parents, strict=True):
        out.append((*(out[parent] if parent >= 0 else above), token))
    return out


class Twin:
    """Nodes as paths in a dict."""

    def __init__(self, draft: Draft | None, depth: int) -> None:
        self.depth = depth
        self.nodes: dict[Path, Known] = {}
        self.top: dict[Path, dict[int, float]] = {}
        if draft is None:
            return
        tree = draft.tree
        paths = [
            tuple(tree.tokens[path_to(tree.parents, i)[1:]].tolist()) for i in range(len(tree))
        ]
        for i, path in enumerate(paths[1:], start=1):
            above = float(tree.scores[tree.parents[i]])
            q = float(tree.scores[i]) / above if above > 0 else 0.0
            if len(path) <= depth:
                self.nodes[path] = Known(q, DRAFT)
        for row, node in enumerate(draft.expanded.tolist()):
            best = zip(draft.top_ids[row].tolist(), draft.top_logprobs[row].tolist(), strict=True)
            self.top[paths[node]] = {token: float(np.exp(chance)) for token, chance in best}

    def add(self, found: Continuations, source: int, base: Path, first_row: int | None) -> None:
        paths = paths_of(found.tokens.tolist(), found.parents.tolist(), base)
        for i, path in enumerate(paths):
            if len(path) > self.depth:
                continue
            parent = int(found.parents[i])
            if path not in self.nodes:
                top = self.top.get(path[:-1])
                q = kernels.UNKNOWN if top is None else top.get(path[-1], kernels.BENEATH)
                self.nodes[path] = Known(q)
            known = self.nodes[path]
            known.sources |= source
            if known.origin < 0 and first_row is not None:
                known.origin = first_row + i
            of = float(found.total if parent < 0 else found.counts[parent])
            length = found.match_length + len(path) - len(base) - 1
            name = "prompt" if source == PROMPT else "corpus"
            if length >= getattr(known, name)[2]:
                setattr(known, name, (float(found.counts[i]), of, float(length)))


def table(branches: Branches) -> dict[Path, Known]:
    """The same of the compiled ones."""
    ids, parents, sources, origins, _, known = branches.arrays
    out = {}
    for node in range(1, len(ids)):
        path = tuple(ids[path_to(parents, node)[1:]].tolist())
        assert path not in out, "two nodes stand for one path"
        row = known[node].tolist()
        out[path] = Known(
            row[0], int(sources[node]), int(origins[node]), tuple(row[1:4]), tuple(row[4:7])
        )
    return out


@st.composite
def told(draw: st.DrawFn) -> Draft:
    """A draft whose distributions say something."""
    draft = draw(drafts())
    shape = draft.top_ids.shape
    numbers = st.floats(-9.0, 0.0, width=32)
    chances = draw(st.lists(numbers, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    logprobs = np.array(chances, np.float32).reshape(shape)
    return Draft(draft.tree, draft.expanded, draft.top_ids, logprobs)


@given(st.none() | told(), tries, tries, st.lists(tries, max_size=3), st.integers(0, 7), st.data())
def test_branches_are_sets_of_paths(
    draft: Draft | None,
    prompt: Continuations,
    corpus: Continuations,
    behind: list[Continuations],
    depth: int,
    data: st.DataObject,
) -> None:
    branches, twin = Branches.of_draft(ROOT, draft, depth), Twin(draft, depth)
    branches.add(prompt, PROMPT, first_row=0)
    twin.add(prompt, PROMPT, (), 0)
    branches.add(corpus, CORPUS)
    twin.add(corpus, CORPUS, (), None)
    for found in behind:
        ids, parents = branches.arrays[:2]
        base = data.draw(st.integers(0, len(ids) - 1))
        path = tuple(ids[path_to(parents, base)[1:]].tolist())
        source = data.draw(st.sampled_from([PROMPT, CORPUS]))
        branches.add(found, source, base=base, first_row=100)
        twin.add(found, source, path, 100)
        assert branches.arrays[0][: len(ids)].tolist() == ids.tolist()
        assert branches.arrays[1][: len(ids)].tolist() == parents.tolist()
    got = table(branches)
    assert got.keys() == twin.nodes.keys()
    for path, known in twin.nodes.items():
        assert got[path].q == pytest.approx(known.q, abs=1e-6)
        assert got[path].sources == known.sources
        assert got[path].origin == known.origin
        assert (got[path].prompt, got[path].corpus) == (known.prompt, known.corpus)
    ids, parents, sources = branches.arrays[:3]
    check(DraftTree(ids, parents, np.ones(len(ids), np.float32), sources))


def test_numbers_that_are_none_are_no_chance() -> None:
    tree = DraftTree.of([ROOT, 1], [-1, 0], [1.0, 0.5], [0, DRAFT])
    ids, logprobs = np.array([[1, 2, 3]], np.int32), np.array([[0, np.nan, np.inf]], np.float32)
    draft = Draft(tree, np.zeros(1, np.int32), ids, logprobs)
    branches = Branches.of_draft(ROOT, draft, 3)
    branches.add(build_trie([[2], [3], [4]], 1), PROMPT)
    assert [known.q for known in table(branches).values()] == [0.5, 0.0, 1.0, 0.0]
