"""From what the sources propose to the tree that is verified. Pure; knows no stage.

Nothing a source answers can do harm: `sound_draft` and `sound_continuations` refuse what is
malformed before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rasd.config import SpeculationConfig
from rasd.engine import kernels
from rasd.engine.branches import Branches, FusedTree
from rasd.engine.calibration import Calibration
from rasd.errors import RasdError
from rasd.kernels import is_forest
from rasd.params import MAX_NODES, Speculation
from rasd.tree import (
    CORPUS,
    DRAFT,
    PROMPT,
    Draft,
    DraftTree,
    Float32s,
    Int32s,
    cut,
    depths,
    fuse,
    prune,
    trim,
)
from rasd.trie import DIGEST_BYTES, Continuations, score_continuations

USES: Final[dict[Speculation, int]] = {
    "off": 0,
    "draft": DRAFT,
    "prompt": PROMPT,
    "corpus": CORPUS,
    "rasd": DRAFT | PROMPT | CORPUS,
}

# Answers beyond these sizes would cost the step more than they can bring.
_MAX_DRAFT: Final = 4 * MAX_NODES
_MAX_FOUND: Final = 16 * MAX_NODES
_MAX_TOP_K: Final = 128
_MAX_LENGTH: Final = 2**31 - 1
_MAX_TOTAL: Final = 2**62

_LEAST_END: Final = 0.02  # of probability; behind less it is not worth asking

_INT32: Final = np.dtype(np.int32)
_FLOAT32: Final = np.dtype(np.float32)


@dataclass(frozen=True, slots=True)
class Behind:
    """What a retriever found behind a node of the candidates: context and the path to it."""

    node: int
    source: int
    found: Continuations


@dataclass(frozen=True, slots=True)
class Proposals:
    """What the sources have for one sequence in one step, checked; None where nothing came.

    ``behind`` came last, when retrievers were asked behind nodes; in the order of grafting.
    """

    draft: Draft | None = None
    prompt: Continuations | None = None
    corpus: Continuations | None = None
    behind: tuple[Behind, ...] = ()

    def origin(self, row: int) -> tuple[int, bytes, int]:
        """Corpus, document and offset of a row of `DraftTree.origins`; see `rasd.trie.Origins`.

        Raises:
            RasdError: no source says so.
        """
        node = row
        for found in (self.prompt, self.corpus, *(one.found for one in self.behind)):
            if found is not None and found.origins is not None and 0 <= node < len(found):
                at = found.origins
                return int(at.corpora[node]), at.documents[node].tobytes(), int(at.offsets[node])
            node -= 0 if found is None else len(found)
        raise RasdError(f"no source has origin {row}")


def build_tree(
    root: int,
    proposals: Proposals,
    config: SpeculationConfig,
    *,
    mode: Speculation,
    nodes: int,
    depth: int,
    calibration: Calibration | None = None,
) -> DraftTree:
    """The ``nodes`` best `candidates`."""
    fused = candidates(root, proposals, config, mode=mode, depth=depth, calibration=calibration)
    return cut(fused, nodes)


def candidates(
    root: int,
    proposals: Proposals,
    config: SpeculationConfig,
    *,
    mode: Speculation,
    depth: int,
    calibration: Calibration | None = None,
) -> FusedTree:
    """All branches that the sources propose, fused and scored, uncut.

    Sources that ``mode`` does not use are left out, and so are nodes deeper than ``depth``,
    which could never become text. With a calibration every branch is kept, and its score is what
    that says. Without, or where ``config.scores`` is ``static``, what was retrieved is scored by
    its formula and pruned by the draft, if there is one. Origins are rows of the prompt's
    continuations, then of the corpus's.
    """
    uses = USES[mode]
    if config.combine == "route":
        uses &= ~DRAFT if routed(proposals, config) else DRAFT
    if calibration is None or config.scores == "static":
        return _static(root, proposals, config, uses, depth)
    branches = Branches.of_draft(root, proposals.draft if uses & DRAFT else None, depth)
    for found, source, row in _retrieved(proposals, uses):
        branches.add(found, source, first_row=row)
    return calibration.scored(branches)


def _retrieved(proposals: Proposals, uses: int) -> Iterator[tuple[Continuations, int, int | None]]:
    """Continuations behind the root that are used, their source, and the row of their first."""
    row = 0
    for found, source in ((proposals.prompt, PROMPT), (proposals.corpus, CORPUS)):
        if found is None:
            continue
        if len(found) and uses & source:
            yield found, source, None if found.origins is None else row
        row += len(found)


def _static(
    root: int, proposals: Proposals, config: SpeculationConfig, uses: int, depth: int
) -> FusedTree:
    doubts = {PROMPT: config.prompt_doubt, CORPUS: config.corpus_doubt}
    tree = DraftTree.root(root)
    for found, source, row in _retrieved(proposals, uses):
        scored = score_continuations(found, root, source, doubt=doubts[source], first_row=row)
        tree = fuse(tree, scored) if len(tree) > 1 else scored
    draft = proposals.draft
    if draft is not None and uses & DRAFT:
        pruned = prune(tree, draft, config.prune_top_k)
        tree = fuse(draft.tree, pruned) if len(pruned) > 1 else draft.tree
    tree = trim(tree, depth)
    return FusedTree(tree.tokens, tree.parents, tree.scores, tree.sources, tree.origins)


def routed(proposals: Proposals, config: SpeculationConfig) -> bool:
    """Whether the retrieved branches are taken alone, so that no draft is needed."""
    longest = max((f.match_length for f in (proposals.prompt, proposals.corpus) if f), default=0)
    return config.combine == "route" and longest >= config.route_length


def leaves_to_extend(tree: FusedTree, config: SpeculationConfig) -> list[int]:
    """At most ``config.extend`` nodes behind which it is worth asking the retrievers, best first.

    Those where the accepted path most probably ends as things stand, of the drafted ones behind
    which nothing was retrieved yet. None without calibrated scores.
    """
    evidence = tree.evidence
    if evidence is None or config.extend == 0 or len(tree) < 2:
        return []
    ends = kernels.ends(tree.parents, tree.scores, tree.sources, DRAFT)
    best = np.argsort(-ends, kind="stable")[: config.extend]
    return [node for node in best.tolist() if ends[node] > _LEAST_END]


def graft(
    tree: FusedTree,
    proposals: Proposals,
    *,
    depth: int,
    calibration: Calibration,
) -> FusedTree:
    """The candidates with what ``proposals.behind`` found, fused below its nodes, scored anew.

    Nodes of ``tree`` keep their indices. Grafted ones have an origin only if the whole path to
    them stands there.
    """
    if tree.evidence is None or not proposals.behind:
        return tree
    deep = depths(tree.parents)
    branches = Branches.of_tree(tree, tree.evidence, depth)
    row = sum(len(found) for found in (proposals.prompt, proposals.corpus) if found is not None)
    for one in proposals.behind:
        cited = one.found.origins is not None and one.found.match_length > deep[one.node]
        branches.add(one.found, one.source, base=one.node, first_row=row if cited else None)
        row += len(one.found)
    return calibration.scored(branches)


def sound_draft(draft: object, root: int, vocabulary: int) -> Draft | None:
    """A draft that is safe to use, or None. Scores above the parent's are lowered to it."""
    try:
        if not isinstance(draft, Draft) or not 1 <= len(draft.tree) <= _MAX_DRAFT:
            return None
        tree, size, rows = draft.tree, len(draft.tree), len(draft.expanded)
        tokens, parents = _plain(tree.tokens, _INT32, size), _plain(tree.parents, _INT32, size)
        scores = _plain(tree.scores, _FLOAT32, size)
        shape = np.shape(draft.top_ids)
        well_formed = (
            int(tokens[0]) == root
            and parents[0] == -1
            and is_forest(tokens[1:], parents[1:] - 1, vocabulary)
            and bool(((scores >= 0) & (scores <= 1)).all())  # false for NaN too
            and len(shape) == 2
            and shape == np.shape(draft.top_logprobs)
            and shape[1] <= _MAX_TOP_K
            and rows <= size
        )
        expanded = _plain(draft.expanded, _INT32, rows)
        top_ids = _plain(draft.top_ids, _INT32, *shape)
        top_logprobs = _plain(draft.top_logprobs, _FLOAT32, *shape)
        if not well_formed or not _ascends(expanded, shape[0], size):
            return None
        sources = np.full(size, DRAFT, np.uint8)
        sources[0] = 0
        safe = DraftTree(tokens, parents, _descending(scores, parents), sources)
        return Draft(safe, expanded, top_ids, top_logprobs)
    except Exception:  # arrays that are no arrays fail in any way they like
        return None


