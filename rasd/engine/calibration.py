"""How likely the nodes of a tree are accepted, learned from what was. No training, only counts.

Every source says how much it believes in a token: the drafter by its probability, a retriever by
its share of the occurrences behind a match of some length. How often tokens with the like of that
were accepted so far tells what it is worth.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from rasd.config import SpeculationConfig
from rasd.engine.branches import FusedTree
from rasd.tree import Int32s

_MOST: Final = 256


class Calibration:
    """What was learned of one tenant's greedy, or sampled, text. Not thread-safe."""

    def __init__(self, config: SpeculationConfig) -> None:
        self._config = config

    def scored(self, tree: FusedTree) -> FusedTree:
        """The tree with the scores that its evidence deserves by now."""
        return tree

    def learn(self, tree: FusedTree, tokens: Int32s) -> None:
        """Notes which nodes were right.

        Args:
            tree: as it was scored, before any cut: what was not verified teaches, too.
            tokens: int32[n], what was decided behind its root, the target's own draw included.
        """


class Calibrations:
    """One per tenant, for greedy and for sampled text; the least recently used are forgotten."""

    def __init__(self, config: SpeculationConfig, most: int = _MOST) -> None:
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
