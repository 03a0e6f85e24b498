"""How likely the nodes of a tree are accepted, learned from what was. No training, only counts.

Every source says how much it believes in a token: the drafter by its probability, a retriever by
its share of the occurrences behind a match of some length. How often tokens with the like of that
were accepted so far tells what it is worth.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import numpy as np

from rasd.config import SpeculationConfig
from rasd.engine import kernels, kernels_score
from rasd.engine.branches import Branches, Evidence, FusedTree
from rasd.tree import Int32s

_MOST: Final = 256
_KEEP: Final = 1 - 1 / 1024


class Calibration:
    """What was learned of one tenant's greedy, or sampled, text. Not thread-safe."""

    def __init__(self, config: SpeculationConfig) -> None:
        self._doubts = (config.prompt_doubt, config.corpus_doubt)
        self._table = np.zeros((kernels_score.CELLS, 3))

    def scored(self, branches: Branches) -> FusedTree:
        """The tree of the branches, with the scores that they deserve by now."""
        tokens, parents, sources, origins, rows, known = branches.arrays
        scores, cells, before = kernels_score.score(
            parents, sources, known, self._table, self._doubts
        )
        evidence = Evidence(known, cells, before, rows, branches.top)
        return FusedTree(tokens, parents, scores, sources, origins, evidence)

    def learn(self, tree: FusedTree, tokens: Int32s) -> None:
        """Notes which nodes were right.

        Args:
            tree: as it was scored, before any cut: what was not verified teaches, too.
            tokens: int32[n], what was decided behind its root, the target's own draw included.
        """
        evidence = tree.evidence
        if evidence is not None and len(tree) > 1:
            nodes = (tree.tokens, tree.parents)
            kernels_score.learn(nodes, evidence.cells, evidence.before, tokens, self._table, _KEEP)


class Calibrations:
    """One per tenant, for greedy and for sampled text; the least recently used are forgotten."""

    def __init__(self, config: SpeculationConfig, most: int = _MOST) -> None:
        kernels.warm_up()
        kernels_score.warm_up()
        self._config = config
        self._most = most
        self._known: OrderedDict[tuple[str, bool], Calibration] = OrderedDict()

    def of(self, tenant: str, *, sampled: bool) -> Calibration:
        """The tenant's own; new ones have learned nothing."""
        key = (tenant, sampled)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Calibration(self._config)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return known
