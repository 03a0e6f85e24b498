"""When a shard process is left alone, by whom, and when it is asked again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from actors import peer as peers
from actors import rpc
from actors.peer import Ask, Peer, Question, Tenant, patience_s
from actors.wire import ShardQuery, encode
from rasd.config import SpeculationConfig
from rasd.retrieval.flat import pack_queries
from tests.actors.shards import VOCABULARY, FakeShard, asking, texts
from tests.actors.threads import SECRET

TEXTS = texts("one", "two")
EVERYTHING = dict.fromkeys(TEXTS, (0, 1, 2, 3))
ONE, TWO, BOTH = frozenset({"one"}), frozenset({"two"}), frozenset({"one", "two"})
DEADLINE_S, PROBE_S = 0.25, 2.0  # powers of two: sums are exact
SETTINGS = SpeculationConfig(
    retrieve_deadline_s=DEADLINE_S, breaker_misses=3, breaker_probe_s=PROBE_S
)


class House:
    """A shard, who asks it, and a clock that stands still."""

    def __init__(self, stack: ExitStack) -> None:
        self.now = 1024.0
        self.shard = FakeShard(stack, TEXTS, EVERYTHING)
        self.peer = Peer(self.shard.address, SECRET, SETTINGS, lambda: self.now)
        stack.callback(self.peer.close)

    def try_send(self, *tenants: Tenant) -> Question | None:
        queries = [q for tenant in tenants for q in asking(1, *sorted(tenant)).queries]
        body = encode(ShardQuery(1, 1, pack_queries(queries)))
        return self.peer.send(Ask(1, queries, tenants, body, VOCABULARY))

    def send(self, *tenants: Tenant) -> Question:
        question = self.try_send(*tenants)
        assert question is not None
        return question

    def ask(self, *tenants: Tenant) -> Question:
        """A question, and what became of it."""
        question = self.send(*tenants)
        self.settle(question)
        return question

    def settle(self, question: Question) -> None:
        def settled() -> bool:
            self.peer.review()
            return not question.open

        until(settled)

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.peer.review()


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(rpc, "STOP_POLL_MS", 20)
    with ExitStack() as stack:
        yield House(stack)


def test_three_missed_deadlines_open_a_breaker_and_a_probe_closes_it(house: House) -> None:
    house.shard.gate.clear()
    for misses in range(3):
        assert not house.peer.avoided(ONE)
        house.send(ONE)
        house.later(DEADLINE_S)
        assert house.peer.doubted(ONE) == (misses > 0)  # the deadline is here, not passed
        house.later(2**-10)
    assert house.peer.avoided(ONE) and not house.peer.avoided(TWO)
    assert not house.peer.probe_due(ONE)
    house.later(PROBE_S)
    assert house.peer.probe_due(ONE) and not house.peer.probe_due(ONE)
    house.shard.gate.set()
    assert house.ask(ONE).found is not None
    assert not house.peer.avoided(ONE) and not house.peer.doubted(ONE)


def test_one_question_without_an_answer_is_enough_if_the_silence_lasts(house: House) -> None:
    house.shard.gate.clear()
    house.send(ONE)
    house.later(3 * DEADLINE_S)
    assert house.peer.doubted(ONE) and not house.peer.avoided(ONE)
    house.later(2**-10)
    assert house.peer.avoided(ONE) and not house.peer.avoided(BOTH)
    assert house.peer.owed == []  # nobody counts on it any more


def test_a_second_is_silence_enough_whatever_the_deadline(house: House) -> None:
    settings = SETTINGS.model_copy(update={"retrieve_deadline_s": 10.0})
    slow = Peer(house.shard.address, SECRET, settings, lambda: house.now)
    house.peer.close()
    house.peer = slow
    house.shard.gate.clear()
    house.send(ONE)
    house.later(1 + 2**-10)
    assert slow.avoided(ONE)
    slow.close()


def test_an_answer_that_comes_while_nobody_looks_is_in_time(house: House) -> None:
    question = house.send(ONE)
    until(lambda: bool(house.shard.heard))
    house.now += 100

    def settled() -> bool:
        question.look()
        return not question.open

    until(lambda: (house.peer._client.read(), settled())[1])
    assert question.found is not None and not house.peer.doubted(ONE)


def test_a_late_answer_is_used_and_closes_nothing(house: House) -> None:
    house.shard.gate.clear()
    question = house.send(ONE)
    house.later(DEADLINE_S + 2**-10)
    assert house.peer.doubted(ONE)
    house.shard.gate.set()
    house.settle(question)
    assert question.found is not None and house.peer.doubted(ONE)
    house.ask(ONE)
    assert not house.peer.doubted(ONE)


def test_who_owes_an_answer_is_overdue_after_part_of_the_deadline(house: House) -> None:
    house.shard.gate.clear()
    question = house.send(ONE)
    assert patience_s(DEADLINE_S) == DEADLINE_S / 4 and patience_s(60.0) == 0.25
    house.later(DEADLINE_S / 4)
    assert not house.peer.overdue
    house.later(2**-10)
    assert house.peer.overdue
    house.shard.gate.set()
    house.settle(question)
    assert not house.peer.overdue


def test_misses_are_those_of_the_tenants_that_asked(house: House) -> None:
    house.ask(ONE, TWO)
    house.shard.version = 2  # refuses
    for _ in range(3):
        assert house.ask(ONE, BOTH).failed
    assert [house.peer.avoided(tenant) for tenant in (ONE, TWO, BOTH)] == [True, False, True]


def test_tenants_are_forgotten_beyond_a_number(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_MAX_TENANTS", 8)
    house.shard.version = 2
    many = [frozenset({f"t{i}"}) for i in range(20)]
    for tenant in many:
        house.shard.heard.clear()
        body = encode(ShardQuery(1, 1, pack_queries([])))
        question = house.peer.send(Ask(1, [], [tenant], body, VOCABULARY))
        assert question is not None
        house.settle(question)
    assert [house.peer.doubted(tenant) for tenant in many] == [False] * 12 + [True] * 8


def test_a_broken_connection_counts_for_all_until_a_probe_finds_another(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.ask(ONE)
    house.shard.stop()

    def avoided() -> bool:
        house.peer.review()
        return house.peer.avoided(ONE) and house.peer.avoided(TWO)

    until(avoided)
    assert not house.peer.probe_due(TWO)
    house.later(PROBE_S)
    assert house.peer.probe_due(TWO) and not house.peer.probe_due(ONE)
    refused = house.try_send(TWO)  # at once, or a little later
    if refused is not None:
        house.settle(refused)
        assert refused.failed
    assert house.peer.avoided(ONE) and not house.peer.probe_due(ONE)
    assert not house.peer.doubted(TWO)  # it is nobody's fault

    def bind(socket: object, host: str) -> str:
        socket.bind(house.peer.address)  # type: ignore[attr-defined]
        return house.peer.address

    monkeypatch.setattr(rpc, "bind", bind)
    with ExitStack() as stack:
        house.shard = FakeShard(stack, TEXTS, EVERYTHING)
        house.later(PROBE_S)
        assert house.peer.probe_due(ONE)
        assert house.ask(ONE).found is not None
        assert not house.peer.avoided(ONE) and not house.peer.avoided(TWO)
