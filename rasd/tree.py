"""Trees of proposed tokens: build, prune, fuse, cut. The heart of the paper (arXiv 2503.03434).

Pure functions on small arrays; nothing here is modified in place. Knows nothing of models,
corpora or sequences. Sizes are tens of nodes, where loops beat array arithmetic: those that run
in every step are in `rasd.kernels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rasd import kernels
from rasd.errors import InvalidRequest
from rasd.params import Speculation

Int32s = NDArray[np.int32]
Float32s = NDArray[np.float32]
UInt8s = NDArray[np.uint8]
Bools = NDArray[np.bool_]

DRAFT: Final = 1
PROMPT: Final = 2
CORPUS: Final = 4
SOURCES: Final[dict[str, int]] = {"draft": DRAFT, "prompt": PROMPT, "corpus": CORPUS}
USES: Final[dict[Speculation, int]] = {
    "off": 0,
    "draft": DRAFT,
    "prompt": PROMPT,
    "corpus": CORPUS,
    "rasd": DRAFT | PROMPT | CORPUS,
}
"""Bit set of the sources that may propose, where a request and the settings both say so."""


@dataclass(frozen=True, slots=True)
class DraftTree:
    """Flat arrays in topological order: ``parents[i] < i``. Node 0 is the root.

    The root is the newest token: already decided, not yet in the KV cache.

    Attributes:
        tokens: int32[N]; siblings always differ.
        parents: int32[N]; -1 for the root.
        scores: float32[N]; estimated probability that the path to the node is accepted. The
            root has 1, a child never more than its parent.
        sources: uint8[N]; bit set of DRAFT, PROMPT, CORPUS. The root has 0.
        origins: int32[N]; row in a table of where retrieved nodes were found, or -1. None
            where nobody asked.
    """

    tokens: Int32s
    parents: Int32s
    scores: Float32s
    sources: UInt8s
    origins: Int32s | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def root(cls, token: int) -> DraftTree:
        """A tree without proposals: a step that decodes plainly."""
        return cls.of([token], [-1], [1.0], [0])

    @classmethod
    def of(
        cls,
        tokens: Sequence[int] | Int32s,
        parents: Sequence[int] | Int32s,
        scores: Sequence[float] | Float32s,
        sources: Sequence[int] | UInt8s,
        origins: Sequence[int] | Int32s | None = None,
    ) -> DraftTree:
        """Builds a tree from anything array-like, without checking it."""
        return cls(
            np.asarray(tokens, np.int32),
            np.asarray(parents, np.int32),
            np.asarray(scores, np.float32),
            np.asarray(sources, np.uint8),
            None if origins is None else np.asarray(origins, np.int32),
        )


@dataclass(frozen=True, slots=True)
class Draft:
    """A drafter's tree, with its distribution where it is known.

    Attributes:
        tree: the proposals; every node but the root has source DRAFT.
        expanded: int32[E]; nodes whose distribution is known, ascending, the root first.
        top_ids: int32[E, K]; their most probable tokens, best first; K <= 128.
        top_logprobs: float32[E, K]; the log-probabilities of those.
    """

    tree: DraftTree
    expanded: Int32s
    top_ids: Int32s
    top_logprobs: Float32s


def prune(retrieved: DraftTree, draft: Draft, top_k: int | None) -> DraftTree:
    """Drops retrieved branches that the drafter finds improbable (RASD, section 3).

    A depth-1 branch lives only if its token is among the drafter's ``top_k`` at the root. Where
    a retrieved node coincides with an expanded drafted one, its children face the same test
    there. A branch lives or dies whole. ``None`` keeps everything.
    """
    if top_k is None or len(draft.expanded) == 0:
        return retrieved
    alive = kernels.prune(
        retrieved.tokens,
        retrieved.parents,
        draft.tree.tokens,
        draft.tree.parents,
        draft.expanded,
        draft.top_ids,
        top_k,
    )
    return _select(retrieved, alive)


def fuse(first: DraftTree, second: DraftTree) -> DraftTree:
    """One tree out of two with the same root, by longest prefix (RASD, section 3).

    Nodes of ``second`` that ``first`` has already are not duplicated: their sources unite, and
    the chance of such a node given its parent is that of either source being right,
    1 - (1 - a)(1 - b). Unmatched suffixes are grafted. Nodes of ``first`` keep their indices,
    and their origins where they have one; rows of both trees are of one table.

    Raises:
        InvalidRequest: the roots differ.
    """
    if first.tokens[0] != second.tokens[0]:
        raise InvalidRequest(
            f"trees to fuse start at different tokens: {first.tokens[0]} and {second.tokens[0]}"
        )
    fused = kernels.fuse(_arrays(first), _arrays(second))
    tokens, parents, scores, sources, places = fused
    return DraftTree(tokens, parents, scores, sources, _origins(first, second, places, len(tokens)))


def cut(tree: DraftTree, nodes: int) -> DraftTree:
    """The ``nodes`` best nodes beside the root, by score; ties keep the earlier node.

    Prefix-closed without further work: a child never scores above its parent and comes later.
    """
    if len(tree) <= nodes + 1:
        return tree
    order = np.argsort(-tree.scores, kind="stable")
    keep = np.zeros(len(tree), np.bool_)
    keep[0] = True
    keep[order[order != 0][:nodes]] = True
    return _select(tree, keep)


def trim(tree: DraftTree, depth: int) -> DraftTree:
    """The nodes at most ``depth`` below the root."""
    return _select(tree, depths(tree.parents) <= depth)


def depths(parents: Int32s) -> Int32s:
    """int32[N]: steps from the root, which has parent -1 and depth 0."""
    return kernels.depths(parents)


def ancestor_mask(parents: Int32s) -> Bools:
    """bool[N, N]: ``mask[i, j]`` when j lies on the path from the root to i, i included."""
    mask = np.eye(len(parents), dtype=np.bool_)
    for i, parent in enumerate(parents.tolist()):
        if parent >= 0:
            mask[i] |= mask[parent]
    return mask


def path_to(parents: Int32s, node: int) -> list[int]:
    """Nodes from the root to ``node``, both included."""
    path = [node]
    while parents[path[-1]] >= 0:
        path.append(int(parents[path[-1]]))
    return path[::-1]


def _arrays(tree: DraftTree) -> tuple[Int32s, Int32s, Float32s, UInt8s]:
    return tree.tokens, tree.parents, tree.scores, tree.sources


def _origins(first: DraftTree, second: DraftTree, places: Int32s, size: int) -> Int32s | None:
    """Of ``size`` fused nodes, to which the second tree's went as ``places`` says."""
    if first.origins is None and second.origins is None:
        return None
    out = np.full(size, -1, np.int32)
    if second.origins is not None:
        out[places] = second.origins
    if first.origins is not None:
        np.copyto(out[: len(first)], first.origins, where=first.origins >= 0)
    return out


def _select(tree: DraftTree, keep: Bools) -> DraftTree:
    """The kept nodes, renumbered. ``keep`` is prefix-closed and holds the root."""
    if keep.all():
        return tree
    origins = None if tree.origins is None else tree.origins[keep]
    return DraftTree(*kernels.select(_arrays(tree), keep), origins)
