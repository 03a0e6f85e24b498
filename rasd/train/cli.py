"""`rasd train ...`: the commands that made the models in `deploy/models/embedded`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rasd.train.loop import Plan, State

app = typer.Typer(
    no_args_is_help=True,
    help="Train the embedded models: `tokenizer`, then `target`, then `eagle`.\n\n"
    "With no options the three commands make the pair in deploy/models/embedded, from the "
    "standard library of the Python that runs them. Each run keeps a checkpoint in its work "
    "directory and resumes from it when started again.",
)

EXPORT = Path("deploy/models/embedded")
WORK = Path("build/train")

Minutes = Annotated[
    float | None,
    typer.Option(min=0, help="Stop after this much training; the learning rate falls to fit."),
]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Stop after this many steps. The nearer limit counts.")
]
Work = Annotated[Path, typer.Option(help="Directory of the checkpoint and intermediate files.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads to use.")]


@app.command()
def tokenizer(
    export: Annotated[Path, typer.Option(help="Where to write the tokenizer.")] = EXPORT / "target",
    vocabulary: Annotated[int, typer.Option(min=300, help="Token ids in all.")] = 5120,
) -> None:
    """Learn a byte-level BPE from the held-in text (seconds)."""
    from rasd.train.text import documents, held_out_modules, questions
    from rasd.train.tokenizer import publish_tokenizer, train_tokenizer

    texts = [document.text for document in documents(held_out=False)]
    texts += [pair.question for pair in questions(held_out=False)]
    publish_tokenizer(train_tokenizer(texts, vocabulary), export)
    characters = sum(map(len, texts))
    typer.echo(f"{vocabulary} tokens from {characters / 1e6:.1f} M characters, in {export}")
    typer.echo(f"held out, never trained on: {', '.join(held_out_modules())}")


@app.command()
def target(
    tokenizer: Annotated[
        Path, typer.Option(help="Directory of the tokenizer that `rasd train tokenizer` wrote.")
    ] = EXPORT / "target",
    export: Annotated[Path, typer.Option(help="Where to write the model.")] = EXPORT / "target",
    work: Work = WORK / "target",
    minutes: Minutes = None,
    steps: Steps = None,
    threads: Threads = 2,
) -> None:
    """Train the target, a 5.7M parameter Llama (800 steps, about an hour on two cores)."""
    from transformers import AutoTokenizer

    from rasd.train.target import train_target

    plan = _plan(work, minutes, steps, default_steps=800, threads=threads)
    _summary(train_target(AutoTokenizer.from_pretrained(tokenizer), plan, export), export)


@app.command()
def eagle(
    target: Annotated[
        Path, typer.Option(help="Directory of the target the head shall draft for; not changed.")
    ] = EXPORT / "target",
    export: Annotated[Path, typer.Option(help="Where to write the head.")] = EXPORT / "eagle",
    work: Work = WORK / "eagle",
    minutes: Minutes = None,
    steps: Steps = None,
    generated: Annotated[
        int, typer.Option(min=2000, help="Tokens the target writes as training text, once.")
    ] = 150_000,
    threads: Threads = 2,
) -> None:
    """Train the EAGLE-2 head of a target (1570 steps, about 22 minutes on two cores)."""
    from rasd.train.eagle import train_eagle

    plan = _plan(work, minutes, steps, default_steps=1570, threads=threads)
    _summary(train_eagle(target, plan, export, generated=generated), export)


def _plan(
    work: Path, minutes: float | None, steps: int | None, *, default_steps: int, threads: int
) -> "Plan":
    import torch

    from rasd.train.loop import Plan

    torch.set_num_threads(threads)
    if minutes is None and steps is None:
        steps = default_steps
    return Plan(work, steps=steps, minutes=minutes)


def _summary(state: "State", export: Path) -> None:
    typer.echo(
        f"{state.step} steps, {state.tokens / 1e6:.2f} M tokens, "
        f"{state.seconds / 60:.1f} minutes of training; the model is in {export}"
    )
