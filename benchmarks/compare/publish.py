"""Writes what a run found: JSON and a plot in ``results``, tables on the screen and for the README.

python -m benchmarks.compare.publish 100m           # again, from the rows that are there
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks.common import save
from benchmarks.compare import report
from benchmarks.compare.bench import Rows
from benchmarks.compare.plot import plot
from benchmarks.compare.process import ROOT
from benchmarks.compare.systems import THREADS, Models
from benchmarks.models import paths

_BEGIN: Final = "<!-- speed: made by benchmarks.compare.publish --readme -->"
_END: Final = "<!-- end of speed -->"


def publish(models: Models, rows: Sequence[dict[str, Any]], label: str = "") -> Path:
    """Everything that can be said of the rows; gives the path of the JSON."""
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
    path = save(f"compare-{models.title(label)}", result)
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
    console.print(f"written to {path} and {path.with_suffix('.png').name}")
    return path


def section(models: Models, found: Sequence[report.Median], plot_path: Path) -> str:
    """What the README says of speed."""
    tables = [
        f"Tokens per second, {concurrency} at once:\n\n{report.markdown(found, concurrency)}"
        for concurrency in (1, 16)
        if any(entry["concurrency"] == concurrency for entry in found)
    ]
    picture = plot_path.relative_to(ROOT)
    return "\n\n".join(
        (
            "## Speed",
            f"A target of {models.name} parameters and its drafter, enlarged from trained ones, "
            f"{models.dtype}, {THREADS} threads, held-out prompts of four tasks, greedy; medians "
            "of repetitions in which systems take turns. τ is tokens per forward of the target. "
            "[benchmarks/README.md](benchmarks/README.md) tells how to repeat any row.",
            *tables,
            f"![tokens per second by task, by requests at once, by context]({picture})",
        )
    )


def into_readme(text: str, made: str) -> str:
    """The README with its section on speed between the marks.

    Raises:
        ValueError: the marks are not there.
    """
    before, mark, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not mark or not end:
        raise ValueError(f"the README lacks {_BEGIN} or {_END}")
    return f"{before}{_BEGIN}\n{made}\n{_END}{after}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--place", type=Path, default=paths.ROOT / "rows")
    parser.add_argument("--label", default="", help="as it was given to the run")
    parser.add_argument("--readme", action="store_true")
    chosen = parser.parse_args()
    models = Models.of(chosen.model, chosen.dtype)
    rows = Rows(chosen.place / f"{models.title(chosen.label)}.jsonl").rows
    path = publish(models, rows, chosen.label)
    if chosen.readme:
        readme = ROOT / "README.md"
        made = section(models, report.medians(rows), path.with_suffix(".png"))
        readme.write_text(into_readme(readme.read_text(), made))


if __name__ == "__main__":
    main()
