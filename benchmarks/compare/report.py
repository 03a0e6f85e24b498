"""From rows to what is published: medians with spread, tables, ratios beside their goals."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich import table as rich_table

from benchmarks.compare.cells import CONTEXT
from benchmarks.compare.ratios import GOALS, Goal, Missing, Table
from benchmarks.models.tasks import TASKS

Row = Mapping[str, Any]
_CELL: Final = ("system", "task", "concurrency", "temperature", "length")
_NUMBERS: Final = ("rate", "decode_rate", "acceptance", "first_ms")
_PARTS: Final = (
    *("step", "verify", "forward", "walk", "draft"),
    *("prompt", "corpus", "extend", "fuse", "nodes"),
)
Median = dict[str, Any]


def medians(rows: Iterable[Row]) -> list[Median]:
    """One entry per cell and system: each number's median over repetitions, least and most."""
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["kind"] == "speed":
            cells.setdefault(tuple(row[name] for name in _CELL), []).append(row)
    found = []
    for cell, group in cells.items():
        entry: Median = dict(zip(_CELL, cell, strict=True)) | {"repetitions": len(group)}
        for name in _NUMBERS:
            values = [row[name] for row in group]
            entry[name] = statistics.median(values)
            entry[f"{name}_spread"] = [min(values), max(values)]
        parts = {name for row in group for name in row["parts"]}
        entry["parts"] = {
            name: statistics.median(row["parts"].get(name, 0.0) for row in group)
            for name in sorted(parts)
        }
        found.append(entry)
    return found


def differences(rows: Sequence[Row], reference: str = "off") -> dict[str, dict[str, int]]:
    """Greedy answers beside those of the reference: how many there are, and how many differ.

    ``agreeing`` counts the tokens before an answer's first difference, of ``tokens`` in all.
    """
    greedy = [row for row in rows if row["kind"] == "speed" and row["temperature"] == 0]
    known = {(r["key"], r["repetition"]): r["answers"] for r in greedy if r["system"] == reference}
    found: dict[str, dict[str, int]] = {}
    for row in greedy:
        theirs = known.get((row["key"], row["repetition"]))
        if theirs is None or row["system"] in (reference, *_silent(row)):
            continue
        names = ("answers", "differ", "tokens", "agreeing")
        counts = found.setdefault(row["system"], dict.fromkeys(names, 0))
        for mine, other in zip(row["answers"], theirs, strict=True):
            counts["answers"] += 1
            counts["differ"] += mine != other
            counts["tokens"] += len(other)
            counts["agreeing"] += _agreeing(mine, other)
    return found


def _silent(row: Row) -> tuple[str, ...]:
    """Over HTTP answers are text: their tokens are not known."""
    return (row["system"],) if row["system"].startswith("http-") else ()


def _agreeing(mine: Sequence[int], other: Sequence[int]) -> int:
    for place, (a, b) in enumerate(zip(mine, other, strict=False)):
        if a != b:
            return place
    return min(len(mine), len(other))


def ratios(rows: Sequence[Row], goals: Sequence[Goal] = GOALS) -> dict[str, float | str]:
    """Each goal's value, or what is missing for it."""
    table = Table(rows)
    found: dict[str, float | str] = {}
    for goal in goals:
        try:
            found[goal.name] = goal.of(table)
        except Missing as error:
            found[goal.name] = f"not measured: {error}"
    return found


def failures(values: Mapping[str, float | str], goals: Sequence[Goal] = GOALS) -> list[str]:
    """Names of the goals that were measured and missed."""
    known = {goal.name: goal for goal in goals}
    return [
        name
        for name, value in values.items()
        if not isinstance(value, str) and not known[name].met(value)
    ]


def ratio_table(values: Mapping[str, float | str]) -> rich_table.Table:
    """Every goal with its bound and its value."""
    shown = rich_table.Table(title="what must become true", box=None)
    for column in ("ratio", "bound", "value"):
        shown.add_column(column, justify="left" if column == "ratio" else "right")
    for goal in GOALS:
        value = values[goal.name]
        bound = f"≥ {goal.least}" if goal.least else f"≤ {goal.most}" if goal.most else ""
        missed = not isinstance(value, str) and not goal.met(value)
        text = value if isinstance(value, str) else f"{value:.2f}"
        shown.add_row(goal.name, bound, f"[red]{text}" if missed else text)
    return shown


def speed_table(found: Sequence[Median], concurrency: int, temperature: float) -> rich_table.Table:
    """Tokens per second by system and task, and over the tasks also acceptance and first token."""
    title = f"tokens/s, {concurrency} at once, temperature {temperature:g}"
    shown = rich_table.Table(title=title, box=None)
    tasks = _tasks(found)
    for column in ("system", *tasks, "median", "τ", "first, ms"):
        shown.add_column(column, justify="left" if column == "system" else "right")
    for system, cells in _lines(found, concurrency, temperature).items():
        shown.add_row(system, *_texts(cells, tasks))
    return shown


def parts_table(found: Sequence[Median], concurrency: int) -> rich_table.Table:
    """Where a greedy step's milliseconds go, over the tasks, and the nodes it verifies."""
    shown = rich_table.Table(title=f"ms per step, {concurrency} at once", box=None)
    known = [e for e in found if e["parts"] and e["concurrency"] == concurrency]
    known = [e for e in known if e["task"] in TASKS and e["temperature"] == 0]
    names = [name for name in _PARTS if any(name in e["parts"] for e in known)]
    for column in ("system", *names):
        shown.add_column(column, justify="left" if column == "system" else "right")
    for system in dict.fromkeys(e["system"] for e in known):
        cells = [e["parts"] for e in known if e["system"] == system]
        values = [statistics.median(parts.get(name, 0.0) for parts in cells) for name in names]
        shown.add_row(system, *(f"{value:.2f}" for value in values))
    return shown


def markdown(found: Sequence[Median], concurrency: int, temperature: float = 0.0) -> str:
    """The same for the README."""
    tasks = _tasks(found)
    lines = [["system", *tasks, "median", "τ", "first token, ms"], ["---"] * (len(tasks) + 4)]
    for system, cells in _lines(found, concurrency, temperature).items():
        lines.append([system, *_texts(cells, tasks)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _tasks(found: Sequence[Median]) -> list[str]:
    """Tasks in their order, then random text; long prompts have a plot of their own."""
    known = dict.fromkeys(entry["task"] for entry in found if entry["task"] != CONTEXT)
    return [*(t for t in TASKS if t in known), *(t for t in known if t not in TASKS)]


def _lines(
    found: Sequence[Median], concurrency: int, temperature: float
) -> dict[str, dict[str, Median]]:
    lines: dict[str, dict[str, Median]] = {}
    for entry in found:
        drawn = entry["temperature"] == temperature or entry["task"] not in (*TASKS, CONTEXT)
        if entry["concurrency"] == concurrency and drawn and entry["task"] != CONTEXT:
            lines.setdefault(entry["system"], {})[entry["task"]] = entry
    return lines


def _texts(cells: Mapping[str, Median], tasks: Sequence[str]) -> list[str]:
    def over(name: str, form: str) -> str:
        values = [cells[task][name] for task in TASKS if task in cells]
        return format(statistics.median(values), form) if values else "–"

    rates = [f"{cells[task]['rate']:.0f}" if task in cells else "–" for task in tasks]
    return [*rates, over("rate", ".0f"), over("acceptance", ".2f"), over("first_ms", ".0f")]
