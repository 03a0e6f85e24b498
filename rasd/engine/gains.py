"""Whether asking a source pays: what it brought so far against what it costs. Knows no stage.

What is not believed to pay is still tried now and then, within a small share of all time, for
texts change and so do machines.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rasd.engine.cost import CostTable, Credit

_TENANTS: Final = 256  # that are remembered
_TRIED: Final = 8
"""Sequences that are tried at once, at most what is saved for."""


class Prospects:
    """Chooses for which sequences a source is asked.

    Args:
        guess_s: seconds of a question for one sequence, until one is measured.
        doubling: the number of sequences that is guessed to cost twice that.
        share: of all time, for trying what is not believed to pay.
        least: what is left of the share when trying is in vain again and again.
    """

    def __init__(self, guess_s: float, doubling: float, *, share: float, least: float) -> None:
        self.cost = CostTable(guess_s, doubling, columns=1)
        self._credit = Credit(share, least=least, saved_s=guess_s)
        self._turn = 0
        self._dearest_s = 0.0
        self._asked: dict[int, int] = {}  # when, by handle
        self._tried: set[int] = set()
        self._spent_s = 0.0  # for those that were tried

    def choose(
        self,
        handles: Sequence[int],
        gains: Sequence[float],
        token_s: float,
        once_s: Mapping[int, float] | None = None,
        spare_s: Mapping[int, float] | None = None,
    ) -> list[int]:
        """Those of the handles to ask for, if a token is worth ``token_s``.

        Args:
            once_s: what asking for some costs beside, this time only; gains are less it already.
            spare_s: what may be spent on the first question for one, whatever others brought.
        """
        if not handles:
            return []
        order = sorted(range(len(handles)), key=gains.__getitem__, reverse=True)
        value_s = best_s = 0.0
        count = 0
        for place, index in enumerate(order, 1):
            value_s += gains[index] * token_s
            net_s = value_s - self.cost.one(place)
            if net_s > best_s:
                best_s, count = net_s, place
        chosen = [handles[i] for i in order[:count]]
        self._turn += 1
        if self._tried:
            if not self._tried.isdisjoint(chosen):
                self._credit.pays()
            self._tried.clear()
        rest = [handles[i] for i in order[count:]]
        self._dearest_s = max((once_s or {}).values(), default=0.0)
        new = self._new(rest, count, once_s or {}, spare_s or {})
        chosen += new or self._try(rest, count, once_s or {})
        for handle in chosen:
            self._asked[handle] = self._turn
        return chosen

    def _new(
        self,
        rest: list[int],
        chosen: int,
        once_s: Mapping[int, float],
        spare_s: Mapping[int, float],
    ) -> list[int]:
        """One of the rest that was never asked for, if what may be spent on it is enough.

        A sequence may be of another kind than those before it, and only an answer can tell.
        """
        cost_s = self.cost.one(chosen + 1) - (self.cost.one(chosen) if chosen else 0.0)
        for handle in rest:
            if handle not in self._asked and cost_s + once_s.get(handle, 0.0) <= spare_s.get(
                handle, 0.0
            ):
                return [handle]
        return []

    def _try(self, rest: list[int], chosen: int, once_s: Mapping[int, float]) -> list[int]:
        """Of the rest those that were not asked for longest, if time is saved for them.

        One alone where asking costs much this time.
        """
        count = 1 if self._dearest_s > 0 else _TRIED
        tried = sorted(rest, key=lambda handle: self._asked.get(handle, -1))[:count]
        if not tried:
            return []
        cost_s = self.cost.one(chosen + len(tried)) - (self.cost.one(chosen) if chosen else 0.0)
        cost_s += sum(once_s.get(handle, 0.0) for handle in tried)
        if not self._credit.affords(cost_s):
            return []
        self._credit.spend(cost_s)
        self._spent_s = cost_s
        self._tried.update(tried)
        return tried

    def bring(self, handle: int, seconds: float) -> None:
        """Asking for the sequence was worth so much. What was tried with success is tried again."""
        if handle in self._tried and seconds * len(self._tried) > self._spent_s:
            self._credit.pays(self._spent_s / len(self._tried))

    def pass_time(self, seconds: float) -> None:
        """A step took so long."""
        self._credit.earn(seconds, limit_s=self.cost.one(_TRIED) + self._dearest_s)

    def forget(self, handle: int) -> None:
        """The handle will not come again."""
        self._asked.pop(handle, None)
        self._tried.discard(handle)


class RecentGains:
    """A running mean per sequence. A new one begins with what the tenant's last ones began with.

    Args:
        first: what a tenant's first sequence is expected to gain.
    """

    def __init__(self, first: float, rate: float = 0.25) -> None:
        self._first = first
        self._rate = rate
        self._means: dict[int, float] = {}
        self._tenants: OrderedDict[str, float] = OrderedDict()

    def expected(self, tenant: str, handle: int) -> float:
        """Tokens that asking for the sequence brings."""
        mean = self._means.get(handle)
        return self._tenants.get(tenant, self._first) if mean is None else mean

    def learn(self, tenant: str, handle: int, gain: float) -> None:
        """It brought ``gain``. What is better than expected counts at once."""
        mean = self.expected(tenant, handle)
        if handle not in self._means:
            self._begin(tenant, gain)
        self._means[handle] = max(mean + self._rate * (gain - mean), gain / 2)

    def _begin(self, tenant: str, gain: float) -> None:
        """A sequence's first gain: what the next one may hope for, half of ``first`` at least."""
        known = self._tenants.get(tenant, self._first)
        self._tenants[tenant] = max(known + self._rate * (gain - known), self._first / 2)
        self._tenants.move_to_end(tenant)
        if len(self._tenants) > _TENANTS:
            self._tenants.popitem(last=False)

    def forget(self, handle: int) -> None:
        """The handle will not come again."""
        self._means.pop(handle, None)


