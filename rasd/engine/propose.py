"""Asks drafter and retrievers for the next trees. Whatever they do, an answer comes in time.

A source that raises, is late, or answers nonsense contributes nothing to the step; three such
misses in a row and it is left alone until a probe succeeds. Knows no target.

The corpus is asked first: it may be far away. What was retrieved nearby is looked at before the
drafter is asked, which may then not pay. When the drafts are here, the retrievers are asked once
more, behind the best drafted nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from rasd import kernels
from rasd.config import RetrievalConfig, SpeculationConfig
from rasd.engine.api import Origin
from rasd.engine.asking import Drafting, Retrieving
from rasd.engine.breaker import Breaker
from rasd.engine.budget import Budget, Load
from rasd.engine.calibration import Calibrations
from rasd.engine.extend import Extension
from rasd.engine.pacing import Pacing
from rasd.engine.round import Round
from rasd.engine.scheduler import StepPlan
from rasd.engine.sequence import Sequence
from rasd.engine.source import Source
from rasd.engine.speculate import routed
from rasd.engine.timings import Timings
from rasd.stages import Drafter, Retriever, VerifyReply
from rasd.tree import CORPUS, DRAFT, PROMPT, USES, DraftTree, Int32s, depths


class Proposer:
    """Owns the questions to the sources; the stages themselves belong to the engine's owner.

    Not thread-safe. Nothing here raises.

    Attributes:
        budget: what is known of costs and gains.
    """

    def __init__(
        self,
        speculation: SpeculationConfig,
        retrieval: RetrievalConfig,
        vocabulary: int,
        timings: Timings,
        clock: Callable[[], float],
    ) -> None:
        def breaker() -> Breaker:
            return Breaker(speculation.breaker_misses, speculation.breaker_probe_s, clock)

        def retrieving(kind: int, name: str) -> Retrieving:
            deadline_s = speculation.retrieve_deadline_s
            first: Source[Any] = Source(name, deadline_s, breaker(), timings)
            ahead: Source[Any] = Source("extend", deadline_s, first.breaker, timings)
            return Retrieving(kind, first, ahead, timings, vocabulary, retrieval.suffix_max)

        kernels.warm_up()
        self.budget = Budget(speculation, clock)
        self._config = speculation
        self._timings = timings
        self._clock = clock
        self._calibrations = Calibrations(speculation)
        draft: Source[Any] = Source("draft", speculation.draft_deadline_s, breaker(), timings)
        self._drafting = Drafting(draft, vocabulary)
        self._retrieving = {
            CORPUS: retrieving(CORPUS, "corpus"),
            PROMPT: retrieving(PROMPT, "prompt"),
        }
        self._extension = Extension(speculation, self.budget, clock)
        self._rounds: dict[int, Round] = {}
        self._spent_s = dict.fromkeys((DRAFT, PROMPT, CORPUS), 0.0)  # for the rounds
        self._pacing = Pacing(self.budget, clock, weighs=self.weighs)
        self._told = 0  # tokens that the drafter reads before it drafts

    # --- stages -----------------------------------------------------------------------------

    def set_drafter(self, drafter: Drafter | None, live: Iterable[Sequence]) -> None:
        """Asks another drafter from now on; it is told everything about ``live`` ones."""
        self._drafting.replace(drafter, live)

    def set_retriever(
        self, kind: int, retriever: Retriever | None, live: Iterable[Sequence]
    ) -> None:
        """Asks another retriever from now on; ``kind`` is PROMPT or CORPUS."""
        self._retrieving[kind].replace(retriever, [s for s in live if self.uses(s) & kind])

    @property
    def idle(self) -> bool:
        """Whether there is nothing to tell a drafter that listens."""
        return self._drafting.idle

    @property
    def weighs(self) -> bool:
        """Whether costs decide anything."""
        return self._config.mode != "off" and not self.budget.fixed

    # --- the life of a sequence -------------------------------------------------------------

    def uses(self, sequence: Sequence) -> int:
        """The sources that may propose for it: those it wants and the settings allow."""
        return USES[sequence.request.params.speculation] & USES[self._config.mode]

    def admit(self, sequence: Sequence) -> None:
        """It has a new handle."""
        self._pacing.admit(sequence)
        for kind, retrieving in self._retrieving.items():
            if self.uses(sequence) & kind:
                retrieving.tell(sequence)

    def learn(self, sequence: Sequence, tokens: list[int]) -> None:
        """Tokens were decided behind the root of its newest tree, the target's draw included."""
        current = self._rounds.get(sequence.handle)
        if current is not None and current.tree is not None:
            current.learn(np.asarray(tokens, np.int32))
            self.budget.learn_trust(current, len(tokens) - 1)

    def origin(self, handle: int, tree: DraftTree | None, path: Int32s) -> Origin | None:
        """Where accepted nodes of the sequence's newest tree stand, if known; see `Round`."""
        current = self._rounds.get(handle)
        return None if current is None else current.origin(tree, path)

    def retire(self, handle: int, sequence: Sequence) -> None:
        """The handle will not come again."""
        self._rounds.pop(handle, None)
        self.budget.forget(handle)
        self._pacing.retire(handle)
        if self.uses(sequence) & DRAFT:
            self._drafting.release(handle)
        for retrieving in self._retrieving.values():
            retrieving.release(handle)

    # --- asking -----------------------------------------------------------------------------

    def ask(self, step: int, running: Iterable[Sequence], load: Load) -> None:
        """Starts all sources on the next trees, as far as it pays; ``load`` as for `trees`."""
        self._rounds = {}
        running = [*running]
        kinds = 0
        for each in running:
            kinds |= self.uses(each)
        used = self._pacing.begin(kinds, load)
        rounds = (self._round(each, used) for each in (running if used else ()))
        self._rounds = {each.handle: each for each in rounds if each.limit > 0}
        self._spent_s = dict.fromkeys(self._spent_s, 0.0)
        if not self._rounds and self.idle:
            return
        for kind, retrieving in self._retrieving.items():
            self._ask_retriever(kind, retrieving, step)
        for kind, retrieving in self._retrieving.items():
            if retrieving.source.ready:
                self._take_found(kind, retrieving)
        self._build()
        self._ask_drafter(step)

    def stepped(
        self, plan: StepPlan, reply: VerifyReply | None, tokens: int, since_s: float
    ) -> None:
        """A step is over, the questions for the next one asked; see `Pacing.stepped`."""
        self._pacing.stepped(plan, reply, tokens, since_s, asked=bool(self._rounds))

    def _round(self, sequence: Sequence, used: int) -> Round:
        request, uses = sequence.request, self.uses(sequence) & used
        limit = 0
        if sequence.decoding and sequence.remaining > 1 and uses:
            nodes = request.params.nodes
            limit = self._config.nodes if nodes is None else nodes
        if self._config.scores == "static" or limit == 0:
            return Round(sequence, limit, uses, None)
        calibration = self._calibrations.of(request.tenant, sampled=not request.params.greedy)
        return Round(sequence, limit, uses, calibration)

    def _ask_retriever(self, kind: int, retrieving: Retrieving, step: int) -> None:
        readers = [each for each in self._rounds.values() if retrieving.serves(each)]
        if not readers:
            return
        chosen = self.budget.retrieved_for(kind, readers, ahead=False)
        start_s = self._clock()
        if retrieving.ask(step, [each.sequence for each in chosen]):
            for each in chosen:
                each.asked |= kind
        self._spent_s[kind] += self._clock() - start_s

    def _ask_drafter(self, step: int) -> None:
        chosen: list[Round] = []
        if self._drafting.drafter is not None and self._rounds:
            wanting = [each for each in self._rounds.values() if each.uses & DRAFT]
            wanting = [each for each in wanting if not routed(each.proposals, self._config)]
            for each in wanting:
                each.without = self.budget.promise(each)
            chosen = self.budget.drafted_for(wanting, len(self._rounds))
            self._timings.note("undrafted", len(wanting) - len(chosen))
        self._told = sum(each.untold for each in chosen)
        start_s = self._clock()
        if self._drafting.ask(step, chosen, self.budget.worth(len(chosen))):
            for each in chosen:
                each.drafted = True
        else:
            for each in chosen:
                self.budget.draft.forget(each.handle)  # nobody was asked
        self._spent_s[DRAFT] += self._clock() - start_s

    # --- what came --------------------------------------------------------------------------

    def trees(self, step: int, load: Load) -> dict[int, DraftTree]:
        """The trees to verify next, by handle; none for sequences that decode plainly.

        Args:
            step: number of the step for which sources were asked.
            load: what the next step runs beside trees.
        """
        awaited = any(each.source.awaited for each in self._retrieving.values())
        if not (self._rounds or awaited or self._drafting.source.awaited):
            return {}  # plain decoding costs nothing here
        for kind, retrieving in self._retrieving.items():
            self._take_found(kind, retrieving)
        levels = self._take_drafts()
        start_s = self._clock()
        self._build()
        self._learn_drafts()
        self._count_drafts(levels, start_s)
        self._extension.extend(step, self._rounds.values(), self._retrieving)
        kept = self._nodes(load)
        self._timings.note("nodes", sum(nodes for _, nodes in kept))
        with self._timings.measure("fuse", count=0):
            trees = {each.handle: each.cut(nodes) for each, nodes in kept}
            self._learn_found(trees)
        return trees

    def _take_found(self, kind: int, retrieving: Retrieving) -> None:
        if not retrieving.source.awaited:
            return
        start_s = self._clock()
        found = retrieving.take({h: each.sequence for h, each in self._rounds.items()})
        for handle, one in found.items():
            self._rounds[handle].find(kind, one)
        self._spent_s[kind] += self._clock() - start_s

    def _take_drafts(self) -> int:
        """Gives the levels of the deepest draft."""
        asked = [each for each in self._rounds.values() if each.drafted]
        start_s = self._clock()
        drafts = self._drafting.take({each.handle: each.sequence for each in asked})
        self._spent_s[DRAFT] += self._clock() - start_s
        for handle, draft in drafts.items():
            self._rounds[handle].draft(draft)
        return max((int(depths(d.tree.parents).max()) for d in drafts.values()), default=0)

    def _count_drafts(self, levels: int, since_s: float) -> None:
        """What drafting cost: asking, waiting, and the trees of drafts, built since then."""
        asked = sum(each.drafted for each in self._rounds.values())
        if asked:
            spent_s = self._spent_s[DRAFT] + self._clock() - since_s
            self.budget.drafted(asked, levels, spent_s, self._told)

    def _build(self) -> None:
        with self._timings.measure("fuse", count=0):
            for each in self._rounds.values():
                each.build(self._config)

    def _nodes(self, load: Load) -> list[tuple[Round, int]]:
        """The rounds of which nodes are worth verifying, and how many."""
        with self._timings.measure("fuse", count=0):
            rounds = [each for each in self._rounds.values() if each.tree is not None]
            kept = self.budget.nodes(rounds, load)
            return [(each, nodes) for each, nodes in zip(rounds, kept, strict=True) if nodes]

    # --- learning what pays -----------------------------------------------------------------

    def _learn_drafts(self) -> None:
        for each in self._rounds.values():
            if each.drafted:
                came = each.proposals.draft is not None
                gain = self.budget.promise(each) - each.without if came else 0.0
                self.budget.learn_draft(each, len(self._rounds), gain, came=came)

    def _learn_found(self, trees: dict[int, DraftTree]) -> None:
        for kind in self._retrieving:
            asked = [each for each in self._rounds.values() if each.asked & kind]
            if not asked:
                continue
            self.budget.retrieved(kind, len(asked), self._spent_s[kind], ahead=False)
            for each in asked:
                self.budget.learn_found(kind, each, trees.get(each.handle))
