"""`python -m benchmarks.models ...`: train the models that the benchmarks measure on."""

from __future__ import annotations

from typing import Annotated

import torch
import typer

from benchmarks.models import paths
from rasd.train.loop import Plan

app = typer.Typer(
    no_args_is_help=True,
    help="Train the pair that the benchmarks measure on: `target`, then `drafter`, then "
    "`enlarge`; `all` does the three.\n\n"
    "The target is the shipped one grown to 15M parameters and trained on four tasks made from "
    "the standard library and installed packages; the drafter is its EAGLE head, trained on "
    "general code only; enlarged ones say the same at the cost of a larger model. Everything is "
    f"kept below {paths.ROOT} (RASD_BENCH moves it). Each run keeps a checkpoint and resumes from "
    "it when started again; more minutes than before go on from there.",
)

Minutes = Annotated[float, typer.Option(min=0, help="Minutes of training, earlier runs included.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads to use.")]


@app.command()
def target(minutes: Minutes = 70, threads: Threads = 2) -> None:
    """Train the target on the four tasks."""
    from benchmarks.models.target import train_target

    torch.set_num_threads(threads)
    periods = {"log_every": 10, "evaluate_every": 50, "save_every": 25}
    plan = Plan(paths.work("target"), minutes=minutes, warmup=30, decay=0.7, **periods)
    train_target(plan, paths.target("base"))


if __name__ == "__main__":
    app()
