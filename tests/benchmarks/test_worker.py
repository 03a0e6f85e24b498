"""The bench and its workers: requests in flight, lines between processes, turns."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.compare.process import Worker, WorkerFailed, memory_mb
from benchmarks.compare.protocol import Job, Outcome
from benchmarks.compare.worker import drive

ECHO = """
import sys
from benchmarks.compare.protocol import Answer, Outcome
from benchmarks.compare.worker import serve

class Echo:
    def __init__(self, settings):
        print("noise on stdout")
        self.name = settings["name"]
    def run(self, job):
        if not job.prompts:
            raise ValueError("no prompts")
        return Outcome(1.5, [Answer(list(prompt), 1) for prompt in job.prompts], {"step": 2.0})
    def greet(self, whom):
        return f"{self.name} greets {whom}"

serve(Echo)
"""


class Steps:
    """An engine that gives each prompt two tokens per step."""

    def __init__(self) -> None:
        self.left: dict[int, int] = {}
        self.most = 0

    def add(self, number: int, job: Job) -> None:
        self.left[number] = job.max_tokens
        self.most = max(self.most, len(self.left))

    def step(self) -> list[tuple[int, list[int], bool]]:
        gained = []
        for number in [*self.left]:
            count = min(2, self.left[number])
            self.left[number] -= count
            done = not self.left[number]
            gained.append((number, [number] * count, done))
            if done:
                del self.left[number]
        return gained


def test_so_many_run_at_once_and_no_more() -> None:
    engine = Steps()
    job = Job([[1]] * 5, max_tokens=5, concurrency=2)
    outcome = drive(engine, job)
    assert engine.most == 2
    assert [answer.tokens for answer in outcome.answers] == [[i] * 5 for i in range(5)]
    assert {(answer.steps, answer.first_tokens) for answer in outcome.answers} == {(3, 2)}
    for answer in outcome.answers:
        assert 0 <= answer.asked_s <= answer.first_s <= answer.last_s <= outcome.seconds


def test_jobs_and_outcomes_cross_the_wire() -> None:
    job = Job([[1, 2]], 3, 4, 0.5, 6, "corpus")
    assert Job.of(job.message()) == job
    outcome = drive(Steps(), Job([[1]], 2))
    assert Outcome.of(outcome.message()) == outcome


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    command = [sys.executable, "-c", ECHO]
    made = Worker(command, {"name": "echo"}, log=tmp_path / "log")
    yield made
    made.close()


def stops(pid: int) -> bool:
    """Whether a process is stopped within a few seconds: signals take their time."""
    path = Path(f"/proc/{pid}/stat")
    end = time.monotonic() + 10
    while path.read_text().rpartition(")")[2].split()[0] != "T":
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_a_worker_answers_and_is_held_still_between(worker: Worker) -> None:
    assert stops(worker._process.pid)
    outcome = worker.run(Job([[7, 8]], 2))
    assert outcome.answers[0].tokens == [7, 8] and outcome.parts == {"step": 2.0}
    assert worker.ask("greet", whom="you") == "echo greets you"
    assert stops(worker._process.pid)
    assert worker.ready_s > 0 and 1 < worker.peak_mb < 1000


def test_a_fault_is_told_and_the_worker_goes_on(worker: Worker) -> None:
    with pytest.raises(WorkerFailed, match="no prompts"):
        worker.run(Job([], 1))
    assert worker.run(Job([[1]], 1)).answers[0].tokens == [1]


def test_what_cannot_start_says_where_to_look(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(WorkerFailed, match=str(log)):
        Worker([sys.executable, "-c", "raise SystemExit('gone')"], {}, log=log)
    assert "gone" in log.read_text()


def test_memory_counts_processes_that_exist() -> None:
    import os

    assert memory_mb(os.getpid()) > 1
    assert memory_mb(2**30) == 0
