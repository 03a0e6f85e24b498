"""Decides what every slot holds, which shards to start and let go, and which table comes next.

Pure: it sees members and times, and touches nothing. While the number of slots changes there are
two deals of the same corpora: the one that serves, and the one that its shards still load. Both
follow corpora that come and go; the table changes from one to the other when nothing is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from actors.table import Holdings, ShardTable, Slot
from rasd.datastore import Scale
from rasd.retrieval.deal import deal

SETTLE_S: Final = 0.5
"""How long a corpus that comes or goes waits for shards that are slow to load it."""
START_S: Final = 10.0
"""How long a first table waits for shards to hold everything."""
MOVE_S: Final = 60.0
"""How long a move waits for all replicas; then one of each slot is enough."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """What dealing needs to know. ``created`` tells it from another that had its name before."""

    partitions: int
    created: float


class Member(Protocol):
    """A shard process that runs: its slot, and what it has loaded, by version."""

    @property
    def slot(self) -> int: ...
    @property
    def address(self) -> str: ...
    @property
    def node(self) -> str: ...
    @property
    def loaded(self) -> Mapping[int, Holdings]: ...


M = TypeVar("M", bound=Member)


@dataclass(frozen=True, slots=True)
class Plan:
    """A deal: slots without addresses. ``corpora`` is what was dealt."""

    slots: tuple[Slot, ...] = ()
    corpora: tuple[tuple[str, Corpus], ...] = ()

    def table(self, version: int, members: Iterable[Member]) -> ShardTable:
        """With the addresses of those who have loaded what their slot holds."""
        able: dict[int, list[str]] = {}
        for member in members:
            if member.slot < len(self.slots):
                slot = self.slots[member.slot]
                if member.loaded.get(slot.version) == slot.holdings:
                    able.setdefault(member.slot, []).append(member.address)
        return ShardTable(
            version,
            tuple(
                Slot(slot.holdings, tuple(able.get(number, ())), slot.version)
                for number, slot in enumerate(self.slots)
            ),
        )


class Planner:
    """Plans for a fleet. Versions start above ``version``; those of a slot never come twice.

    Attributes:
        table: what was published last; version 0 before the first.
    """

    def __init__(self, version: int) -> None:
        self.table = ShardTable(0)
        self._version = version
        self._published = Plan()
        self._serving = Plan()  # as many slots as are published, newest corpora
        self._target = Plan()
        self._replicas = 1
        self._since = 0.0  # the newest change of a plan
        self._moving_since = 0.0  # the newest change of the target's number of slots

    @property
    def moving(self) -> bool:
        """Whether engines do not yet see what is wanted."""
        short = any(len(slot.addresses) < self._replicas for slot in self.table.slots)
        return short or self._published is not self._target

    def want(
        self, corpora: Mapping[str, Corpus], scale: Scale, members: Sequence[Member], now: float
    ) -> None:
        """Sets what there should be."""
        self._replicas = scale.replicas
        known = tuple(sorted(corpora.items()))
        if len(self._target.slots) != scale.shards:
            self._moving_since = now
        if len(self._target.slots) != scale.shards or self._target.corpora != known:
            self._since = now
            self._target = self._dealt(known, scale.shards, members)
        shown = len(self._published.slots)
        if shown == scale.shards:
            self._serving = self._target
        elif shown and (len(self._serving.slots) != shown or self._serving.corpora != known):
            self._serving = self._dealt(known, shown, members)

    def holdings(self, slot: int) -> dict[int, Holdings]:
        """What members of a slot have to load, and keep, by version."""
        return {
            plan.slots[slot].version: plan.slots[slot].holdings
            for plan in (self._published, self._serving, self._target)
            if slot < len(plan.slots)
        }

    def missing(self, members: Iterable[Member], starting: Mapping[int, int]) -> list[int]:
        """Slots that need another member, as often as they do.

        A slot that is about to go gets one if it has none: until it goes, its table serves.
        """
        present = Counter(member.slot for member in members) + Counter(starting)
        missing: list[int] = []
        for slot in range(max(len(self._target.slots), len(self._published.slots))):
            wanted = self._replicas if slot < len(self._target.slots) else 1
            missing += [slot] * (wanted - present[slot])
        return missing

    def excess(self, members: Sequence[M]) -> list[M]:
        """Members that nobody will miss. Who has yet to load may be better than who has."""
        slots = max(len(self._published.slots), len(self._target.slots))
        leaving = [member for member in members if member.slot >= slots and self.table.version]
        if self._published is self._target:
            for number, slot in enumerate(self._target.slots):
                its = [member for member in members if member.slot == number]
                able = [member for member in its if slot.version in member.loaded]
                leaving += _apart(able)[self._replicas :]
        return leaving

    def next_table(self, members: Sequence[Member], now: float) -> ShardTable | None:
        """The table to publish now, if it is another one. It counts as published."""
        plan = self._published
        if self._fit(self._target, members, now):
            plan = self._target
        elif self._fit(self._serving, members, now):
            plan = self._serving
        table = plan.table(self._version + 1, members)
        if plan is self._published and table.slots == self.table.slots:
            return None
        self._published, self._version, self.table = plan, table.version, table
        return table

    def _dealt(
        self, corpora: tuple[tuple[str, Corpus], ...], slots: int, members: Sequence[Member]
    ) -> Plan:
        dealt = deal({name: corpus.partitions for name, corpus in corpora}, slots)
        return Plan(
            tuple(
                Slot(held, version=self._version_of(number, held, dict(corpora), members))
                for number, held in enumerate(dealt)
            ),
            corpora,
        )

    def _version_of(
        self, slot: int, held: Holdings, corpora: Mapping[str, Corpus], members: Iterable[Member]
    ) -> int:
        """That of a plan where the slot holds the same; else a new one."""
        for plan in (self._target, self._serving, self._published):
            if slot < len(plan.slots) and plan.slots[slot].holdings == held:
                dealt = dict(plan.corpora)
                if all(dealt[name] == corpora[name] for name in held):
                    return plan.slots[slot].version
        if not self._target.slots:  # what an earlier controller had loaded need not load again
            its = (member.loaded.items() for member in members if member.slot == slot)
            same = [version for loaded in its for version, had in loaded if dict(had) == held]
            if same:
                return max(same)
        self._version += 1
        return self._version

    def _fit(self, plan: Plan, members: Sequence[Member], now: float) -> bool:
        """Whether a plan that is not published should be: not before it loses nothing."""
        if plan is self._published or not plan.slots:
            return False
        table = plan.table(0, members)
        held = [len(slot.addresses) for slot in table.slots]
        if min(held) >= self._replicas:
            return True
        if not self.table.version:
            return now - self._since > SETTLE_S and (
                min(held) > 0 or (max(held) > 0 and now - self._since > START_S)
            )
        moves = len(plan.slots) != len(self._published.slots)
        patience_s, since = (MOVE_S, self._moving_since) if moves else (SETTLE_S, self._since)
        return now - since > patience_s and self._covers(table, plan, members)

    def _covers(self, table: ShardTable, plan: Plan, members: Sequence[Member]) -> bool:
        """Whether all is held of what is held now and still wanted."""
        wanted = {name for name, _ in set(plan.corpora) & set(self._published.corpora)}
        shown = _held(self._published.table(0, members))
        return {pair for pair in shown if pair[0] in wanted} <= _held(table)


def _held(table: ShardTable) -> set[tuple[str, int]]:
    """Corpora and partitions that somebody holds."""
    return {
        (name, partition)
        for slot in table.slots
        if slot.addresses
        for name, partitions in slot.holdings.items()
        for partition in partitions
    }


def _apart(members: Sequence[M]) -> list[M]:
    """First those on different nodes, the oldest first."""
    seen: set[str] = set()
    first: list[M] = []
    for member in members:
        if member.node not in seen:
            seen.add(member.node)
            first.append(member)
    return first + [member for member in members if member not in first]
