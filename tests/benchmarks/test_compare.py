"""What is measured, of which systems, and how rows are kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import cells, systems
from benchmarks.compare.bench import Bench, Rows, row_of
from benchmarks.compare.cells import CONTEXT, RANDOM, Cell, Plan, Prompts
from benchmarks.compare.protocol import Answer, Job, Outcome
from benchmarks.compare.systems import OURS, SYSTEMS, Models
from rasd.config import parse_config

CELL = Cell("code", 4, 0.0, 4, 8)


@pytest.fixture(autouse=True)
def texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks without the minutes it takes to make them."""
    monkeypatch.setattr(cells, "task_prompts", lambda task, tokenizer: [[i] for i in range(10)])
    monkeypatch.setattr(systems, "corpora", lambda: {"bench": Path("/nowhere.jsonl")})


class Words:
    """A tokenizer of 100 tokens."""

    def __len__(self) -> int:
        return 100


def test_repetitions_have_prompts_of_their_own() -> None:
    prompts = Prompts(Words())
    jobs = [prompts.job(CELL, repetition, "a corpus") for repetition in (0, 1, 2)]
    assert [job.prompts for job in jobs[:2]] == [[[0], [1], [2], [3]], [[4], [5], [6], [7]]]
    assert jobs[2].prompts == [[8], [9], [0], [1]]
    assert (jobs[0].max_tokens, jobs[0].concurrency, jobs[0].corpus) == (8, 4, "a corpus")
    assert len({job.seed for job in jobs}) == 3


def test_random_text_is_the_same_every_time() -> None:
    cell = Cell(RANDOM, 1, 100.0, 2, 8)
    first, second = (Prompts(Words()).job(cell, 0, "") for _ in range(2))
    assert first == second and {len(prompt) for prompt in first.prompts} == {256}
    assert all(2 <= token < 100 for prompt in first.prompts for token in prompt)


def test_a_plan_is_every_task_at_every_concurrency() -> None:
    plan = Plan(("code", RANDOM), (1, 16), (0.0, 1.0), prompts=2, tokens=8, lengths=(64, 4096))
    found = plan.cells(positions=2048)
    assert [(c.task, c.concurrency, c.temperature, c.prompts) for c in found] == [
        ("code", 1, 0.0, 2),
        (RANDOM, 1, 100.0, 2),
        ("code", 1, 1.0, 2),
        ("code", 16, 0.0, 16),
        (RANDOM, 16, 100.0, 16),
        ("code", 16, 1.0, 16),
        (CONTEXT, 1, 0.0, 2),
    ]
    assert len({cell.key for cell in found}) == len(found)


def test_some_systems_answer_one_request_of_a_task_and_no_more() -> None:
    plan = Plan(many=("rasd",))
    assert plan.takes(Cell("code", 1, 0.0, 2, 8), "draft")
    assert not plan.takes(CELL, "draft") and not plan.takes(Cell(RANDOM, 1, 100.0, 2, 8), "draft")
    assert plan.takes(CELL, "rasd")
    hot = Plan(many=("off", "vllm"))
    assert [hot.takes(Cell(RANDOM, 1, 100.0, 2, 8), name) for name in hot.many] == [True, False]


def test_a_row_tells_speed_with_and_without_prompts() -> None:
    answers = [Answer([1, 2, 3, 4], 2, 1, 0.0, 1.0, 2.0), Answer([5, 6], 1, 2, 1.0, 3.0, 3.0)]
    row = row_of(CELL, "rasd", 1, Outcome(3.0, answers, {"step": 4.0}))
    assert (row["tokens"], row["rate"], row["decode_rate"]) == (6, 2.0, 3.0)
    assert (row["acceptance"], row["first_ms"]) == (2.0, 1500.0)
    assert json.loads(json.dumps(row)) == row


class Fake:
    """A worker that answers at once and counts."""

    peak_mb = 1.0

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def run(self, job: Job) -> Outcome:
        self.jobs.append(job)
        return Outcome(1.0, [Answer([1], 1, 1, 0.0, 0.5, 0.5) for _ in job.prompts])

    def close(self) -> None:
        pass


def test_rows_that_are_there_are_not_measured_again(tmp_path: Path) -> None:
    plan = Plan(("code",), (1, 4), (0.0,), prompts=2, tokens=8, lengths=())
    chosen = [SYSTEMS["vllm"], SYSTEMS["transformers"]]
    ran = []
    for repetitions in (1, 2):
        config = tmp_path / "target" / "config.json"
        config.parent.mkdir(exist_ok=True)
        config.write_text('{"max_position_embeddings": 64}')
        rows = Rows(tmp_path / "rows.jsonl")
        bench = Bench(Models.of(str(tmp_path)), Prompts(Words()), rows, tmp_path, quiet=True)
        fakes = {system.name: Fake() for system in chosen}
        bench._workers |= fakes  # type: ignore[arg-type]
        bench.measure(plan, chosen, repetitions)
        ran.append([len(fake.jobs) for fake in fakes.values()])
    assert ran == [[2, 1], [2, 1]]  # transformers know no batches
    assert len([row for row in Rows(tmp_path / "rows.jsonl").rows if row["kind"] == "speed"]) == 6
    assert Rows(tmp_path / "rows.jsonl", fresh=True).rows == []


@pytest.mark.parametrize("name", OURS)
def test_settings_of_ours_are_valid(name: str, tmp_path: Path) -> None:
    models = Models("tiny", tmp_path / "target", tmp_path / "eagle")
    _, settings, _ = systems._MAKERS["ours"](SYSTEMS[name], models)
    config = parse_config(settings["config"])
    assert config.speculation.nodes == systems.NODES
    assert not config.target.prefix_cache
    assert bool(settings["corpora"]) == (name not in ("off", "draft", "prompt"))


def test_workers_of_other_environments_need_the_standard_library_alone() -> None:
    lines = [
        "import sys, benchmarks.compare.vllm, benchmarks.compare.worker",
        "print(*{name.partition('.')[0] for name in sys.modules})",
    ]
    done = subprocess.run(
        [sys.executable, "-S", "-c", "; ".join(lines)], capture_output=True, text=True, check=True
    )
    loaded: set[Any] = set(done.stdout.split())
    assert not loaded & {"numpy", "torch", "rasd", "vllm", "rich"}
