"""How many nodes a step verifies, and which sources it asks for whom: what pays by measured times.

A step of B sequences whose trees hold n nodes brings B tokens and the sum of the nodes' scores,
which are chances of being accepted. It takes what went by since the last verify, and a verify of
B + n rows. All sequences compete for nodes: the best n are taken, for the n with the most tokens
per second. A question to a source pays if its tokens, at the seconds a token costs anyway, are
worth more than the time it takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from rasd.config import SpeculationConfig
from rasd.engine import kernels_cost
from rasd.engine.cost import SIZES, CostTable, Rate
from rasd.engine.gains import DraftGains, Prospects, RecentGains, Trust
from rasd.engine.round import Round
from rasd.tree import CORPUS, PROMPT, DraftTree, Float32s

_AHEAD: Final = 8.0
"""Nodes over which the price of a node is averaged, at least."""
_MANY: Final = 64  # tokens told, from which on reading them can be told from drafting
_SLOW: Final = 4.0
_TASTE: Final = 0.02  # of the time that a sequence will take, for each first question
_LIFE: Final = 64.0  # drafts over which the cost of reading a text is spread, at most
_KINDS: Final = (PROMPT, CORPUS)
_NOTHING: Final = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class Load:
    """What a step runs whatever is proposed.

    Attributes:
        rows: tokens that are decided already.
        gaining: sequences that gain a token; all of them while none does yet.
        slots: tokens in the cache that the rows attend to, over all sequences.
    """

    rows: int
    gaining: int
    slots: int


@dataclass(frozen=True, slots=True)
class Price:
    """What counts against a proposal.

    Attributes:
        token_s: seconds that a token costs.
        node: tokens that a node must bring to pay for its verification.
    """

    token_s: float
    node: float


class Budget:
    """What is known of costs and gains. Knows sequences by handle; asks nobody.

    Attributes:
        trust: how far the scores of a sequence's trees are believed.
        fixed: trees are as large as they may be, and all sources are asked whatever it costs.
        price: of the newest step; None before the first.
        rehearses: all sources are asked, and of several measurements the fastest counts.
        slowness: how much longer the newest verify took than its like usually do, at least 1: a
            pause of the machine, mostly.
        rate: what tokens cost lately.
        draft, found, ahead: what asking costs and brings, the retrievers' by kind.
    """

    def __init__(self, config: SpeculationConfig, clock: Callable[[], float]) -> None:
        kernels_cost.warm_up()
        self.fixed = config.budget == "fixed"
        self.draft = Prospects(4e-3, 8, share=5e-3, least=1 / 8)
        self.draft_gains = DraftGains()
        self.trust = Trust()
        self.found = {kind: Prospects(5e-5, 1, share=5e-3, least=1 / 2) for kind in _KINDS}
        self.found_gains = {kind: RecentGains(0.3) for kind in _KINDS}
        self.ahead = {kind: Prospects(1e-4, 1, share=5e-3, least=1 / 8) for kind in _KINDS}
        self.ahead_gains = {kind: RecentGains(0.3) for kind in _KINDS}
        self.price: Price | None = None
        self.slowness = 1.0
        self.rate = Rate()
        self._verify = CostTable(10e-3, 48)
        self._levels = 4.0
        self._told_s = 1e-4  # of a drafter, to read a token
        self._clock = clock
        self._since_s: float | None = None
        self.rehearses = False
        self._rehearsed: dict[tuple[int, int], tuple[CostTable, int, float]] = {}

    def rehearse(self, *, going_on: bool) -> None:
        """All sources are asked. Of equal calls until the next call of this the fastest counts."""
        for table, size, seconds in self._rehearsed.values():
            table.observe(size, 0, seconds)
        self._rehearsed.clear()
        self.rehearses = going_on
        if not going_on:
            self.price = self._since_s = None

    def _observe(self, table: CostTable, size: int, slots: int, seconds: float) -> None:
        if not self.rehearses:
            table.observe(size, slots, seconds)
            return
        key = (id(table), size)
        if key not in self._rehearsed or self._rehearsed[key][2] > seconds:
            self._rehearsed[key] = (table, size, seconds)

    # --- costs --------------------------------------------------------------------------------

    def verified(self, rows: int, slots: int, since_s: float) -> None:
        """A verify that began at ``since_s`` has ended now. ``slots`` -1: it tells nothing."""
        now_s = self._clock()
        self.slowness = 1.0
        if slots >= 0:
            self._observe(self._verify, rows, slots, now_s - since_s)
            usual_s = self._verify.one(max(rows, 1), slots)
            self.slowness = min(max((now_s - since_s) / usual_s, 1.0), _SLOW)
        spent_s = now_s - (since_s if self._since_s is None else self._since_s)
        for prospects in (self.draft, *self.found.values(), *self.ahead.values()):
            prospects.pass_time(min(spent_s, 1.0))
        self._since_s = now_s

    def retrieved(self, kind: int, sequences: int, seconds: float, *, ahead: bool) -> None:
        """Asking a retriever for so many took ``seconds``; ``ahead`` behind nodes."""
        prospects = self.ahead[kind] if ahead else self.found[kind]
        self._observe(prospects.cost, sequences, 0, seconds)

    def drafted(self, sequences: int, levels: int, seconds: float, told: int = 0) -> None:
        """Drafting for so many took ``seconds``; the deepest tree has so many levels.

        Args:
            told: tokens that the drafter read before, more than a step brings.
        """
        known_s = self.draft.cost.one(sequences)
        if told == 0:
            self._observe(self.draft.cost, sequences, 0, seconds)
        elif told >= _MANY:
            each_s = min(max((seconds - known_s) / told, self._told_s / 4), 4 * self._told_s)
            self._told_s += (each_s - self._told_s) / 4
        if levels:
            self._levels += (levels - self._levels) / 16

    def worth(self, sequences: int) -> float:
        """What one more level of drafts for so many must bring, in tokens."""
        if self.fixed or self.rehearses or self.price is None or sequences == 0:
            return 0.0
        level_s = self.draft.cost.one(sequences) / max(self._levels, 1.0)
        return level_s / self.price.token_s

    def forget(self, handle: int) -> None:
        """The handle will not come again."""
        for prospects in (self.draft, *self.found.values(), *self.ahead.values()):
            prospects.forget(handle)
        for gains in (*self.found_gains.values(), *self.ahead_gains.values()):
            gains.forget(handle)
        self.draft_gains.forget(handle)
        self.trust.forget(handle)

    # --- nodes --------------------------------------------------------------------------------

    def nodes(self, rounds: Sequence[Round], load: Load) -> list[int]:
        """How many of its best nodes each round's tree keeps. Updates the price.

        A round's limit holds; what has no tree keeps none. Prompts that enter in the same step make
        it longer, but tokens no dearer: that time is spent anyway. A token is worth what it costs
        without them, and no more than one cost lately; to sources, which are asked before it is
        known what the step costs, what one cost lately.
        """
        best = [self._best(each) for each in rounds]
        if self.fixed:
            return [len(each) for each in best]
        alone = max(min(load.rows, load.gaining), 1)
        rows = max(load.rows, 1)
        usual_s = self.rate.token_s(max(load.gaining, 1))
        kept, now_s = kernels_cost.share(
            np.concatenate(best) if best else _NOTHING,
            np.asarray([len(each) for each in best], np.int64),
            (self._verify.curve(load.slots), SIZES),
            (float(alone), float(rows), float(max(load.gaining, 1))),
            0.0 if self._since_s is None else self._clock() - self._since_s,
            usual_s,
        )
        token_s = now_s if math.isinf(usual_s) else usual_s
        ahead = max(float(kept.sum()), _AHEAD)
        more_s = self._verify.one(rows + ahead, load.slots) - self._verify.one(rows, load.slots)
        self.price = Price(token_s, more_s / ahead / token_s)
        counts: list[int] = kept.tolist()
        return counts

    def verify_s(self, rows: int, slots: int) -> float:
        """Seconds that a verify takes."""
        return self._verify.one(rows, slots)

    def promise(self, each: Round) -> float:
        """Tokens that the best nodes of a round's tree bring beyond their price."""
        if each.tree is None:
            return 0.0
        price = 0.0 if self.price is None else self.price.node
        return kernels_cost.promise(each.tree.scores, each.limit, self._trust(each), price)

    def _best(self, each: Round) -> Float32s:
        """The scores of nodes that may be kept, in their order, as far as they are trusted."""
        if each.tree is None:
            return _NOTHING
        return kernels_cost.best(each.tree.scores, each.limit, self._trust(each))

    def _trust(self, each: Round) -> float:
        return self.trust.of(each.handle, each.proposals.draft is not None)

    # --- what sources brought -------------------------------------------------------------------

    def learn_draft(self, each: Round, batch: int, gain: float, *, came: bool) -> None:
        """A draft added ``gain`` tokens; one that did not come counts little: it may be late."""
        weight = 1.0 if came else 0.25
        self.draft_gains.learn(each.tenant, each.handle, each.without, batch, gain, weight)

    def learn_trust(self, each: Round, accepted: int) -> None:
        """Of what a round promised so many nodes were accepted."""
        if each.promised > 0:
            drafted = each.proposals.draft is not None
            self.trust.learn(each.handle, drafted, each.promised, accepted)
        if each.drafted and self.price is not None:
            self.draft.bring(each.handle, (accepted - each.without) * self.price.token_s)

    def learn_found(self, kind: int, each: Round, kept: DraftTree | None) -> None:
        """What a retriever was asked for went into the tree that is verified, or not.

        Its nodes bring what they promise beyond their price, whether the draft has them, too: that
        costs more. What the prompt has counts for the prompt, which costs less.
        """
        gain = 0.0
        if kept is not None:
            its = (kept.sources & (PROMPT | kind)) == kind
            price = 0.0 if self.price is None else self.price.node
            gain = float(np.maximum(kept.scores[its] - price, 0.0).sum())
        self.found_gains[kind].learn(each.tenant, each.handle, gain)

    # --- whom to ask for ------------------------------------------------------------------------

    def drafted_for(self, rounds: Sequence[Round], batch: int) -> list[Round]:
        """Of the rounds those for which a draft brings more than it costs.

        Args:
            batch: sequences that share the step.
        """
        if self.fixed or self.rehearses or self.price is None:
            return [*rounds]
        gains, once_s, token_s = [], {}, self.price.token_s
        spare_s = self._spare_s(rounds)
        for each in rounds:
            gain = self.draft_gains.expected(each.tenant, each.handle, each.without, batch)
            new = each.untold
            if new:
                once_s[each.handle] = new * self._told_s
                gain -= (
                    once_s[each.handle] / token_s / min(max(each.sequence.remaining, 2) / 2, _LIFE)
                )
            gains.append(gain)
        return _picked(self.draft, rounds, gains, self.price, once_s, spare_s)

    def _spare_s(self, rounds: Sequence[Round]) -> dict[int, float]:
        """What may be spent on a first question for each."""
        token_s = 0.0 if self.price is None else self.price.token_s
        return {each.handle: _TASTE * each.sequence.remaining * token_s for each in rounds}

    def retrieved_for(self, kind: int, rounds: Sequence[Round], *, ahead: bool) -> list[Round]:
        """Of the rounds those for which it pays to ask a retriever; ``ahead`` behind nodes."""
        if self.fixed or self.rehearses or self.price is None:
            return [*rounds]
        prospects, learned = self.found[kind], self.found_gains[kind]
        if ahead:
            prospects, learned = self.ahead[kind], self.ahead_gains[kind]
        gains = [learned.expected(each.tenant, each.handle) for each in rounds]
        return _picked(prospects, rounds, gains, self.price, {}, self._spare_s(rounds))


def _picked(
    prospects: Prospects,
    rounds: Sequence[Round],
    gains: Sequence[float],
    price: Price,
    *extra: Mapping[int, float],
) -> list[Round]:
    handles = [each.handle for each in rounds]
    chosen = set(prospects.choose(handles, gains, price.token_s, *extra))
    return [each for each in rounds if each.handle in chosen]
