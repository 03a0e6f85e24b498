"""The run itself: every cell, every repetition, every system in turn; rows are kept as they come.

A row that is on disk is not measured again, so a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks.compare.cells import Cell, Plan, Prompts
from benchmarks.compare.process import Worker, WorkerFailed
from benchmarks.compare.protocol import Job, Outcome
from benchmarks.compare.systems import Models, System, start
from benchmarks.compare.texts import corpus_of
from benchmarks.models.tasks import TASKS
from rasd.text import load_tokenizer

Row = dict[str, Any]
_WARM: Final = 16
_CONTEXT: Final = 384
_SIZES: Final = [1, 2, 4, 8, 16, 24, 33, 48, 65]


@dataclass
class Rows:
    """Measured rows, each on a line of a file at once."""

    path: Path
    fresh: bool = False
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.fresh:
            self.path.unlink(missing_ok=True)
        if self.path.exists():
            self.rows = [json.loads(line) for line in self.path.read_text().splitlines()]

    def add(self, row: Row) -> None:
        """Keeps one."""
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def has(self, kind: str, system: str, key: str, repetition: int) -> bool:
        """Whether it was measured before."""
        wanted = (kind, system, key, repetition)
        return any((r["kind"], r["system"], r["key"], r["repetition"]) == wanted for r in self.rows)


class Bench:
    """Systems that take turns on one pair of models."""

    def __init__(
        self, models: Models, prompts: Prompts, rows: Rows, logs: Path, *, quiet: bool = False
    ) -> None:
        self._models = models
        self._prompts = prompts
        self._rows = rows
        self._logs = logs
        self._workers: dict[str, Worker] = {}
        self._failed: dict[str, str] = {}
        self._console = Console(stderr=True, quiet=quiet, width=150)

    def measure(self, plan: Plan, systems: list[System], repetitions: int) -> None:
        """All cells, the systems one after another within each; who begins changes."""
        for repetition in range(repetitions):
            for number, cell in enumerate(plan.cells(self._models.positions)):
                turn = (number + repetition) % len(systems)
                for system in systems[turn:] + systems[:turn]:
                    if plan.takes(cell, system.name):
                        self._row(cell, system, repetition)
            for system in systems:
                if system.name == "off":
                    self._curve(system, repetition)

    def _curve(self, system: System, repetition: int) -> None:
        """What a forward costs by its rows, for one of ours."""
        worker = self.worker(system)
        if worker is None or self._rows.has("curve", system.name, "", repetition):
            return
        for rows, ms in worker.ask("curve", context=_CONTEXT, sizes=_SIZES):
            self._remember("curve", system.name, rows, ms=ms, repetition=repetition)

    def close(self) -> None:
        """Ends all workers."""
        for name, worker in self._workers.items():
            self._remember("memory", name, worker.peak_mb)
            worker.close()
        self._workers.clear()

    def worker(self, system: System) -> Worker | None:
        """Its worker, started and warm; None if it cannot be."""
        if system.name in self._failed:
            return None
        if system.name not in self._workers:
            try:
                self._workers[system.name] = self._start(system)
            except WorkerFailed as error:
                self._fail(system, error)
                return None
        return self._workers[system.name]

    def _start(self, system: System) -> Worker:
        worker = start(system, self._models, self._logs / f"{system.name}.log")
        try:
            first = Job([[2] * 32], 1)
            self._remember("start", system.name, worker.ready_s + worker.run(first).seconds)
            for job in self._warming(system):
                worker.run(job)
        except BaseException:
            worker.close()
            raise
        return worker

    def _warming(self, system: System) -> Iterator[Job]:
        for task, together in zip(TASKS, (1, 2, 4, 8), strict=True):
            cell = Cell(task, together if system.batches else 1, 0.0, together, _WARM)
            yield self._prompts.job(cell, -1, corpus_of(task))

    def _row(self, cell: Cell, system: System, repetition: int) -> None:
        if cell.concurrency > 1 and not system.batches:
            return
        if self._rows.has("speed", system.name, cell.key, repetition):
            return
        worker = self.worker(system)
        if worker is None:
            return
        try:
            outcome = worker.run(self._prompts.job(cell, repetition, corpus_of(cell.task)))
        except WorkerFailed as error:
            self._fail(system, error)
            return
        row = row_of(cell, system.name, repetition, outcome)
        self._rows.add({**row, "model": self._models.name, "dtype": self._models.dtype})
        told = f"{row['rate']:7.1f} tokens/s  τ {row['acceptance']:.2f}"
        self._console.print(f"{repetition} {cell.key:32} {system.name:22} {told}")

    def _remember(self, kind: str, system: str, value: float | str, **more: Any) -> None:
        row: Row = {"kind": kind, "system": system, "key": "", "repetition": 0, "value": value}
        row |= {"model": self._models.name, "dtype": self._models.dtype}
        self._rows.add(row | more)

    def _fail(self, system: System, error: WorkerFailed) -> None:
        self._failed[system.name] = str(error)
        worker = self._workers.pop(system.name, None)
        if worker is not None:
            worker.close()
        last = str(error).strip().splitlines()[-1]
        self._remember("failed", system.name, last)
        self._console.print(f"[red]{system.name} is left out: {last}")


def run(
    models: Models,
    plan: Plan,
    systems: list[System],
    rows: Rows,
    repetitions: int,
    *,
    quiet: bool = False,
) -> None:
    """Starts the systems, measures, and ends them again, whatever happens."""
    prompts = Prompts(load_tokenizer(str(models.target)))
    bench = Bench(models, prompts, rows, rows.path.parent / "logs", quiet=quiet)
    try:
        for system in systems:
            bench.worker(system)
        bench.measure(plan, systems, repetitions)
    finally:
        bench.close()


def row_of(cell: Cell, system: str, repetition: int, outcome: Outcome) -> Row:
    """The numbers of one run.

    ``rate`` is tokens per second of the whole, prompts included; ``decode_rate`` tokens per second
    of one answer after its first tokens, on average over answers.
    """
    answers = outcome.answers
    tokens = sum(len(answer.tokens) for answer in answers)
    later = sum(len(answer.tokens) - answer.first_tokens for answer in answers)
    spans = sum(answer.last_s - answer.first_s for answer in answers)
    firsts = [1000 * (answer.first_s - answer.asked_s) for answer in answers]
    return {
        "kind": "speed",
        "system": system,
        "key": cell.key,
        "repetition": repetition,
        "task": cell.task,
        "concurrency": cell.concurrency,
        "temperature": cell.temperature,
        "length": cell.length,
        "tokens": tokens,
        "seconds": outcome.seconds,
        "rate": tokens / outcome.seconds,
        "decode_rate": later / spans if spans else 0.0,
        "acceptance": tokens / max(1, sum(answer.steps for answer in answers)),
        "first_ms": statistics.median(firsts),
        "parts": outcome.parts,
        "answers": [answer.tokens for answer in answers],
    }
