"""The worker's side: answers the bench on what was stdout, and drives engines step by step."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from benchmarks.compare.protocol import Answer, Job, Outcome


class System(Protocol):
    """What a worker holds."""

    def run(self, job: Job) -> Outcome:
        """Runs a job to its end."""
        ...


class Stepper(Protocol):
    """An engine that runs many requests together, step by step."""

    def add(self, number: int, job: Job) -> None:
        """Takes in prompt ``number`` of the job."""
        ...

    def step(self) -> list[tuple[int, list[int], bool]]:
        """One step: which prompts gained which tokens, and whether that was all of them."""
        ...


def drive(engine: Stepper, job: Job) -> Outcome:
    """Keeps ``job.concurrency`` prompts in flight until all are answered."""
    answers = [Answer() for _ in job.prompts]
    waiting = list(range(len(job.prompts)))[::-1]
    running = 0
    start = time.perf_counter()
    while waiting or running:
        while waiting and running < job.concurrency:
            number = waiting.pop()
            answers[number].asked_s = time.perf_counter() - start
            engine.add(number, job)
            running += 1
        gained = engine.step()
        now = time.perf_counter() - start
        for number, tokens, done in gained:
            answer = answers[number]
            if tokens:
                if not answer.steps:
                    answer.first_s, answer.first_tokens = now, len(tokens)
                answer.last_s = now
                answer.steps += 1
                answer.tokens += tokens
            running -= done
    return Outcome(time.perf_counter() - start, answers)


def serve(load: Callable[[dict[str, Any]], System]) -> None:
    """Loads on the first line, then answers each further line; ends with stdin.

    Whatever a library prints goes to stderr, so that it cannot be taken for an answer.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    system: System | None = None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if system is None:
                system = load(message)
                answer: dict[str, Any] = {"ready": True}
            elif message["do"] == "run":
                answer = system.run(Job.of(message)).message()
            else:  # what only some can: named after their method
                answer = {"answer": getattr(system, message.pop("do"))(**message)}
        except Exception:
            answer = {"failed": traceback.format_exc()}
        _say(out, answer)
    close = getattr(system, "close", None)
    if close is not None:
        close()


def _say(out: TextIO, answer: dict[str, Any]) -> None:
    out.write(json.dumps(answer) + "\n")
    out.flush()
