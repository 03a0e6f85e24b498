"""Asks the retrievers behind drafted nodes: what follows the text if the draft is right?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rasd.config import SpeculationConfig
from rasd.engine.asking import Retrieving
from rasd.engine.budget import Budget
from rasd.engine.round import Round
from rasd.engine.speculate import Behind, leaves_to_extend
from rasd.tree import Int32s, path_to


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question on its way: for these rounds, behind these nodes; asking took so long."""

    rounds: list[Round]
    places: list[tuple[Round, int]]
    spent_s: float


class Extension:
    """The second questions of a step."""

    def __init__(
        self, config: SpeculationConfig, budget: Budget, clock: Callable[[], float]
    ) -> None:
        self._config = config
        self._budget = budget
        self._clock = clock

    def extend(
        self, step: int, rounds: Iterable[Round], retrievers: Mapping[int, Retrieving]
    ) -> None:
        """Asks where it pays, and grafts what was found onto the rounds' trees.

        Trees without a draft are left alone: behind retrieved nodes stands what was retrieved.
        """
        leaves = {each.handle: (each, self._leaves(each)) for each in rounds}
        leaves = {handle: found for handle, found in leaves.items() if found[1]}
        if not leaves:
            return
        asked = {
            kind: self._ask(kind, retriever, step, leaves) for kind, retriever in retrievers.items()
        }
        behind: dict[int, list[Behind]] = {handle: [] for handle in leaves}
        for kind, question in asked.items():
            if question is not None:
                self._take(kind, retrievers[kind], question, behind)
        for handle, found in behind.items():
            self._graft(leaves[handle][0], found, asked)

    def _leaves(self, each: Round) -> list[int]:
        if self._config.extend < 1 or each.tree is None or each.proposals.draft is None:
            return []
        return leaves_to_extend(each.tree, self._config)

    def _ask(
        self,
        kind: int,
        retriever: Retrieving,
        step: int,
        leaves: Mapping[int, tuple[Round, list[int]]],
    ) -> _Asked | None:
        readers = [each for each, _ in leaves.values() if retriever.serves(each)]
        rounds = self._budget.retrieved_for(kind, readers, ahead=True)
        places = [(each, leaf) for each in rounds for leaf in leaves[each.handle][1]]
        start_s = self._clock()
        if not retriever.ask_ahead(step, [(e.sequence, _path(e, leaf)) for e, leaf in places]):
            return None
        return _Asked(rounds, places, self._clock() - start_s)

    def _take(
        self, kind: int, retriever: Retrieving, asked: _Asked, behind: dict[int, list[Behind]]
    ) -> None:
        start_s = self._clock()
        found = retriever.take_ahead([each.sequence for each, _ in asked.places])
        for (each, leaf), one in zip(asked.places, found, strict=True):
            if one is not None:
                behind[each.handle].append(Behind(leaf, kind, one))
        spent_s = asked.spent_s + self._clock() - start_s
        self._budget.retrieved(kind, len(asked.rounds), spent_s, ahead=True)

    def _graft(self, each: Round, found: list[Behind], asked: Mapping[int, _Asked | None]) -> None:
        before = self._budget.promise(each)
        each.graft(found)
        gain = self._budget.promise(each) - before
        kinds = {one.source for one in found}
        for kind, question in asked.items():
            if question is not None and each in question.rounds:
                share = gain / len(kinds) if kind in kinds else 0.0
                self._budget.ahead_gains[kind].learn(each.tenant, each.handle, share)


def _path(each: Round, leaf: int) -> Int32s:
    """int32[n]: the tokens from behind the root to a node of the round's tree."""
    tree = each.tree
    if tree is None:
        raise ValueError("there is no tree")
    return tree.tokens[path_to(tree.parents, leaf)[1:]]