_TRUST_FADE: Final = 0.92
_TRUST_WEIGHT: Final = 3.0
_TRUST_MOST: Final = 1.25


class Trust:
    """How much of what scores promised came true lately, per sequence.

    Scores are learned from all of a tenant's text; this one may be of a kind that its drafter or
    its retrievers know less of. Trees with a draft and without are told apart. What is much better
    than believed outweighs the past.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[int, bool], tuple[float, float]] = {}  # accepted, promised

    def of(self, handle: int, drafted: bool) -> float:
        """What a promise is to be multiplied with."""
        accepted, promised = self._sums.get((handle, drafted), (0.0, 0.0))
        return min((_TRUST_WEIGHT + accepted) / (_TRUST_WEIGHT + promised), _TRUST_MOST)

    def learn(self, handle: int, drafted: bool, promised: float, accepted: int) -> None:
        """A tree of scores that sum to ``promised`` was verified."""
        sums = self._sums.get((handle, drafted), (0.0, 0.0))
        fade = _TRUST_FADE if accepted < 2 * promised * self.of(handle, drafted) else 0.5
        self._sums[handle, drafted] = sums[0] * fade + accepted, sums[1] * fade + promised

    def forget(self, handle: int) -> None:
        """The handle will not come again."""
        self._sums.pop((handle, False), None)
        self._sums.pop((handle, True), None)


_BINS: Final = np.asarray([0.05, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
_CLASSES: Final = 7
_FIRST: Final = 1.5
_FLOOR: Final = 0.3
_FADE: Final = 0.8
_WEIGHT: Final = 0.7


class DraftGains:
    """What a draft adds to what was retrieved.

    The better what was retrieved, the less: a running mean per tenant, by what was expected
    without the draft and by how many sequences share the step. Beside it each sequence has a
    factor: some text the drafter knows, other it does not.
    """

    def __init__(self) -> None:
        bins = np.arange(len(_BINS) + 1)
        self._first = np.tile(_FIRST * 0.8**bins, (_CLASSES, 1))
        self._means: OrderedDict[str, NDArray[np.float64]] = OrderedDict()
        self._sums: dict[int, tuple[float, float]] = {}  # observed and expected, fading

    def expected(self, tenant: str, handle: int, without: float, batch: int) -> float:
        """Tokens a draft adds where ``without`` it that many are expected."""
        row, column = _place(without, batch)
        mean = max(self._of(tenant)[row, column], _FLOOR * self._first[row, column])
        seen, foreseen = self._sums.get(handle, (0.0, 0.0))
        return float(mean) * (_WEIGHT + seen) / (_WEIGHT + foreseen)

    def learn(
        self, tenant: str, handle: int, without: float, batch: int, gain: float, weight: float = 1.0
    ) -> None:
        """A draft added ``gain`` tokens."""
        row, column = _place(without, batch)
        means = self._of(tenant)
        mean = max(float(means[row, column]), _FLOOR * float(self._first[row, column]))
        seen, foreseen = self._sums.get(handle, (0.0, 0.0))
        better = gain * (_WEIGHT + foreseen) > 2 * mean * (_WEIGHT + seen)
        fade = 0.5 if better else _FADE
        self._sums[handle] = fade * seen + weight * max(gain, 0), fade * foreseen + weight * mean
        means[row, column] += weight * (gain - means[row, column]) / 16

    def forget(self, handle: int) -> None:
        """The handle will not come again."""
        self._sums.pop(handle, None)

    def _of(self, tenant: str) -> NDArray[np.float64]:
        means = self._means.get(tenant)
        if means is None:
            means = self._means[tenant] = self._first.copy()
            if len(self._means) > _TENANTS:
                self._means.popitem(last=False)
        self._means.move_to_end(tenant)
        return means


def _place(without: float, batch: int) -> tuple[int, int]:
    row = min(max(batch, 1).bit_length() - 1, _CLASSES - 1)
    return row, int(np.searchsorted(_BINS, without, side="right"))
