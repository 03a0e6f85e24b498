"""One training loop for every recipe: limits, schedule, progress, checkpoints and resume.

A recipe is a `Task`: it owns its modules and its data, and gives the loss of step n. Batches depend
on the step's number only, so a checkpoint needs no random state and a resumed run sees what an
uninterrupted one would have seen.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

CHECKPOINT = "checkpoint.safetensors"


class Task(Protocol):
    """What a recipe gives to the loop."""

    module: nn.Module
    optimizers: dict[str, Optimizer]

    def loss(self, generator: torch.Generator) -> tuple[Tensor, int]:
        """Scalar loss of one batch drawn with `generator`, and the tokens it was taken over."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Named numbers on held-out text."""
        ...


@dataclass(frozen=True)
class Plan:
    """How long to train and how the learning rate moves.

    `steps`, `minutes` or both limit the run; the rate rises over `warmup` steps, stays, and falls
    linearly to zero over the last `decay` share of whichever limit is nearer. Time counts only
    while training, so a run resumed later still ends after `minutes` of work.
    """

    directory: Path
    steps: int | None = None
    minutes: float | None = None
    warmup: int = 100
    decay: float = 0.4
    clip: float = 1.0
    seed: int = 0
    log_every: int = 20
    evaluate_every: int = 200
    save_every: int = 200

    def progress(self, state: "State") -> float:
        """Share of the run that is done; 1 or more means stop."""
        by_steps = state.step / self.steps if self.steps is not None else 0.0
        by_time = state.seconds / (60 * self.minutes) if self.minutes is not None else 0.0
        return max(by_steps, by_time)

    def rate(self, state: "State") -> float:
        """Factor on every optimiser's learning rate for the next step, 0 to 1."""
        rising = min(1.0, (state.step + 1) / self.warmup) if self.warmup else 1.0
        falling = min(1.0, (1.0 - self.progress(state)) / self.decay) if self.decay else 1.0
        return max(0.0, min(rising, falling))


@dataclass
class State:
    """Where a run stands; written into the checkpoint's header as JSON."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    evaluations: dict[str, dict[str, float]] = field(default_factory=dict)


def train(task: Task, plan: Plan, on_save: Callable[[State], None] | None = None) -> State:
    """Train until the plan's limit, resuming from its directory's checkpoint if there is one.

    `on_save` runs after each checkpoint, for example to export the model. Raises ValueError if the
    plan has no limit.
    """
    if plan.steps is None and plan.minutes is None:
        raise ValueError("a plan needs a limit: steps, minutes or both")
    plan.directory.mkdir(parents=True, exist_ok=True)
    state = load_checkpoint(plan.directory / CHECKPOINT, task)
    report = _Report(plan, state)
    with report.bar:
        while plan.progress(state) < 1:
            started = time.perf_counter()
            loss = _step(task, plan, state)
            state.seconds += time.perf_counter() - started
            report.after_step(loss, plan.rate(state))
            if state.step % plan.evaluate_every == 0:
                report.evaluated(_evaluate(task, state))
            if state.step % plan.save_every == 0:
                _save(task, plan, state, on_save)
    report.evaluated(_evaluate(task, state))
    _save(task, plan, state, on_save)
    return state


def _step(task: Task, plan: Plan, state: State) -> float:
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + state.step)
    rate = plan.rate(state)
    loss, tokens = task.loss(generator)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(task.module.parameters(), plan.clip)
    for optimizer in task.optimizers.values():
        for group in optimizer.param_groups:
            group.setdefault("base_lr", group["lr"])
            group["lr"] = group["base_lr"] * rate
        optimizer.step()
        optimizer.zero_grad()
    state.step += 1
    state.tokens += tokens
    return loss.item()


def _evaluate(task: Task, state: State) -> dict[str, float]:
    task.module.eval()
    with torch.no_grad():
        numbers = task.evaluate()
    task.module.train()
    state.evaluations[str(state.step)] = numbers
    return numbers


def _save(task: Task, plan: Plan, state: State, on_save: Callable[[State], None] | None) -> None:
    save_checkpoint(plan.directory / CHECKPOINT, task, state)
    if on_save is not None:
        on_save(state)


def save_checkpoint(path: Path, task: Task, state: State) -> None:
    """Write weights, optimiser moments and state as one safetensors file, replaced atomically."""
    names: dict[Tensor, str] = {p: name for name, p in task.module.named_parameters()}
    tensors = {f"model.{name}": param.detach() for param, name in names.items()}
    for label, optimizer in task.optimizers.items():
        for param, moments in optimizer.state.items():
            for key, value in moments.items():
                tensors[f"{label}.{names[param]}/{key}"] = torch.as_tensor(value)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"state": json.dumps(asdict(state))})
    os.replace(partial, path)


def load_checkpoint(path: Path, task: Task) -> State:
    """Fill the task from `path` and return its state; a fresh state if the file is not there.

    Raises ValueError if the file's tensors are not those of the task's module.
    """
    if not path.exists():
        return State()
    params = dict(task.module.named_parameters())
    with safe_open(path, framework="pt") as file:
        keys = file.keys()
        tensors = {key: file.get_tensor(key) for key in keys}
        state = State(**json.loads(file.metadata()["state"]))
    saved = {key.removeprefix("model.") for key in tensors if key.startswith("model.")}
    if saved != set(params):
        raise ValueError(f"{path} belongs to another model: {sorted(saved ^ set(params))[:4]}")
    with torch.no_grad():
        for name, param in params.items():
            param.copy_(tensors[f"model.{name}"])
    for label, optimizer in task.optimizers.items():
        prefix = f"{label}."
        for key in (k for k in tensors if k.startswith(prefix)):
            name, _, moment = key.removeprefix(prefix).rpartition("/")
            optimizer.state[params[name]][moment] = tensors[key]
    return state


class _Report:
    """A progress bar on a terminal, plain lines elsewhere."""

    def __init__(self, plan: Plan, state: State) -> None:
        self._plan, self._state = plan, state
        self._console = Console()
        self._loss = 0.0
        self._since = (state.step, state.tokens, time.perf_counter())
        self.bar = Progress(
            TextColumn("step {task.fields[step]}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._row = self.bar.add_task("train", total=1.0, step=state.step, text="")

    def after_step(self, loss: float, rate: float) -> None:
        """Count one step; every `log_every` steps show the mean since the last time."""
        self._loss += loss
        step, tokens, then = self._since
        if self._state.step - step < self._plan.log_every:
            return
        now, done = time.perf_counter(), self._plan.progress(self._state)
        left = self._state.seconds * (1 - done) / max(done, 1e-9)
        text = (
            f"loss {self._loss / (self._state.step - step):.4f}  "
            f"{(self._state.tokens - tokens) / (now - then):.0f} tokens/s  "
            f"rate {rate:.2f}  {max(left, 0) / 60:.1f} min left"
        )
        self._show(text, done)
        self._loss, self._since = 0.0, (self._state.step, self._state.tokens, now)

    def evaluated(self, numbers: Mapping[str, float]) -> None:
        """Print an evaluation; these lines stay on a terminal too."""
        values = "  ".join(f"{name} {value:.4f}" for name, value in numbers.items())
        self._console.print(
            f"step {self._state.step}: held out: {values}", highlight=False, soft_wrap=True
        )

    def _show(self, text: str, done: float) -> None:
        if self.bar.disable:
            self._console.print(f"step {self._state.step}: {text}", highlight=False, soft_wrap=True)
        else:
            self.bar.update(self._row, completed=done, step=self._state.step, text=text)
