"""What must become true, from measured rows. Pure functions; the targets stand here and only here.

A ratio between systems is taken within each repetition, where they ran one after another, and its
median over repetitions is what counts: noise that hits a repetition hits both sides of it.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.compare.cells import RANDOM
from benchmarks.models.tasks import TASKS

Row = Mapping[str, Any]
OUT_OF_DOMAIN: Final = ("docqa", "summary", "indomain")
COPYING: Final = ("docqa", "summary")
VLLM: Final = ("vllm", "vllm-ngram", "vllm-suffix", "vllm-eagle")
HTTP_VLLM: Final = tuple(f"http-{name}" for name in VLLM)
SPECULATING: Final = ("draft", "prompt", "corpus", "routing", "rasd-paper", "rasd")


class Missing(Exception):
    """The rows do not hold what a ratio is made of."""


@dataclass(frozen=True)
class Table:
    """Rows of one pair of models, to be asked for ratios."""

    rows: Sequence[Row]

    def speed(self, system: str, task: str, concurrency: int, kind: str = "speed") -> list[Row]:
        """Rows of a system in a cell, greedy (or random) ones, by repetition.

        Raises:
            Missing: there are none.
        """
        found = [
            row
            for row in self.rows
            if (row["kind"], row["system"]) == (kind, system)
            and (row["task"], row["concurrency"]) == (task, concurrency)
            and (row["temperature"] == 0 or task == RANDOM)
        ]
        if not found:
            raise Missing(f"{system} on {task} at {concurrency}")
        return sorted(found, key=lambda row: row["repetition"])

    def ratio(self, ours: str, theirs: str | Iterable[str], task: str, concurrency: int) -> float:
        """How many times faster, at the median of the repetitions; of several the fastest."""
        names = [theirs] if isinstance(theirs, str) else self.known(theirs, task, concurrency)
        return min(self._ratio(ours, name, task, concurrency) for name in names)

    def _ratio(self, ours: str, theirs: str, task: str, concurrency: int) -> float:
        mine, other = (self.speed(name, task, concurrency) for name in (ours, theirs))
        rates = {(row["key"], row["repetition"]): row["rate"] for row in other}
        pairs = [(row["rate"], rates.get((row["key"], row["repetition"]))) for row in mine]
        shares = [rate / other for rate, other in pairs if other]
        if not shares:
            raise Missing(f"{ours} and {theirs} in one repetition of {task} at {concurrency}")
        return statistics.median(shares)

    def known(self, systems: Iterable[str], task: str, concurrency: int) -> list[str]:
        """Those of the systems that were measured in a cell.

        Raises:
            Missing: none was.
        """
        found = [
            name
            for name in systems
            if any(
                (row["kind"], row["system"]) == ("speed", name)
                and (row["task"], row["concurrency"]) == (task, concurrency)
                for row in self.rows
            )
        ]
        if not found:
            raise Missing(f"any of {', '.join(systems)} on {task} at {concurrency}")
        return found

    def over_tasks(
        self, ours: str, theirs: str | Iterable[str], concurrency: int, tasks: Sequence[str] = TASKS
    ) -> float:
        """The median over tasks."""
        theirs = theirs if isinstance(theirs, str) else list(theirs)
        return statistics.median(self.ratio(ours, theirs, task, concurrency) for task in tasks)

    def value(self, kind: str, system: str) -> float:
        """A number of a system that belongs to no cell: its memory, its start.

        Raises:
            Missing: it is not known.
        """
        found = [r["value"] for r in self.rows if (r["kind"], r["system"]) == (kind, system)]
        if not found:
            raise Missing(f"{kind} of {system}")
        return statistics.median(found)

    def parts(self, system: str, concurrency: int = 1) -> list[Mapping[str, float]]:
        """The parts of a step in milliseconds, of every task and repetition.

        Raises:
            Missing: they are not known.
        """
        rows = [row for task in TASKS for row in self.speed(system, task, concurrency)]
        found = [row["parts"] for row in rows if "forward" in row["parts"]]
        if not found:
            raise Missing(f"parts of a step of {system}")
        return found


def never_slower(table: Table) -> float:
    """The worst case of rasd beside plain decoding, over every task and concurrency measured."""
    cells = {
        (row["task"], row["concurrency"])
        for row in table.rows
        if row["kind"] == "speed" and row["system"] == "rasd" and row["task"] in (*TASKS, RANDOM)
    }
    if RANDOM not in {task for task, _ in cells}:
        raise Missing("random text")
    return min(table.ratio("rasd", "off", *cell) for cell in cells)


def step_overhead(table: Table, system: str) -> float:
    """A step without its draft, over the forward of the same trees; the median of the rows."""
    found = table.parts(system)
    return statistics.median((part["step"] - part["draft"]) / part["forward"] for part in found)


def kept_promise(table: Table, system: str, task: str) -> float:
    """Measured speed-up over the one that acceptance and costs promise, decoding alone, at 1."""
    rows = table.speed(system, task, 1)
    plain = table.speed("off", task, 1)
    measured = _median(rows, "decode_rate") / _median(plain, "decode_rate")
    return measured / predicted(table, system, task)


def predicted(table: Table, system: str, task: str) -> float:
    """The speed-up that acceptance length promises: a forward of so many rows, and the draft.

    The forward's cost comes from the measured curve (`cost_of`), drafting from its own timing.
    """
    rows = table.speed(system, task, 1)
    curve = cost_curve(table)
    nodes = statistics.median(row["parts"]["nodes"] for row in rows)
    draft = statistics.median(row["parts"]["draft"] for row in rows)
    step = cost_of(curve, 1 + nodes) + draft
    return _median(rows, "acceptance") * cost_of(curve, 1) / step


def cost_curve(table: Table) -> dict[float, float]:
    """Milliseconds of a forward by its rows, at a context like that of the tasks."""
    found = {row["value"]: row["ms"] for row in table.rows if row["kind"] == "curve"}
    if not found:
        raise Missing("the cost of a forward by rows")
    return found


def cost_of(curve: Mapping[float, float], rows: float) -> float:
    """Read off the curve, straight between its points, and level beyond them."""
    known = sorted(curve)
    if rows <= known[0]:
        return curve[known[0]]
    for low, high in itertools.pairwise(known):
        if rows <= high:
            return curve[low] + (curve[high] - curve[low]) * (rows - low) / (high - low)
    return curve[known[-1]]


def _median(rows: Sequence[Row], name: str) -> float:
    return statistics.median(row[name] for row in rows)


@dataclass(frozen=True)
class Goal:
    """A ratio with the bound it must keep; without bounds it is told and nothing more."""

    name: str
    of: Callable[[Table], float]
    least: float | None = None
    most: float | None = None

    def met(self, value: float) -> bool:
        """Whether a value is within the bounds."""
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )


def _each(low: Sequence[str], theirs: str, concurrency: int = 1) -> Callable[[Table], float]:
    return lambda table: min(table.ratio("rasd", theirs, task, concurrency) for task in low)


def _over(ours: str, theirs: str | Sequence[str], concurrency: int) -> Callable[[Table], float]:
    return lambda table: table.over_tasks(ours, theirs, concurrency)


def _promise(table: Table) -> float:
    systems = {row["system"] for row in table.rows} & set(SPECULATING)
    if not systems:
        raise Missing("any speculation")
    return min(kept_promise(table, name, task) for name in systems for task in TASKS)


def _over_http(concurrency: int) -> Callable[[Table], float]:
    """How many times longer the service takes than the engine alone, in the worse of two modes."""
    return lambda table: max(
        table.over_tasks(mode, f"http-{mode}", concurrency) for mode in ("off", "rasd")
    )


def _beside(kind: str) -> Callable[[Table], float]:
    return lambda table: table.value(kind, "rasd") / table.value(kind, "vllm")


GOALS: Final = (
    Goal("1-plain-over-vllm@1", _over("off", "vllm", 1), least=0.95),
    Goal("1-plain-over-vllm@16", _over("off", "vllm", 16), least=0.95),
    Goal("2-rasd-over-plain@1", _over("rasd", "off", 1), least=2.5),
    Goal("2-rasd-over-best-vllm@1", _over("rasd", VLLM, 1), least=1.3),
    Goal("2-http-rasd-over-best-vllm@1", _over("http-rasd", HTTP_VLLM, 1), least=1.15),
    Goal("2-rasd-over-best-vllm@16", _over("rasd", VLLM, 16)),
    Goal("2-rasd-over-transformers@1", _over("rasd", "transformers", 1)),
    Goal("3-rasd-over-draft@1", _over("rasd", "draft", 1), least=1.10),
    Goal("3-rasd-over-draft@1-out-of-domain", _each(OUT_OF_DOMAIN, "draft"), least=1.15),
    Goal("3-rasd-over-prompt@1", _over("rasd", "prompt", 1), least=1.4),
    Goal("3-rasd-over-routing@1", _over("rasd", "routing", 1), least=1.05),
    Goal("3-rasd-over-paper@1", _over("rasd", "rasd-paper", 1)),
    Goal("4-never-slower", never_slower, least=0.98),
    Goal("4-rasd-over-plain@16", _over("rasd", "off", 16), least=1.1),
    Goal("4-rasd-over-plain@16-copying", _each(COPYING, "off", 16), least=1.3),
    Goal("5-plain-step-over-forward", lambda table: step_overhead(table, "off"), most=1.10),
    Goal("5-rasd-step-over-forward", lambda table: step_overhead(table, "rasd"), most=1.10),
    Goal("5-http-over-engine@1", _over_http(1), most=1.10),
    Goal("5-http-over-engine@16", _over_http(16), most=1.15),
    Goal("6-measured-over-predicted", _promise, least=0.9),
    Goal("7-memory-over-vllm", _beside("memory")),
    Goal("7-start-over-vllm", _beside("start")),
)