def sound_continuations(
    found: object, vocabulary: int, corpora: range | None = None
) -> Continuations | None:
    """Continuations that are safe to use, or None.

    ``corpora`` are those that origins may name; without, origins were not asked for and are
    left out.
    """
    try:
        if not isinstance(found, Continuations):
            return None
        if corpora is None and found.origins is not None:
            found = replace(found, origins=None)
        size = len(found)
        if size == 0:
            return found
        if not (size <= _MAX_FOUND and 1 <= found.match_length <= _MAX_LENGTH):
            return None
        tokens, parents = _plain(found.tokens, _INT32, size), _plain(found.parents, _INT32, size)
        counts = _plain(found.counts, _INT32, size)
        well_formed = (
            1 <= found.total <= _MAX_TOTAL
            and is_forest(tokens, parents, vocabulary)
            and bool((counts >= 0).all())
            and (corpora is None or _are_origins(found, corpora))
        )
        if not well_formed:
            return None
        if tokens is found.tokens and parents is found.parents and counts is found.counts:
            return found
        return replace(found, tokens=tokens, parents=parents, counts=counts)
    except Exception:  # as above
        return None


def _plain(array: NDArray[Any], kind: np.dtype[Any], *shape: int) -> NDArray[Any]:
    """The array as compiled loops take it, which is itself if it is one already.

    Raises:
        ValueError: it has another shape, or another kind of numbers.
    """
    if array.shape != shape or array.dtype.kind != kind.kind:
        raise ValueError(f"expected {kind} of shape {shape}; got {array.dtype} of {array.shape}")
    if array.dtype == kind and array.flags.carray:
        return array
    return np.array(array, kind, order="C")


