"""Moves: what serves goes on serving until what comes next loses nothing. Without Ray."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from actors.plan import MOVE_S, SETTLE_S, START_S, Corpus, Planner
from actors.table import Holdings, ShardTable
from rasd.datastore import Scale

CORPORA = {"one": Corpus(4, 1.0), "two": Corpus(5, 2.0)}


@dataclass(eq=False, slots=True)
class Shard:
    """A member that loads when its test says so."""

    slot: int
    address: str
    node: str = "n"
    loaded: dict[int, Holdings] = field(default_factory=dict)


class Service:
    """A planner and its members."""

    def __init__(self, version: int = 100) -> None:
        self.planner = Planner(version)
        self.members: list[Shard] = []
        self.now = 1000.0
        self.scale = Scale(1, 1)
        self.corpora = dict(CORPORA)
        self.born = 0

    def want(self, shards: int | None = None, replicas: int | None = None) -> None:
        self.scale = Scale(shards or self.scale.shards, replicas or self.scale.replicas)
        self.planner.want(self.corpora, self.scale, self.members, self.now)

    def start(self, *, load: bool = True) -> list[Shard]:
        started = [self.join(slot) for slot in self.planner.missing(self.members, {})]
        if load:
            self.load()
        return started

    def join(self, slot: int, node: str = "n") -> Shard:
        self.born += 1
        self.members.append(Shard(slot, f"a{self.born}", node))
        return self.members[-1]

    def load(self, *members: Shard) -> None:
        for member in members or self.members:
            member.loaded |= self.planner.holdings(member.slot)

    def publish(self) -> ShardTable | None:
        return self.planner.next_table(self.members, self.now)

    def settle(self) -> ShardTable:
        """Everything is done that there is to do."""
        self.want()
        self.start()
        self.publish()
        self.want()  # what serves follows what is published
        for member in self.planner.excess(self.members):
            self.members.remove(member)
        assert self.publish() is None or not self.planner.moving
        return self.planner.table


def held(table: ShardTable) -> list[tuple[str, int]]:
    """What the table holds, sorted, as often as it does."""
    return sorted(
        (name, number)
        for slot in table.slots
        if slot.addresses
        for name, numbers in slot.holdings.items()
        for number in numbers
    )


def everything(corpora: dict[str, Corpus]) -> list[tuple[str, int]]:
    return sorted((n, p) for n, corpus in corpora.items() for p in range(corpus.partitions))


def test_the_first_table_waits_for_everything_but_not_for_ever() -> None:
    service = Service()
    service.want(2, 2)
    started = service.start(load=False)
    assert [shard.slot for shard in started] == [0, 0, 1, 1]
    assert service.publish() is None
    service.load(started[0])
    service.now += START_S - 0.1
    assert service.publish() is None
    service.now += 0.2
    table = service.publish()
    assert table is not None and [slot.addresses for slot in table.slots] == [("a1",), ()]
    service.load(started[2])
    table = service.publish()
    assert table is not None and held(table) == everything(CORPORA)
    service.load()
    table = service.publish()
    assert table is not None and [len(slot.addresses) for slot in table.slots] == [2, 2]
    assert service.publish() is None and not service.planner.moving


def test_a_first_table_with_one_of_each_comes_soon() -> None:
    service = Service()
    service.want(2, 2)
    started = service.start(load=False)
    service.load(started[0], started[2])
    assert service.publish() is None
    service.now += SETTLE_S + 0.1
    table = service.publish()
    assert table is not None and held(table) == everything(CORPORA)


def test_versions_of_slots_change_with_their_holdings_only() -> None:
    service = Service()
    service.want(3, 1)
    before = service.settle()
    service.members.remove(service.members[0])
    lost = service.publish()
    assert lost is not None and lost.version > before.version and not lost.slots[0].addresses
    assert [slot.version for slot in lost.slots] == [slot.version for slot in before.slots]
    service.corpora["tiny"] = Corpus(1, 3.0)
    after = service.settle()
    changed = ["tiny" in slot.holdings for slot in after.slots]
    assert sum(changed) == 1
    pairs = zip(after.slots, before.slots, strict=True)
    assert [new.version != old.version for new, old in pairs] == changed


def test_a_corpus_made_again_under_its_name_is_loaded_again() -> None:
    service = Service()
    before = service.settle()
    service.corpora["one"] = Corpus(4, 9.0)
    service.want()
    assert service.publish() is None
    after = service.settle()
    assert after.slots[0].version > before.slots[0].version
    assert after.slots[0].holdings == before.slots[0].holdings


def test_a_move_waits_for_new_holders_and_then_lets_the_old_ones_go() -> None:
    service = Service()
    service.want(4, 2)
    before = service.settle()
    service.want(2)
    assert service.publish() is None and service.planner.moving
    assert not service.planner.excess(service.members)
    service.load(*(shard for shard in service.members if shard.slot == 0))
    assert service.publish() is None
    assert service.planner.table == before
    service.load()
    table = service.publish()
    assert table is not None and len(table.slots) == 2 and held(table) == everything(CORPORA)
    assert {shard.slot for shard in service.planner.excess(service.members)} == {2, 3}


def test_a_shard_that_does_not_load_holds_up_no_new_corpus_for_long() -> None:
    service = Service()
    service.want(2, 2)
    service.settle()
    frozen = service.members[0]
    service.corpora["new"] = Corpus(4, 3.0)
    service.want()
    service.load(*(shard for shard in service.members if shard is not frozen))
    assert service.publish() is None
    service.now += SETTLE_S + 0.1
    table = service.publish()
    assert table is not None and held(table) == everything(service.corpora)
    assert frozen.address not in {a for slot in table.slots for a in slot.addresses}


def test_a_new_corpus_is_not_shown_at_the_cost_of_others() -> None:
    service = Service()
    service.want(2, 1)
    service.settle()
    service.corpora["new"] = Corpus(4, 3.0)
    service.want()
    service.load(service.members[0])
    service.now += 10 * SETTLE_S
    assert service.publish() is None  # slot 1 holds less than it did
    service.members.pop()  # now it holds nothing in either
    table = service.publish()
    assert table is not None and "new" in table.corpora and not table.slots[1].addresses


def test_corpora_come_and_go_while_a_move_is_stuck() -> None:
    service = Service()
    service.want(1, 1)
    service.settle()
    service.want(3)  # and nothing starts
    service.corpora["new"] = Corpus(4, 3.0)
    del service.corpora["two"]
    service.want()
    service.load()
    table = service.publish()
    assert table is not None and len(table.slots) == 1
    assert held(table) == everything(service.corpora)
    assert service.planner.moving and service.planner.missing(service.members, {}) == [1, 2]
    service.start()
    table = service.publish()
    assert table is not None and len(table.slots) == 3
    assert held(table) == everything(service.corpora)


def test_a_move_goes_on_with_one_of_each_when_no_more_fit() -> None:
    service = Service()
    service.want(1, 2)
    service.settle()
    service.want(2)
    service.join(1)
    service.load()
    service.now += MOVE_S - 1
    assert service.publish() is None
    service.now += 2
    table = service.publish()
    assert table is not None and [len(slot.addresses) for slot in table.slots] == [2, 1]
    assert service.planner.missing(service.members, {}) == [1]


def test_a_slot_that_is_about_to_go_is_not_left_empty() -> None:
    service = Service()
    service.want(3, 1)
    service.settle()
    service.want(1)
    service.members = [shard for shard in service.members if shard.slot != 2]
    assert service.planner.missing(service.members, {}) == [2]
    assert service.planner.missing(service.members, {2: 1}) == []


def test_an_adopted_fleet_loads_nothing_again() -> None:
    service = Service()
    service.want(3, 2)
    before = service.settle()
    again = Service(version=max(max(shard.loaded) for shard in service.members) + 500)
    again.members = service.members
    again.want(3, 2)
    assert not again.planner.missing(again.members, {})
    for shard in again.members:
        assert not again.planner.holdings(shard.slot).keys() - shard.loaded.keys()
    table = again.publish()
    assert table is not None and table.slots == before.slots and table.version > before.version


def test_nobody_is_let_go_before_there_is_a_table() -> None:
    service = Service()
    service.want(4, 1)
    service.settle()
    again = Service(version=5000)
    again.members = service.members
    again.want(2, 1)
    assert not again.planner.excess(again.members)
    again.load()
    assert again.publish() is not None
    assert {shard.slot for shard in again.planner.excess(again.members)} == {2, 3}


def test_fewer_replicas_keeps_those_on_different_nodes() -> None:
    service = Service()
    service.want(1, 4)
    for node in ("x", "x", "y", "y"):
        service.join(0, node)
    service.settle()
    service.want(1, 2)
    leaving = service.planner.excess(service.members)
    assert [shard.node for shard in leaving] == ["x", "y"]
    assert {shard.node for shard in service.members if shard not in leaving} == {"x", "y"}


def test_a_replica_on_a_free_node_takes_the_place_of_a_twin() -> None:
    service = Service()
    service.want(1, 2)
    first, twin = service.join(0, "x"), service.join(0, "x")
    service.settle()
    apart = service.join(0, "y")
    assert not service.planner.excess(service.members)  # not before it has loaded
    service.load(apart)
    assert service.planner.excess(service.members) == [twin]
    assert first.address in {a for slot in service.planner.table.slots for a in slot.addresses}


def test_no_corpora_is_a_table_too() -> None:
    service = Service()
    service.corpora = {}
    service.want(2, 1)
    table = service.settle()
    assert table.version and table.corpora == frozenset() and len(table.slots) == 2
    service.corpora = dict(CORPORA)
    assert held(service.settle()) == everything(CORPORA)


def something_happens(service: Service, rng: random.Random) -> None:
    """Scales, corpora, starts, loads and deaths in any order; one of two replicas at a time."""
    act = rng.randrange(8)
    if act == 0:
        service.want(rng.randint(1, 5))
    elif act == 1:
        service.corpora[rng.choice("abc")] = Corpus(rng.randint(1, 6), service.now)
    elif act == 2:
        service.corpora.pop(rng.choice("abc"), None)
    elif act == 3 and all(len(slot.addresses) > 1 for slot in service.planner.table.slots):
        service.members.remove(rng.choice(service.members))
    elif act == 4:
        service.start(load=False)
    else:
        service.load(*(service.members if act == 5 else [rng.choice(service.members)]))
    service.want()


@pytest.mark.parametrize("round_", range(20))
def test_whatever_happens_nothing_is_lost_that_somebody_holds(seed: int, round_: int) -> None:
    rng = random.Random(seed + round_)
    service = Service()
    service.want(1, 2)
    service.settle()
    for _ in range(150):
        service.now += rng.random()
        something_happens(service, rng)
        before = service.planner.table
        table = service.publish()
        gone = service.planner.excess(service.members)
        named = {a for slot in service.planner.table.slots for a in slot.addresses}
        assert named.isdisjoint(shard.address for shard in gone)
        service.members = [shard for shard in service.members if shard not in gone]
        if table is not None:
            assert table.version > before.version
            assert len(set(held(table))) == len(held(table))
            for name in table.corpora & before.corpora:  # though it may be made again
                partitions = sum(len(slot.holdings.get(name, ())) for slot in table.slots)
                assert {p for n, p in held(table) if n == name} == set(range(partitions))
    while service.planner.moving:
        service.now += 1
        service.settle()
    assert held(service.planner.table) == everything(service.corpora)
    assert len(service.members) == 2 * service.scale.shards
