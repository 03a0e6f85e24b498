"""Compactions take turns: never too many at once, in order, and no kind waits for another."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.retrieval.store.compact import Job
from rasd.retrieval.store.compactions import Compactions

NOWHERE = Path("/nowhere")
MANY = 3000  # more than fit on the stack


def job(number: int, *, urgent: bool = False) -> Job:
    return Job(NOWHERE, {number: np.zeros(0, np.int64)}, number, 9, "t", urgent=urgent)


class Elsewhere:
    """Starts what it is given, and ends it when told to."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.running: dict[int, Future[Any]] = {}

    def __call__(self, function: Any, job: Job) -> Future[Any]:
        if function is None:
            raise OSError("no process")
        self.started.append(job.output)
        self.running[job.output] = Future()
        return self.running[job.output]

    def end(self, number: int, error: Exception | None = None) -> None:
        future = self.running.pop(number)
        if error is None:
            future.set_result("done")
        else:
            future.set_exception(error)


def run(job: Job) -> int:
    return job.output


def test_as_many_run_as_may_and_the_oldest_need_is_next() -> None:
    elsewhere = Elsewhere()
    compactions = Compactions(elsewhere, 2)
    futures = [compactions(run, job(i)) for i in range(5)]
    assert elsewhere.started == [0, 1]
    assert (compactions.running, compactions.waiting) == (2, 3)
    assert [future.running() for future in futures] == [True, True, False, False, False]
    for i in range(5):
        elsewhere.end(i)
        assert elsewhere.started == [*range(min(i + 3, 5))] and futures[i].result(0) == "done"
    assert (compactions.running, compactions.waiting) == (0, 0)


def test_what_is_urgent_waits_for_no_merge() -> None:
    elsewhere = Elsewhere()
    compactions = Compactions(elsewhere, 1)
    for i in range(3):
        compactions(run, job(i))
    for i in range(10, 13):
        compactions(run, job(i, urgent=True))
    assert elsewhere.started == [0, 10]
    assert (compactions.running, compactions.waiting) == (2, 4)
    elsewhere.end(10)
    elsewhere.end(11)
    elsewhere.end(12)
    assert elsewhere.started == [0, 10, 11, 12]
    elsewhere.end(0)  # nor does a merge take the slot of what is urgent
    assert elsewhere.started == [0, 10, 11, 12, 1]


@given(
    moves=st.lists(st.sampled_from(["merge", "urgent", "end"]) | st.integers(0, 9), max_size=60),
    most=st.integers(1, 4),
)
def test_no_kind_has_too_many_nor_idles_while_one_waits(moves: list[str | int], most: int) -> None:
    elsewhere = Elsewhere()
    compactions = Compactions(elsewhere, most)
    left = {"merge": 0, "urgent": 0}  # that have not ended
    kinds: list[str] = []
    for move in moves:
        if isinstance(move, str) and move in left:
            compactions(run, job(len(kinds), urgent=move == "urgent"))
            kinds.append(move)
            left[move] += 1
        elif elsewhere.running:
            at = move if isinstance(move, int) else 0
            number = list(elsewhere.running)[at % len(elsewhere.running)]
            elsewhere.end(number)
            left[kinds[number]] -= 1
        running = Counter(kinds[number] for number in elsewhere.running)
        assert running["merge"] == min(left["merge"], most)
        assert running["urgent"] == min(left["urgent"], 1)
        assert compactions.running == running.total()
        assert compactions.waiting == sum(left.values()) - running.total()
    for kind in left:  # in the order they came
        numbers = [number for number in elsewhere.started if kinds[number] == kind]
        assert numbers == sorted(numbers)


def test_what_waits_can_be_cancelled_and_takes_no_turn() -> None:
    elsewhere = Elsewhere()
    compactions = Compactions(elsewhere, 1)
    futures = [compactions(run, job(i)) for i in range(4)]
    assert not futures[0].cancel()
    assert futures[1].cancel() and futures[2].cancel()
    assert compactions.waiting == 1
    assert wait(futures[1:3], 0).not_done == set()  # who waits for it hears of it
    elsewhere.end(0)
    assert elsewhere.started == [0, 3]


def test_what_is_cancelled_is_not_held() -> None:
    compactions = Compactions(Elsewhere(), 1)
    compactions(run, job(0))
    cancelled = job(1)
    array = weakref.ref(cancelled.inputs[1])
    future = compactions(run, cancelled)
    del cancelled
    assert array() is not None
    assert future.cancel() and array() is None


@pytest.mark.parametrize("error", [OSError("no space"), MemoryError()])
def test_what_fails_is_told_and_gives_up_its_turn(error: Exception) -> None:
    elsewhere = Elsewhere()
    compactions = Compactions(elsewhere, 1)
    failing, refused, cancelled, last = (
        compactions(function, job(i)) for i, function in enumerate((run, None, run, run))
    )
    elsewhere.end(0, error)
    assert failing.exception(0) is error
    assert isinstance(refused.exception(0), OSError)
    assert elsewhere.running.pop(2).cancel()  # by the executor, when it is shut down
    assert cancelled.exception(0) is not None
    assert elsewhere.started == [0, 2, 3] and not last.done()
    assert compactions.running == 1


@pytest.mark.parametrize("refuses", [True, False])
def test_any_number_may_be_refused_or_have_ended_at_once(refuses: bool) -> None:
    first: Future[Any] = Future()

    def submit(function: Any, job: Job) -> Future[Any]:
        if not job.output:
            return first
        if refuses:
            raise OSError("no process")
        ended: Future[Any] = Future()
        ended.set_result(job.output)
        return ended

    compactions = Compactions(submit, 1)
    futures = [compactions(run, job(i)) for i in range(MANY)]
    first.set_result(0)
    assert all(future.done() for future in futures)
    assert sum(future.exception(0) is not None for future in futures) == refuses * (MANY - 1)
    assert (compactions.running, compactions.waiting) == (0, 0)
    assert compactions(run, job(MANY)).done()


def test_one_is_told_before_the_next_starts() -> None:
    elsewhere = Elsewhere()
    futures: list[Future[Any]] = []
    told: list[int] = []

    def submit(function: Any, job: Job) -> Future[Any]:
        told.append(sum(future.done() for future in futures))
        return elsewhere(function, job)

    compactions = Compactions(submit, 1)
    futures += [compactions(run, job(i)) for i in range(3)]
    elsewhere.end(0)
    elsewhere.end(1)
    assert told == [0, 1, 2]


def test_many_threads_never_run_too_many() -> None:
    turn = threading.Lock()
    running: Counter[bool] = Counter()
    most: Counter[bool] = Counter()
    together = threading.Barrier(3)

    def work(one: Job) -> int:
        with turn:
            running[one.urgent] += 1
            most[one.urgent] = max(most[one.urgent], running[one.urgent])
        if not one.urgent:
            together.wait(30)
        with turn:
            running[one.urgent] -= 1
        return one.output

    with ThreadPoolExecutor(8) as elsewhere, ThreadPoolExecutor(4) as askers:
        compactions = Compactions(elsewhere.submit, 3)
        asked = [askers.submit(compactions, work, job(i, urgent=i % 2 == 0)) for i in range(402)]
        futures = [one.result(30) for one in asked]
        assert not wait(futures, 30).not_done
    assert [future.result() for future in futures] == list(range(402))
    assert most == {False: 3, True: 1}
    assert (compactions.running, compactions.waiting) == (0, 0)
