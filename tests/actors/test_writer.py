"""The writer's actor: merges run elsewhere, corpora of the configuration are filled in turn."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from actors import writer
from actors.writer import NICE, WriterActor, Writing, gently, submit
from rasd.config import CorpusConfig, DatastoreConfig, TargetConfig
from rasd.errors import SegmentCorrupt, StoreLocked, Unavailable
from tests.actors.clusters import ray_alone

A, B = CorpusConfig(name="a", source="x"), CorpusConfig(name="b", source="y")


class Catalog:
    """Fills corpora; those in ``faults`` fail so often before."""

    def __init__(self, **faults: int) -> None:
        self.faults = faults
        self.calls: list[str] = []
        self.running = 0

    async def seed(self, corpus: CorpusConfig, progress: Any) -> None:
        self.running += 1
        assert self.running == 1
        self.calls.append(corpus.name)
        await asyncio.sleep(0)
        self.running -= 1
        if self.faults.get(corpus.name, 0):
            self.faults[corpus.name] -= 1
            raise StoreLocked("another process writes")


async def test_corpora_are_filled_in_turn_and_tried_again_after_longer_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    catalog: Any = Catalog(a=11)
    sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        if seconds and asyncio.current_task() in seeding:  # other tests leave tasks behind
            pauses.append(seconds)
        await sleep(0)

    actor = WriterActor(TargetConfig(), DatastoreConfig(corpora=[A, B]))
    monkeypatch.setattr(writer.asyncio, "sleep", pause)
    seeding = [asyncio.create_task(actor._seed(catalog, corpus)) for corpus in (A, B)]
    await asyncio.gather(*seeding)
    assert catalog.calls[:2] == ["a", "b"] and catalog.calls[2:] == ["a"] * 11
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


async def test_it_cannot_be_asked_before_it_is_ready() -> None:
    actor = WriterActor(TargetConfig(), DatastoreConfig())
    with pytest.raises(Unavailable, match="cannot add now"):
        await actor.ask("add", "a", [])
    with pytest.raises(Unavailable, match="starting; repeat the call"):
        await Writing(TargetConfig(), DatastoreConfig()).ask("add", "a", [], deadline_s=1)


def test_a_gentle_call_changes_nothing_but_its_own_priority() -> None:
    def priority(shift: int) -> int:
        return shift + os.getpriority(os.PRIO_PROCESS, 0)

    def fail() -> None:
        raise SegmentCorrupt("source 3")

    before = priority(0)
    assert gently(priority, 100) == 100 + NICE
    with pytest.raises(SegmentCorrupt, match="source 3"):
        gently(fail)
    assert priority(0) == before


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with ray_alone():
        yield


@pytest.mark.ray
def test_merges_run_in_other_processes_and_fail_as_they_are(cluster: None) -> None:
    def where(shift: int) -> int:
        return os.getpid() + shift

    def fail(reason: str) -> None:
        raise SegmentCorrupt(reason)

    elsewhere = submit(where, 0).result(60)
    assert elsewhere != os.getpid()
    with pytest.raises(SegmentCorrupt, match="source 3") as failed:
        submit(fail, "source 3").result(60)
    assert type(failed.value) is SegmentCorrupt
    assert submit(os.getpriority, os.PRIO_PROCESS, 0).result(60) == NICE
    assert writer._task() is writer._task()


@pytest.mark.ray
def test_one_that_ended_may_be_followed_by_others_at_once(cluster: None) -> None:
    """Also with more than fits into a message, and never in a thread of Ray's."""
    large = np.ones(10**6, np.int64)
    following: Future[int] = Future()

    def follow(_: Future[Any]) -> None:
        assert threading.current_thread().name.startswith("rasd-settle")
        submit(np.sum, large).add_done_callback(lambda done: following.set_result(done.result()))

    submit(np.sum, large).add_done_callback(follow)
    assert following.result(60) == 10**6
