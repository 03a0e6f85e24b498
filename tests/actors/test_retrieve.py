"""Slots and replicas over sockets: together they say what one store says; none holds a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actors import peer, rpc
from actors.retrieve import RemoteRetriever, Retrieving
from actors.table import ShardTable, Slot
from actors.wire import Done, ShardReply
from rasd.config import SpeculationConfig
from rasd.errors import StageTimeout
from rasd.stages import RetrieveReply, RetrieveRequest
from tests.actors.shards import (
    SETTINGS,
    VOCABULARY,
    FakeShard,
    Texts,
    answer,
    asking,
    deal,
    first_tokens,
    table,
    texts,
    together,
)
from tests.actors.threads import SECRET

TEXTS = texts("one", "two")
NAMES = ("one", "two")
EVERYTHING = dict.fromkeys(NAMES, (0, 1, 2, 3))
SPECULATION = SpeculationConfig(retrieve_deadline_s=60, breaker_misses=3, breaker_probe_s=60)
DEADLINE_S = 0.2  # where deadlines are what is tested


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    monkeypatch.setattr(rpc, "STOP_POLL_MS", 20)
    # Where time is not what is tested, a busy machine is no silence.
    monkeypatch.setattr(peer, "_SILENCE_S", 60.0)
    with ExitStack() as stack:
        yield stack


def cluster(stack: ExitStack, slots: int, replicas: int) -> list[list[FakeShard]]:
    """Fake shards that hold both corpora."""
    return [
        [FakeShard(stack, TEXTS, holdings) for _ in range(replicas)]
        for holdings in deal(slots, *NAMES)
    ]


def retriever(
    stack: ExitStack,
    table: ShardTable,
    clock: Callable[[], float] = time.monotonic,
    **speculation: Any,
) -> RemoteRetriever:
    settings = SPECULATION.model_copy(update=speculation)
    remote = RemoteRetriever(SETTINGS, settings, SECRET, VOCABULARY, clock)
    stack.callback(remote.close)
    remote.set_table(table)
    return remote


def check(request: RetrieveRequest, reply: RetrieveReply, documents: Texts = TEXTS) -> None:
    """It is complete, and what brute force over all documents finds."""
    assert not reply.partial and reply.step == request.step
    assert len(reply.found) == len(request.queries)
    for query, found in zip(request.queries, reply.found, strict=True):
        wanted = answer(documents, EVERYTHING, query)
        assert found.match_length == wanted.match_length
        assert first_tokens(found) == first_tokens(wanted)


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline


def pause(seconds: float) -> None:
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end)


# --- all is well --------------------------------------------------------------------------


@pytest.mark.parametrize(("slots", "replicas"), [(1, 1), (2, 1), (3, 2), (4, 1)])
def test_slots_say_together_what_one_store_says(
    stack: ExitStack, slots: int, replicas: int
) -> None:
    remote = retriever(stack, table(cluster(stack, slots, replicas)))
    for step, corpora in enumerate([("one",), ("two",), NAMES, ()] * 3):
        request = asking(step, *corpora)
        check(request, remote.retrieve(request).wait(5))


def test_a_slot_is_asked_once_a_step_and_its_replicas_take_turns(stack: ExitStack) -> None:
    shards = cluster(stack, 2, 2)
    remote = retriever(stack, table(shards))
    for step in range(6):
        request = together(asking(step, "one"), asking(step, "two"), asking(step, *NAMES))
        check(request, remote.retrieve(request).wait(5))
    assert [[len(replica.heard) for replica in slot] for slot in shards] == [[3, 3], [3, 3]]
    assert {len(queries) for slot in shards for each in slot for queries in each.heard} == {18}


def test_no_shard_hears_of_corpora_it_does_not_hold(stack: ExitStack) -> None:
    holdings = {"a": (0,)}, {"b": (0,)}
    shards = [FakeShard(stack, texts("a", "b"), each) for each in holdings]
    remote = retriever(stack, table([[each] for each in shards]))
    request = together(*(asking(1, name, queries=2) for name in ("a", "c", "b", "a")))
    reply = remote.retrieve(request).wait(5)
    assert len(reply.found) == 8 and not reply.partial
    heard = [[query.corpora for queries in shard.heard for query in queries] for shard in shards]
    assert heard == [[("a",)] * 4, [("b",)] * 2]


def test_without_slots_there_is_an_empty_answer(stack: ExitStack) -> None:
    reply = retriever(stack, ShardTable(0)).retrieve(asking(1, "one")).wait(5)
    assert [len(found) for found in reply.found] == [0] * 6 and not reply.partial


def test_origins_come_along(stack: ExitStack) -> None:
    shards = cluster(stack, 1, 1)
    remote = retriever(stack, table(shards))
    queries = [replace(query, origins=True) for query in asking(1, "one").queries]
    check(RetrieveRequest(1, queries), remote.retrieve(RetrieveRequest(1, queries)).wait(5))
    assert all(query.origins for query in shards[0][0].heard[0])


# --- with another replica no query fails or is partial ------------------------------------


def test_a_replica_that_dies_with_the_question_is_made_up_for(stack: ExitStack) -> None:
    shards = cluster(stack, 2, 2)
    remote = retriever(stack, table(shards))
    shards[0][0].dying = True
    for step in range(30):
        request = asking(step, *NAMES)
        check(request, remote.retrieve(request).wait(5))
    assert len(shards[0][0].heard) == 1


def test_a_frozen_replica_is_made_up_for_within_the_deadline(stack: ExitStack) -> None:
    shards = cluster(stack, 2, 2)
    deadline_s = 4 * DEADLINE_S  # room for a busy machine
    remote = retriever(stack, table(shards), retrieve_deadline_s=deadline_s, breaker_probe_s=0.2)
    request = asking(1, *NAMES)
    wanted = [first_tokens(found) for found in remote.retrieve(request).wait(5).found]
    frozen = shards[1][1]
    frozen.gate.clear()
    waits = 0
    for _ in range(40):
        started = time.monotonic()
        reply = remote.retrieve(request).wait(deadline_s)
        assert not reply.partial and [first_tokens(found) for found in reply.found] == wanted
        waits += time.monotonic() - started > deadline_s / 5
        pause(deadline_s / 40)
    assert waits <= 5  # one for the question that froze; the rest for a machine that is busy
    frozen.gate.set()
    asked = len(frozen.heard)

    def again() -> bool:  # a probe finds out
        assert not remote.retrieve(request).wait(deadline_s).partial
        return len(frozen.heard) > asked + 20

    until(again)


@pytest.mark.parametrize("lost", ["frozen", "dead"])
def test_a_replica_is_lost_unnoticed_under_the_default_deadline(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setattr(peer, "_SILENCE_S", 1.0)
    usual = SpeculationConfig()
    shards = cluster(stack, 2, 2)
    # Time passes slowly: a busy machine then does as much in a deadline as a quiet one.
    slow = retriever(stack, table(shards), lambda: time.monotonic() / 20, **usual.model_dump())
    victim, twin = shards[1]
    for step in range(20):
        request = asking(step, *NAMES)
        check(request, slow.retrieve(request).wait(usual.retrieve_deadline_s))
        if step == 5:
            victim.gate.clear() if lost == "frozen" else victim.stop()
    # It served until then, and was left alone soon.
    assert 3 <= len(victim.heard) < 8 and len(twin.heard) >= 17


def test_replicas_that_answer_wrongly_are_made_up_for(stack: ExitStack) -> None:
    shards = cluster(stack, 1, 2)
    remote = retriever(stack, table(shards))

    def other_step(reply: ShardReply) -> object:
        return replace(reply, step=reply.step + 1)

    def short(reply: ShardReply) -> object:
        return replace(reply, answers=replace(reply.answers, ends=reply.answers.ends[:-1]))

    def loops(reply: ShardReply) -> object:
        return replace(reply, answers=replace(reply.answers, parents=reply.answers.parents + 9))

    def strange(reply: ShardReply) -> object:
        tokens = np.full_like(reply.answers.tokens, VOCABULARY)
        return replace(reply, answers=replace(reply.answers, tokens=tokens))

    for number, wrong in enumerate((other_step, short, loops, strange, lambda reply: Done())):
        shards[0][0].change = wrong
        for step in range(2):
            request = asking(10 * number + step, *NAMES)
            check(request, remote.retrieve(request).wait(5))


def test_a_version_that_a_replica_does_not_hold_is_asked_of_another(stack: ExitStack) -> None:
    shards = cluster(stack, 1, 2)
    shards[0][1].version = 2
    remote = retriever(stack, table(shards))
    for step in range(6):
        request = asking(step, *NAMES)
        check(request, remote.retrieve(request).wait(5))


# --- without one, answers are partial, and soon cost nothing --------------------------------


def test_a_dead_slot_makes_answers_partial_not_late(stack: ExitStack) -> None:
    shards = cluster(stack, 2, 1)
    remote = retriever(stack, table(shards))
    request = asking(0, *NAMES)
    check(request, remote.retrieve(request).wait(5))
    shards[0][0].stop()
    reply = remote.retrieve(request).wait(5)
    assert reply.partial and any(len(found) for found in reply.found)
    started = time.monotonic()
    for _ in range(50):
        assert remote.retrieve(request).wait(5).partial
    assert time.monotonic() - started < 5  # nobody waited
    new = FakeShard(stack, TEXTS, shards[0][0].holdings)
    remote.set_table(table([[new], shards[1]]))
    check(request, remote.retrieve(request).wait(5))


def test_only_who_reads_what_is_lacking_has_partial_answers(stack: ExitStack) -> None:
    shards = [FakeShard(stack, TEXTS, {name: (0, 1, 2, 3)}) for name in NAMES]
    remote = retriever(stack, table([[each] for each in shards]))
    request = together(*(asking(1, *each, queries=1) for each in (("one",), ("two",), NAMES, ())))
    assert remote.retrieve(request).wait(5).partial == ()
    shards[1].stop()
    assert remote.retrieve(request).wait(5).partial == (1, 2)


def test_what_a_shard_says_it_lacks_are_places_of_its_own_queries(stack: ExitStack) -> None:
    shards = [FakeShard(stack, TEXTS, {name: (0, 1, 2, 3)}) for name in NAMES]
    shards[1].change = lambda reply: replace(reply, partial=(1, 7, -1))
    remote = retriever(stack, table([[each] for each in shards]))
    request = together(*(asking(1, *each, queries=1) for each in (("one",), ("two",), NAMES)))
    assert remote.retrieve(request).wait(5).partial == (2,)


def test_a_slot_that_nobody_holds_makes_answers_partial(stack: ExitStack) -> None:
    (shard,) = cluster(stack, 2, 1)[1]
    slots = (Slot(deal(2, *NAMES)[0]), Slot(shard.holdings, (shard.address,), 1))
    remote = retriever(stack, ShardTable(1, slots))
    assert remote.retrieve(asking(1, "one")).wait(5).partial
    assert not remote.retrieve(asking(1)).wait(5).partial


def wait(pending: Retrieving, timeout_s: float) -> RetrieveReply | None:
    """The reply, or None if there is none yet."""
    try:
        return pending.wait(timeout_s)
    except StageTimeout as error:
        assert error.counted
        return None


@pytest.mark.parametrize("slots", [1, 2])
def test_silence_costs_three_deadlines_then_nothing(stack: ExitStack, slots: int) -> None:
    shards = cluster(stack, slots, 1)
    remote = retriever(stack, table(shards), retrieve_deadline_s=DEADLINE_S, breaker_probe_s=1)
    shards[0][0].gate.clear()
    times = []
    for step in range(10):
        started = time.monotonic()
        reply = wait(remote.retrieve(asking(step, *NAMES)), DEADLINE_S)
        assert reply is None or reply.partial
        assert (reply is None) == (slots == 1 and len(times) < 3)
        times.append(time.monotonic() - started)
    assert all(DEADLINE_S <= each for each in times[:3])
    assert sorted(times[3:])[len(times[3:]) // 2] < DEADLINE_S
    shards[0][0].gate.set()

    def whole() -> bool:
        reply = wait(remote.retrieve(asking(1, *NAMES)), DEADLINE_S)
        return reply is not None and not reply.partial

    until(whole)


def test_a_frozen_slot_is_left_alone_within_a_second_though_it_is_asked_rarely(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "_SILENCE_S", 1.0)
    now = [100.0]
    shards = cluster(stack, 1, 1)
    remote = retriever(stack, table(shards), lambda: now[0], retrieve_deadline_s=0.6)
    shards[0][0].gate.clear()
    assert wait(remote.retrieve(asking(1, "one")), 0) is None
    now[0] += 1.01
    reply = wait(remote.retrieve(asking(2, "one")), 0)
    assert reply is not None and reply.partial  # nobody was asked
    now[0] += SPECULATION.breaker_probe_s
    shards[0][0].gate.set()

    def whole() -> bool:
        return not remote.retrieve(asking(3, "one")).wait(5).partial

    until(whole)
    assert len(shards[0][0].heard) in (2, 3)  # the first, one probe, and what came after it


def test_what_is_late_may_be_waited_for_again(stack: ExitStack) -> None:
    shards = cluster(stack, 1, 1)
    remote = retriever(stack, table(shards))
    shards[0][0].gate.clear()
    request = asking(1, "one")
    pending = remote.retrieve(request)
    assert wait(pending, 0.02) is None
    shards[0][0].gate.set()
    check(request, pending.wait(5))


# --- tenants ------------------------------------------------------------------------------


def test_a_tenant_that_a_replica_fails_keeps_nobody_else_from_it(stack: ExitStack) -> None:
    """A shard that fails whenever 'two' is read: readers of 'one' go on, 'two' is left out."""
    shards = cluster(stack, 1, 1)
    shard = shards[0][0]

    def fails_two(reply: ShardReply) -> object:
        reads_two = any("two" in query.corpora for query in shard.heard[-1])
        return replace(reply, step=-1) if reads_two else reply

    shard.change = fails_two
    remote = retriever(stack, table(shards))
    for step in range(3):
        assert remote.retrieve(asking(step, "two")).wait(5).partial
    assert not remote.retrieve(asking(4, "one")).wait(5).partial
    both = together(asking(5, "one"), asking(5, "two"), asking(5, *NAMES))
    for _ in range(3):  # who reads both has a breaker of its own
        reply = remote.retrieve(both).wait(5)
        assert reply.partial
    reply = remote.retrieve(both).wait(5)
    assert {query.corpora for query in shard.heard[-1]} == {("one",)}
    check(asking(5, "one"), RetrieveReply(5, reply.found[:6]))


def test_tenants_with_different_breakers_are_answered_by_different_replicas(
    stack: ExitStack,
) -> None:
    shards = cluster(stack, 1, 2)
    first, second = shards[0]

    def fails_two(reply: ShardReply) -> object:
        reads_two = any("two" in query.corpora for query in first.heard[-1])
        return replace(reply, step=-1) if reads_two else reply

    first.change = fails_two
    remote = retriever(stack, table(shards))
    for step in range(8):
        check(asking(step, "two"), remote.retrieve(asking(step, "two")).wait(5))
    asked = len(first.heard)
    for step in range(8):
        request = together(asking(step, "one"), asking(step, "two"))
        check(request, remote.retrieve(request).wait(5))
    later = first.heard[asked:]
    assert len(later) == 4 and {q.corpora for queries in later for q in queries} == {("one",)}
    assert sum(len(queries) for queries in second.heard[-12:]) == 4 * 6 + 4 * 12


# --- moves --------------------------------------------------------------------------------


def test_a_new_table_keeps_connections_and_breakers(stack: ExitStack) -> None:
    shards = cluster(stack, 2, 1)
    remote = retriever(stack, table(shards))
    shards[0][0].change = lambda reply: Done()
    for step in range(3):
        remote.retrieve(asking(step, "one")).wait(5)
    asked = len(shards[0][0].heard)
    remote.set_table(table(shards, version=1))
    assert remote.retrieve(asking(4, "one")).wait(5).partial
    assert len(shards[0][0].heard) == asked == 3


def test_a_pending_answer_survives_a_new_table(stack: ExitStack) -> None:
    shards = cluster(stack, 1, 2)
    remote = retriever(stack, table(shards))
    request = asking(1, *NAMES)
    pending = remote.retrieve(request)
    remote.set_table(ShardTable(2, (Slot(shards[0][1].holdings, (shards[0][1].address,), 1),)))
    check(request, pending.wait(5))
