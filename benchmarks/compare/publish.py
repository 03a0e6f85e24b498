"""Writes what a run found: JSON and a plot in ``results``, tables on the screen and for the README.

python -m benchmarks.compare.publish 100m           # again, from the rows that are there
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from benchmarks.common import save
from benchmarks.compare import report
from benchmarks.compare.bench import Rows
from benchmarks.compare.plot import plot
from benchmarks.compare.systems import Models
from benchmarks.models import paths


def publish(models: Models, rows: Sequence[dict[str, Any]]) -> None:
    """Everything that can be said of the rows."""
    found = report.medians(rows)
    values = report.ratios(rows)
    single = [row for row in rows if row["kind"] not in ("speed", "failed")]
    result = {
        "model": models.name,
        "dtype": models.dtype,
        "ratios": values,
        "differences": report.differences(rows),
        "systems": [{k: v for k, v in row.items() if k != "key"} for row in single],
        "failed": {row["system"]: row["value"] for row in rows if row["kind"] == "failed"},
        "rows": found,
    }
    path = save(f"compare-{models.name}-{models.dtype}", result)
    plot(found, models.name, path.with_suffix(".png"))
    console = Console(width=170)
    settings = {(entry["concurrency"], entry["temperature"]) for entry in found}
    for concurrency, temperature in sorted(settings):
        if temperature <= 1:
            console.print(report.speed_table(found, concurrency, temperature))
    for concurrency in sorted({entry["concurrency"] for entry in found}):
        console.print(report.parts_table(found, concurrency))
    console.print(report.ratio_table(values))
    console.print("differing greedy answers", result["differences"])
    path.with_suffix(".md").write_text(report.markdown(found, 1) + "\n")
    console.print(f"written to {path.with_suffix('')}.json, .png and .md")


def main() -> None:
    """Publishes the rows of a model again."""
    models = Models.of(sys.argv[1], *sys.argv[2:3])
    publish(models, Rows(paths.ROOT / "rows" / f"{models.name}-{models.dtype}.jsonl").rows)


if __name__ == "__main__":
    main()