def _are_origins(found: Continuations, corpora: range) -> bool:
    """Whether every node has one that can be, or none has one."""
    origins, size = found.origins, len(found)
    if origins is None:
        return True
    arrays = (origins.corpora, origins.documents, origins.offsets)
    return (
        [array.shape for array in arrays] == [(size,), (size, DIGEST_BYTES), (size,)]
        and [array.dtype for array in arrays] == [np.int32, np.uint8, np.int32]
        and bool(((origins.corpora >= corpora.start) & (origins.corpora < corpora.stop)).all())
        # The match and the nodes above stand before it.
        and bool((origins.offsets >= found.match_length + depths(found.parents)).all())
    )


def _ascends(expanded: Int32s, rows: int, size: int) -> bool:
    if len(expanded) != rows:
        return False
    if rows == 0:
        return True
    steps = np.diff(expanded)
    return expanded[0] == 0 and expanded[-1] < size and bool((steps > 0).all())


def _descending(scores: Float32s, parents: Int32s) -> Float32s:
    """Scores with none above its parent's, which cutting relies on."""
    if scores[0] == 1.0 and (scores[1:] <= scores[parents[1:]]).all():
        return scores
    lowered = scores.tolist()
    lowered[0] = 1.0
    for i, parent in enumerate(parents.tolist()[1:], start=1):
        lowered[i] = min(lowered[i], lowered[parent])
    return np.asarray(lowered, np.float32)
