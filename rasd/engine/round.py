"""What is proposed for one sequence in one step, while it comes in. Knows no stage."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from rasd.config import SpeculationConfig
from rasd.engine.api import Origin
from rasd.engine.branches import FusedTree
from rasd.engine.calibration import Calibration
from rasd.engine.sequence import Sequence
from rasd.engine.speculate import Behind, Proposals, candidates, graft
from rasd.tree import PROMPT, Draft, DraftTree, Int32s, cut
from rasd.trie import Continuations

_ONE_STEP: Final = 16  # tokens

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Round:
    """Proposals for a sequence and the tree of all of them.

    Attributes:
        limit: nodes that may be verified, at least 1.
        uses: bit set of the sources that may propose.
        calibration: what scores the tree; None for static scores.
        tree: all candidates of the proposals; None while there are none.
        stale: whether proposals came since it was built.
        asked: kinds of the retrievers that were asked.
        drafted: whether the drafter was asked.
        without: what the tree promised before there was a draft, in tokens.
        promised: sum of the scores of the nodes that are verified.
    """

    sequence: Sequence
    limit: int
    uses: int
    calibration: Calibration | None
    proposals: Proposals = field(default_factory=Proposals)
    tree: FusedTree | None = None
    stale: bool = False
    asked: int = 0
    drafted: bool = False
    without: float = 0.0
    promised: float = 0.0

    @property
    def handle(self) -> int:
        """The sequence's number at the stages."""
        return self.sequence.handle

    @property
    def untold(self) -> int:
        """Tokens that the drafter was not told, if more than a step brings; else 0."""
        new = len(self.sequence.tokens) - self.sequence.drafted
        return new if new > _ONE_STEP else 0

    @property
    def tenant(self) -> str:
        """Whose the sequence is."""
        return self.sequence.request.tenant

    def find(self, kind: int, found: Continuations) -> None:
        """A retriever answered."""
        changed = {"prompt" if kind == PROMPT else "corpus": found}
        self.proposals = replace(self.proposals, **changed)  # type: ignore[arg-type]
        self.stale = True

    def draft(self, draft: Draft) -> None:
        """The drafter answered."""
        self.proposals = replace(self.proposals, draft=draft)
        self.stale = True

    def build(self, config: SpeculationConfig) -> None:
        """Makes the tree of what came so far."""
        if not self.stale:
            return
        self.stale = False
        try:
            self.tree = candidates(
                self.sequence.root,
                self.proposals,
                config,
                mode=self.sequence.request.params.speculation,
                depth=self.sequence.remaining - 1,
                calibration=self.calibration,
            )
        except Exception:  # proposals are checked, but must never cost text
            self._fail()

    def graft(self, behind: list[Behind]) -> None:
        """Adds what was found behind nodes of the tree."""
        if self.tree is None or self.calibration is None or not behind:
            return
        proposals = replace(self.proposals, behind=tuple(behind))
        depth = self.sequence.remaining - 1
        try:
            self.tree = graft(self.tree, proposals, depth=depth, calibration=self.calibration)
            self.proposals = proposals
        except Exception:  # as above
            self._fail()

    def cut(self, nodes: int) -> DraftTree:
        """The best nodes, which will be verified."""
        tree = DraftTree.root(self.sequence.root) if self.tree is None else cut(self.tree, nodes)
        self.promised = float(tree.scores.sum()) - 1.0
        return tree

    def learn(self, tokens: Int32s) -> None:
        """Tokens were decided behind the root, the target's own draw included."""
        if self.tree is None or self.calibration is None:
            return
        try:
            self.calibration.learn(self.tree, tokens)
        except Exception:  # learning must never cost text
            logger.exception("nothing is learned of sequence %d", self.sequence.number)

    def origin(self, tree: DraftTree | None, path: Int32s) -> Origin | None:
        """Where the accepted nodes ``path`` of the tree that was verified stand, if known.

        All in one place: where a node was found, the nodes above it stand before it.
        """
        if tree is None or tree.origins is None:
            return None
        known = np.flatnonzero(tree.origins[path] >= 0)
        if len(known) == 0:
            return None
        above = int(known[-1])
        corpus, document, offset = self.proposals.origin(int(tree.origins[path[above]]))
        return Origin(corpus, document, offset - above, above + 1)

    def _fail(self) -> None:
        logger.exception("sequence %d decodes plainly", self.sequence.number)
        self.tree = None
