"""`python -m benchmarks.models ...`: train the models that the benchmarks measure on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import torch
import typer

from benchmarks.models import paths
from rasd.train.loop import Plan, State

app = typer.Typer(
    no_args_is_help=True,
    help="Train the pair that the benchmarks measure on: `target`, `drafter`, `enlarge`; "
    "`all` does the three.\n\n"
    "The target is the shipped one grown to 15M parameters and trained on four tasks made from "
    "the standard library and installed packages; the drafter is its EAGLE head, trained on "
    "general code only; enlarged models say the same at the cost of a larger one. Everything is "
    f"kept below {paths.ROOT} (RASD_BENCH moves it). A training keeps a checkpoint and resumes "
    "from it when started again; with more minutes than before it goes on from there.",
)

TARGET_MINUTES: Final = 70.0
DRAFTER_MINUTES: Final = 20.0

Minutes = Annotated[float, typer.Option(min=0, help="Minutes of training, earlier runs included.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads to use.")]
Size = Annotated[str, typer.Option(help="100m, 400m or 7b.")]


@app.command()
def target(minutes: Minutes = TARGET_MINUTES, threads: Threads = 2) -> None:
    """Train the target on the four tasks."""
    from benchmarks.models.target import train_target

    torch.set_num_threads(threads)
    plan = _plan(paths.work("target"), minutes)
    _summary(train_target(plan, paths.target("base")), paths.target("base"))


@app.command()
def drafter(minutes: Minutes = DRAFTER_MINUTES, threads: Threads = 2) -> None:
    """Train the target's EAGLE head on general code; another target starts another training."""
    from benchmarks.models.drafter import digest, train_drafter

    torch.set_num_threads(threads)
    plan = _plan(paths.work(f"drafter-{digest(paths.target('base'))}"), minutes)
    state = train_drafter(paths.target("base"), paths.work("target"), plan, paths.drafter("base"))
    _summary(state, paths.drafter("base"))


@app.command()
def enlarge(size: Size = "100m") -> None:
    """Write the pair at the cost of a larger one (seconds; 7b takes 16 GB of memory)."""
    from benchmarks.enlarge import enlarge as write

    write(paths.target("base").parent, paths.target(size).parent, size)
    typer.echo(f"{size}: {paths.target(size).parent}")


@app.command("all")
def everything(
    target_minutes: Minutes = TARGET_MINUTES,
    drafter_minutes: Minutes = DRAFTER_MINUTES,
    threads: Threads = 2,
    size: Size = "100m",
) -> None:
    """Target, drafter and an enlarged pair; what is done already takes seconds."""
    target(target_minutes, threads)
    drafter(drafter_minutes, threads)
    enlarge(size)


def _plan(directory: Path, minutes: float) -> Plan:
    return Plan(
        directory,
        minutes=minutes,
        warmup=30,
        decay=0.7,
        log_every=10,
        evaluate_every=50,
        save_every=25,
    )


def _summary(state: State, export: Path) -> None:
    typer.echo(
        f"{state.step} steps, {state.tokens / 1e6:.2f} M tokens, "
        f"{state.seconds / 60:.1f} minutes of training; the model is in {export}"
    )


if __name__ == "__main__":
    app()
