"""The training loop: limits, schedule, resume."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rasd.train.batches import Corpus
from rasd.train.loop import CHECKPOINT, Plan, State, train
from rasd.train.optimizers import make_optimizers
from rasd.train.target import TargetTask, export_target
from rasd.train.tokenizer import train_tokenizer

SEED = 5


class Recorded:
    """A task that learns a random linear map, and remembers its losses."""

    def __init__(self) -> None:
        torch.manual_seed(SEED)
        self.module: nn.Module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        self.optimizers = make_optimizers(self.module, 0.02)
        self.losses: list[float] = []

    def loss(self, generator: torch.Generator) -> tuple[Tensor, int]:
        x = torch.randn(16, 6, generator=generator)
        loss = (self.module(x) - x[:, :3]).square().mean()
        self.losses.append(loss.item())
        return loss, 16

    def evaluate(self) -> dict[str, float]:
        return {"training": float(self.module.training)}


def plan(directory: Path, **changes: object) -> Plan:
    return replace(Plan(directory, steps=12, warmup=3, save_every=4, evaluate_every=6), **changes)


def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    whole = Recorded()
    train(whole, plan(tmp_path / "whole"))

    class Stopped(RuntimeError):
        pass

    def stop(state: State) -> None:
        if state.step == 8:
            raise Stopped

    first, second = Recorded(), Recorded()
    with pytest.raises(Stopped):
        train(first, plan(tmp_path / "parts"), stop)
    torch.randn(5)
    state = train(second, plan(tmp_path / "parts"))
    assert first.losses + second.losses == whole.losses
    assert (state.step, state.tokens) == (12, 12 * 16)
    assert list(state.evaluations) == ["6", "12"]
    for a, b in zip(second.module.parameters(), whole.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_loss_falls_and_the_finished_run_does_nothing(tmp_path: Path) -> None:
    task = Recorded()
    train(task, plan(tmp_path, steps=40))
    assert task.losses[-1] < 0.8 * task.losses[0]
    again = Recorded()
    assert train(again, plan(tmp_path, steps=40)).step == 40
    assert again.losses == []


def test_rate_rises_stays_and_falls_to_zero(tmp_path: Path) -> None:
    settings = Plan(tmp_path, steps=100, warmup=10, decay=0.4)
    rates = [settings.rate(State(step=step)) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:60] == [1.0] * 51
    assert rates[80] == pytest.approx(0.5)
    assert rates[100] == 0


def test_nearer_limit_counts(tmp_path: Path) -> None:
    settings = Plan(tmp_path, steps=100, minutes=1)
    assert settings.progress(State(step=10, seconds=30)) == pytest.approx(0.5)
    assert settings.progress(State(step=90, seconds=30)) == pytest.approx(0.9)


def test_time_limit_ends_the_run(tmp_path: Path) -> None:
    state = train(Recorded(), plan(tmp_path, steps=None, minutes=0.002))
    assert state.step > 0
    assert state.seconds >= 0.12


def test_no_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a limit"):
        train(Recorded(), plan(tmp_path, steps=None))


def test_other_models_checkpoint_is_refused(tmp_path: Path) -> None:
    train(Recorded(), plan(tmp_path, steps=1))
    other = Recorded()
    other.module = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="belongs to another model"):
        train(other, plan(tmp_path))


def test_checkpoint_is_one_safetensors_file(tmp_path: Path) -> None:
    train(Recorded(), plan(tmp_path, steps=2))
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    with safe_open(tmp_path / CHECKPOINT, framework="pt") as file:
        assert {"muon.0.weight/momentum_buffer", "adamw.0.bias/exp_avg"} < set(file.keys())


def test_target_trains_exports_and_loads(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["def f(x): return x\n"] * 20, vocabulary=280)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    stream = torch.arange(200, dtype=torch.int32) % len(tokenizer)
    task = TargetTask(model, Corpus(stream, stream), Corpus(stream, stream), window=32)
    state = train(task, plan(tmp_path / "run", steps=3))
    assert state.tokens == 3 * 8 * 32
    export_target(model, tokenizer, tmp_path / "export")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "export", local_files_only=True)
    assert loaded.dtype == torch.bfloat16
    assert loaded.generation_config.eos_token_id == [1]
    assert AutoTokenizer.from_pretrained(tmp_path / "export").eos_token_id == 1
    assert not list(tmp_path.glob(".*"))
