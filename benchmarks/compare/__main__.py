"""RASD in all its modes beside vLLM and transformers, in one run, turn by turn.

    python -m benchmarks.compare                        # every library; hours
    python -m benchmarks.compare --short                # half an hour
    python -m benchmarks.compare --systems off vllm --tasks code --concurrency 1 16
    python -m benchmarks.compare --systems rasd http-rasd http-vllm --concurrency 1 16

What was measured stays in ``--place`` and is not measured again; ``--fresh`` forgets it.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Final

from benchmarks.compare.bench import Rows, run
from benchmarks.compare.cells import MANY, RANDOM, Plan
from benchmarks.compare.publish import publish
from benchmarks.compare.systems import LIBRARIES, SYSTEMS, Models
from benchmarks.models import paths
from benchmarks.models.tasks import TASKS

SHORT: Final = {
    "concurrency": [1, 16],
    "temperatures": [0.0],
    "prompts": 4,
    "tokens": 128,
    "lengths": [],
    "many": ["off", "rasd", "vllm", "vllm-suffix", "http-off", "http-rasd", "http-vllm"],
}


def options() -> argparse.Namespace:
    """What the command line says."""
    plan = Plan()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="100m", help="size, or a directory that holds target and eagle")
    add("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    add("--systems", nargs="+", default=list(LIBRARIES), choices=list(SYSTEMS), metavar="NAME")
    add(
        "--many",
        nargs="*",
        default=list(MANY),
        choices=list(SYSTEMS),
        metavar="NAME",
        help="those of them that also run many requests at once, random text and long prompts",
    )
    add("--tasks", nargs="*", default=list(plan.tasks), choices=[*TASKS, RANDOM])
    add("--concurrency", type=int, nargs="+", default=list(plan.concurrency))
    add("--temperatures", type=float, nargs="+", default=list(plan.temperatures))
    add("--lengths", type=int, nargs="*", default=list(plan.lengths), help="of long prompts")
    add("--prompts", type=int, default=plan.prompts, help="per row, at least the concurrency")
    add("--tokens", type=int, default=plan.tokens, help="of each answer")
    add("--repetitions", type=int, default=3)
    add("--place", type=Path, default=paths.ROOT / "rows", help="where rows are kept")
    add("--label", default="", help="rows and results of their own, named so")
    add("--short", action="store_true", help="half an hour: less of everything")
    add("--fresh", action="store_true", help="forget rows that were measured before")
    if "--short" in sys.argv:
        parser.set_defaults(**SHORT)
    return parser.parse_args()


def main() -> None:
    """Command line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that workers are ended, too
    chosen = options()
    models = Models.of(chosen.model, chosen.dtype, together=max(chosen.concurrency))
    rows = Rows(chosen.place / f"{models.title(chosen.label)}.jsonl", fresh=chosen.fresh)
    plan = Plan(
        tuple(chosen.tasks),
        tuple(chosen.concurrency),
        tuple(chosen.temperatures),
        chosen.prompts,
        chosen.tokens,
        tuple(chosen.lengths),
        tuple(chosen.many),
    )
    systems = [SYSTEMS[name] for name in chosen.systems]
    run(models, plan, systems, rows, chosen.repetitions)
    publish(models, rows.rows, chosen.label)


if __name__ == "__main__":
    main()
