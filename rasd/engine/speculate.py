"""From what the sources propose to the tree that is verified. Pure; knows no stage.

Takes only what `rasd.engine.sound` lets pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from rasd.config import SpeculationConfig
from rasd.engine import kernels
from rasd.engine.branches import Branches, FusedTree
from rasd.engine.calibration import Calibration
from rasd.errors import RasdError
from rasd.params import Speculation
from rasd.tree import (
    CORPUS,
    DRAFT,
    PROMPT,
    USES,
    Draft,
    DraftTree,
    cut,
    depths,
    fuse,
    prune,
    trim,
)
from rasd.trie import Continuations, score_continuations

_LEAST_END: Final = 0.02  # of probability; behind less it is not worth asking


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
