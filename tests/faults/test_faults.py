"""Processes are killed and frozen while requests run. Text must not change, and must go on.

Every test proves that the fault happened: the process that was hit is gone, and another one has
taken its place.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.service.running import PROMPTS, Service, processes, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

TOKENS = 120
ASK: dict[str, Any] = {"temperature": 0.0, "max_tokens": TOKENS, "ignore_eos": True}


class Running:
    """Requests on their way, each read by a thread of its own."""

    def __init__(self, service: Service, tokens: int = TOKENS) -> None:
        self.pieces: list[list[Any]] = [[] for _ in PROMPTS]
        self._expected = tokens
        self._errors: list[BaseException] = []
        self._streams = [service.stream(p, **{**ASK, "max_tokens": tokens}) for p in PROMPTS]
        self._threads = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in zip(self._streams, self.pieces, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, stream: Any, pieces: list[Any]) -> None:
        try:
            for piece in stream:
                pieces.append(piece)
        except BaseException as error:
            self._errors.append(error)

    def tokens(self) -> list[list[int]]:
        """What each request has so far; none has failed."""
        assert not self._errors
        return [[token for piece in pieces for token in piece.tokens] for pieces in self.pieces]

    def started(self) -> bool:
        """Whether every request has text."""
        return all(len(tokens) >= 2 for tokens in self.tokens())

    def drafted(self, source: str) -> int:
        """Nodes that a source has drafted so far, over all requests."""
        return sum(p[-1].statistics.drafted[source] for p in self.pieces if p)

    def finished(self) -> list[list[int]]:
        """Waits for the ends; the tokens of each request."""
        deadline = time.monotonic() + 120
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
            assert not thread.is_alive(), "a request did not end"
        tokens = self.tokens()
        for pieces in self.pieces:
            assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
            assert pieces[-1].finish == "length"
            assert pieces[-1].statistics.tokens == self._expected
        return tokens

    def cancel(self) -> None:
        """Lets go of all."""
        for stream in self._streams:
            stream.cancel()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def plain(service: Service) -> list[list[int]]:
    """What the requests say when nothing is drafted and nothing dies."""
    answers = [service.generate(prompt, **ASK, speculation="off") for prompt in PROMPTS]
    return [answer.choices[0].tokens for answer in answers]


def hit(service: Service, kind: str, number: int = 0) -> tuple[Running, Callable[[], bool]]:
    """Kills one process while requests run. Says how to know that it was replaced."""
    before = processes(kind)
    running = Running(service)
    until(running.started, "text")
    os.kill(before[number], signal.SIGKILL)
    until(lambda: before[number] not in processes(kind), "death", 5)

    def replaced() -> bool:
        now = processes(kind)
        return len(now) == len(before) and before[number] not in now

    return running, replaced


def restarts_of(service: Service, stage: str) -> float:
    return service.metric("stage_restarts", f'stage="{stage}"')


def test_undisturbed_text_is_that_of_the_model(service: Service, plain: list[list[int]]) -> None:
    running = Running(service)
    assert running.finished() == plain
    assert running.drafted("draft") > 0 and running.drafted("corpus") > 0


def test_a_killed_shard(service: Service, plain: list[list[int]]) -> None:
    running, replaced = hit(service, "ShardActor")
    until(replaced, "another shard", 30)
    assert running.finished() == plain
    assert service.generate(PROMPTS[0], **ASK).choices[0].statistics.drafted["corpus"] > 0


def test_a_killed_drafter_drafts_again_for_what_runs(
    service: Service, plain: list[list[int]]
) -> None:
    (victim,), restarts = processes("DraftActor"), restarts_of(service, "drafter")
    running = Running(service, tokens=1900)
    until(lambda: running.started() and running.drafted("draft"), "drafts")
    os.kill(victim, signal.SIGKILL)
    until(lambda: restarts_of(service, "drafter") == restarts + 1, "death", 5)
    until(lambda: not grows(running), "no more drafts", 30)
    until(lambda: grows(running), "drafts of another drafter", 90)
    assert processes("DraftActor") not in ([], [victim])
    for tokens, expected in zip(running.tokens(), plain, strict=True):
        length = min(len(tokens), TOKENS)
        assert 20 < len(tokens) < 1900 and tokens[:length] == expected[:length]
    running.cancel()


def grows(running: Running) -> bool:
    """Whether the next tokens bring drafted nodes."""
    before, drafted = sum(map(len, running.tokens())), running.drafted("draft")
    until(lambda: sum(map(len, running.tokens())) >= before + 20, "tokens")
    return running.drafted("draft") > drafted


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_takes_all_ranks_with_it(
    service: Service, plain: list[list[int]], rank: int
) -> None:
    before, restarts = set(processes("TargetRank")), restarts_of(service, "target")
    running, _ = hit(service, "TargetRank", rank)
    until(lambda: service.status("/ready") == 503, "not ready", 5)
    until(lambda: service.status("/ready") == 200, "ready again", 60)
    assert not before & set(processes("TargetRank")) and len(processes("TargetRank")) == 2
    assert running.finished() == plain
    assert restarts_of(service, "target") == restarts + 1


def test_a_killed_engine(service: Service, plain: list[list[int]]) -> None:
    restarts = restarts_of(service, "engine")
    running, replaced = hit(service, "EngineActor")
    until(replaced, "another engine", 30)
    assert running.finished() == plain
    assert service.metric("kv_cache_usage_perc") == 0
    assert restarts_of(service, "engine") == restarts + 1


def test_a_frozen_shard_costs_no_text(service: Service, plain: list[list[int]]) -> None:
    victim = processes("ShardActor")[0]
    running = Running(service)
    until(running.started, "text")
    os.kill(victim, signal.SIGSTOP)
    try:
        assert running.finished() == plain
    finally:
        os.kill(victim, signal.SIGCONT)
    assert victim in processes("ShardActor")


def test_a_killed_controller_adopts_its_shards(service: Service, plain: list[list[int]]) -> None:
    shards = processes("ShardActor")
    running, replaced = hit(service, "Datastore")
    until(replaced, "another controller", 60)
    assert running.finished() == plain
    assert processes("ShardActor") == shards
    service.set_shards(1)
    until(lambda: len(processes("ShardActor")) == 1, "one shard: the new controller controls")
    assert processes("ShardActor")[0] in shards
    service.set_shards(2)
    until(lambda: len(processes("ShardActor")) == 2, "two shards")


def test_a_killed_router_breaks_streams_and_comes_back(
    service: Service, plain: list[list[int]]
) -> None:
    (victim,) = processes("Router")
    stream = service.stream(PROMPTS[0], **ASK)
    pieces = [next(stream)]
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(Exception, match=r"[Dd]ied|[Uu]navailable"):
        pieces += stream
    assert all(piece.finish is None for piece in pieces)
    until(lambda: processes("Router") not in ([], [victim]), "another router", 60)
    until(lambda: service.status("/ready") == 200, "ready again", 120)
    assert service.generate(PROMPTS[0], **ASK).choices[0].tokens == plain[0]
    kinds = {"TargetRank": 2, "DraftActor": 1, "EngineActor": 1, "ShardActor": 2}
    until(lambda: {k: len(processes(k)) for k in kinds} == kinds, "nothing twice", 30)
