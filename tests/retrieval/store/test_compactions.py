"""Compactions take turns: never too many at once, in order, and no kind waits for ever."""

from __future__ import annotations

import threading
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


def job(number: int, tokens: int = 1, *, urgent: bool = False) -> Job:
    return Job(NOWHERE, {number: np.zeros(0, np.int64)}, number, 9, "t", tokens, urgent)


class Elsewhere:
    """Starts what it is given, and ends it when told to."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.jobs: list[Job] = []
        self.running: list[Future[Any]] = []

    def __call__(self, function: Any, job: Job) -> Future[Any]:
        if function is None:
            raise OSError("no process")
        self.started.append(job.output)
        self.jobs.append(job)
        self.running.append(Future())
        return self.running[-1]

    def end(self, error: Exception | None = None) -> None:
        """Ends the one that has run for longest."""
        future = self.running.pop(0)
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
    elsewhere.end()
    assert elsewhere.started == [0, 1, 2] and futures[0].result(0) == "done"
    while elsewhere.running:
        elsewhere.end()
        assert len(elsewhere.running) <= 2
    assert elsewhere.started == [0, 1, 2, 3, 4]
    assert all(future.done() for future in futures)
    assert (compactions.running, compactions.waiting) == (0, 0)


def test_a_flush_waits_for_what_runs_and_not_for_merges_before_it() -> None:
    elsewhere = Elsewhere()
    compactions = Compactions(elsewhere, 1)
    for i in range(9):
        compactions(run, job(i, tokens=1000))
    for i in range(10, 13):
        compactions(run, job(i, tokens=5, urgent=True))
    while elsewhere.running:
        elsewhere.end()
    assert elsewhere.started == [0, 10, 11, 12, *range(1, 9)]


def test_what_one_kind_was_given_alone_is_forgotten() -> None:
    elsewhere = Elsewhere()
    compactions = Compactions(elsewhere, 1)
    for i in range(20):
        compactions(run, job(i, tokens=1000))
    for _ in range(19):
        elsewhere.end()
    for i in range(30, 36):
        compactions(run, job(i, tokens=300, urgent=True))
    compactions(run, job(40))
    while elsewhere.running:
        elsewhere.end()
    assert elsewhere.started[20:] == [30, 31, 32, 33, 40, 34, 35]  # 1000 of the last one


@given(
    tokens=st.lists(st.tuples(st.booleans(), st.integers(1, 100)), min_size=2, max_size=60),
    most=st.integers(1, 4),
)
def test_while_both_kinds_wait_each_gets_half_of_the_work(
    tokens: list[tuple[bool, int]], most: int
) -> None:
    elsewhere = Elsewhere()
    compactions = Compactions(elsewhere, most)
    for i in range(most):  # so that all others wait
        compactions(run, job(1000 + i, tokens=0))
    for i, (urgent, size) in enumerate(tokens):
        compactions(run, job(i, size, urgent=urgent))
    while elsewhere.running:
        elsewhere.end()
    started = elsewhere.jobs[most:]
    left = {kind: sum(urgent is kind for urgent, _ in tokens) for kind in (True, False)}
    given_ = {True: 0, False: 0}
    for one in started:
        if left[True] and left[False]:
            assert one.urgent == (given_[True] <= given_[False])
            assert abs(given_[True] - given_[False]) <= 100
        given_[one.urgent] += one.tokens
        left[one.urgent] -= 1
    for kind in (True, False):  # in the order they came
        numbers = [one.output for one in started if one.urgent is kind]
        assert numbers == [i for i, (urgent, _) in enumerate(tokens) if urgent is kind]


def test_what_waits_can_be_cancelled_and_takes_no_turn() -> None:
    elsewhere = Elsewhere()
    compactions = Compactions(elsewhere, 1)
    futures = [compactions(run, job(i, urgent=i == 2)) for i in range(4)]
    assert not futures[0].cancel()
    assert futures[1].cancel() and futures[2].cancel()
    assert compactions.waiting == 1
    elsewhere.end()
    assert elsewhere.started == [0, 3]


@pytest.mark.parametrize("error", [OSError("no space"), MemoryError()])
def test_what_fails_is_told_and_gives_up_its_turn(error: Exception) -> None:
    elsewhere = Elsewhere()
    compactions = Compactions(elsewhere, 1)
    failing, refused, cancelled, last = (
        compactions(function, job(i)) for i, function in enumerate((run, None, run, run))
    )
    elsewhere.end(error)
    assert failing.exception(0) is error
    assert isinstance(refused.exception(0), OSError)
    assert elsewhere.running.pop().cancel()  # by the executor, when it is shut down
    assert cancelled.exception(0) is not None
    assert elsewhere.started == [0, 2, 3] and not last.done()
    assert compactions.running == 1


def test_many_threads_never_run_too_many() -> None:
    turn = threading.Lock()
    running = [0, 0]
    together = threading.Barrier(3)

    def work(one: Job) -> int:
        with turn:
            running[0] += 1
            running[1] = max(running)
        together.wait(30)
        with turn:
            running[0] -= 1
        return one.output

    with ThreadPoolExecutor(8) as elsewhere, ThreadPoolExecutor(4) as askers:
        compactions = Compactions(elsewhere.submit, 3)
        asked = [
            askers.submit(compactions, work, job(i, i % 7, urgent=bool(i % 3))) for i in range(201)
        ]
        futures = [one.result(30) for one in asked]
        assert not wait(futures, 30).not_done
    assert [future.result() for future in futures] == list(range(201))
    assert running[1] == 3
    assert (compactions.running, compactions.waiting) == (0, 0)
