"""A tree of everything the sources propose, with what each of them says of every node."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rasd.engine import kernels
from rasd.tree import CORPUS, DRAFT, PROMPT, Draft, DraftTree, Float32s, Int32s
from rasd.trie import Continuations

_NO_TOP = (np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32))
_NO_NODES = np.zeros(0, np.int32)
_COLUMN = {PROMPT: kernels.COUNT, CORPUS: kernels.COUNT + kernels.PER_SOURCE}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the scores of N nodes rest on.

    Attributes:
        known: float32[N, 7], what the sources say of each; see `rasd.engine.kernels`.
        cells: int32[N, 6], before: float32[N, 6]; how that became a chance; see
            `rasd.engine.kernels_score.score`.
        rows: int32[N], row of the drafter's distribution behind a node, or -1.
        top: its most probable tokens int32[E, K] and their log-probabilities float32[E, K].
    """

    known: Float32s
    cells: Int32s
    before: Float32s
    rows: Int32s
    top: tuple[Int32s, Float32s]


@dataclass(frozen=True, slots=True)
class FusedTree(DraftTree):
    """All candidates for one sequence in one step; cutting it gives a plain `DraftTree`.

    ``evidence`` is there where the scores are calibrated.
    """

    evidence: Evidence | None = None


class Branches:
    """Grows a tree of all that is proposed; nodes keep their indices. Belongs to one step."""

    def __init__(self, arrays: kernels.Branches, top: tuple[Int32s, Float32s], depth: int) -> None:
        self.arrays = arrays
        self.top = top
        self._depth = depth

    @classmethod
    def of_draft(cls, root: int, draft: Draft | None, depth: int) -> Branches:
        """The nodes of a draft, if there is one. Nodes below ``depth`` are always left out."""
        tree = DraftTree.root(root) if draft is None else draft.tree
        expanded = _NO_NODES if draft is None else draft.expanded
        top = _NO_TOP if draft is None else (draft.top_ids, draft.top_logprobs)
        nodes = (tree.tokens, tree.parents, tree.scores)
        return cls(kernels.start(root, nodes, expanded, DRAFT, depth), top, depth)

    @classmethod
    def of_tree(cls, tree: FusedTree, evidence: Evidence, depth: int) -> Branches:
        """To go on where ``tree`` was scored."""
        origins = np.full(len(tree), -1, np.int32) if tree.origins is None else tree.origins
        known = (evidence.rows, evidence.known)
        arrays = (tree.tokens, tree.parents, tree.sources, origins, *known)
        return cls(arrays, evidence.top, depth)

    def add(
        self, found: Continuations, source: int, *, base: int = 0, first_row: int | None = None
    ) -> None:
        """Fuses continuations below the node ``base``, behind which they were found.

        With ``first_row`` node i has that row and i as its origin, unless it has one.
        """
        trie = (found.tokens, found.parents, found.counts)
        says = (source, _COLUMN[source], -1 if first_row is None else first_row)
        sizes = (int(found.total), int(found.match_length))
        self.arrays = kernels.insert(self.arrays, base, trie, sizes, says, self._depth, self.top)
