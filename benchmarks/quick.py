"""Ours in every mode beside transformers, in five minutes: a line ``name value`` per ratio.

    python -m benchmarks.quick [--model 100m]

Exits with 1 if a ratio that was measured misses its goal; `benchmarks.compare.ratios` has them.
Ratios that need vLLM or the service belong to `python -m benchmarks.compare`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.compare import report
from benchmarks.compare.bench import Rows, run
from benchmarks.compare.cells import Plan
from benchmarks.compare.systems import OURS, SYSTEMS, Models

PLAN: Final = Plan(
    concurrency=(1, 16), temperatures=(0.0,), prompts=2, tokens=96, lengths=(), many=("off", "rasd")
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="100m", help="size, or a directory with both models")
    parser.add_argument("--repetitions", type=int, default=2)
    chosen = parser.parse_args()
    systems = [SYSTEMS[name] for name in (*OURS, "transformers")]
    with tempfile.TemporaryDirectory() as place:
        rows = Rows(Path(place) / "rows.jsonl")
        models = Models.of(chosen.model, together=max(PLAN.concurrency))
        run(models, PLAN, systems, rows, chosen.repetitions, quiet=True)
    values = {
        name: value
        for name, value in report.ratios(rows.rows).items()
        if not isinstance(value, str)
    }
    missed = report.failures(values)
    for name, value in values.items():
        print(f"{name} {value:.3f}{'  missed' if name in missed else ''}")
    lost = sorted({row["system"] for row in rows.rows if row["kind"] == "failed"})
    if lost:
        print(f"could not run: {', '.join(lost)}", file=sys.stderr)
    sys.exit(bool(missed or lost))


if __name__ == "__main__":
    main()
