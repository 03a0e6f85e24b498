"""Two tensor-parallel ranks over gloo give the text of one process, and of transformers."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rasd.config import TargetConfig
from rasd.params import SamplingParams
from rasd.stages import Admission, Ready, Target, VerifyReply, VerifyRequest, Work
from rasd.target import LocalTarget
from rasd.target.ranks import Ranks
from rasd.target.target import _agree
from rasd.verify import Walk
from tests.kv.models import VOCABULARY, build
from tests.target.conftest import Loader
from tests.target.steps import GREEDY, Run, Sink, chain, drive, work_of
from tests.worlds import check_greedy, said_by

SAMPLED = SamplingParams(temperature=0.8, seed=11, top_k=20)
PROMPTS = {1: list(range(5, 29)), 2: [7, 3, 90]}
STEPS = 12


def requests(texts: dict[int, list[int]], step: int) -> VerifyRequest:
    """The same on every rank, whatever it answered: made from the first rank's texts."""
    works: list[Work] = []
    for sequence, prompt in PROMPTS.items():
        if step == 0:
            works.append(work_of(sequence, *chain(prompt), len(prompt), True))
        else:
            root = texts[sequence][-1]
            guess = [texts[sequence][max(0, step - 5)], 4, 5]
            works.append(work_of(sequence, [root, *guess], [-1, 0, 1, 0], 1, True))
    none = np.zeros(0, np.int32)
    admit = [
        Admission(1, np.asarray(PROMPTS[1], np.int32), none, GREEDY, features=True),
        Admission(2, np.asarray(PROMPTS[2], np.int32), none, SAMPLED),
    ]
    bad = [work_of(3, [1], [-1], 1, True)]
    return VerifyRequest(step, [], admit if step == 0 else [], works + bad)


class Shared:
    """A rank of a target that answers as the first one does, so that all are asked the same."""

    def __init__(self, target: LocalTarget) -> None:
        self._target, self.info = target, target.info
        self.restored = 0

    def verify(self, request: VerifyRequest) -> Ready[VerifyReply]:
        reply = self._target.verify(request).wait(1.0)
        self.restored += reply.restored
        shared = [reply.results]
        torch.distributed.broadcast_object_list(shared, 0)
        return Ready(replace(reply, results=shared[0]))

    def close(self) -> None:
        self._target.close()


def generate(target: LocalTarget, asked: Target) -> tuple[dict[int, list[int]], list[int]]:
    """Texts by sequence, and lengths in the cache; ``asked`` answers alike on every rank."""
    texts: dict[int, list[int]] = {sequence: [] for sequence in PROMPTS}
    lengths: list[int] = []
    for step in range(STEPS):
        results = asked.verify(requests(texts, step)).wait(1.0).results
        assert "unknown" in results[2].error
        for result in results[:2]:
            texts[result.sequence] += result.tokens.tolist()
        lengths += [target.cache.length(sequence) for sequence in PROMPTS]
    asked.verify(VerifyRequest(STEPS, list(PROMPTS), [], []))
    target.cache.check_integrity()
    return texts, lengths


def rank(number: int, model: str, store: str, runs: list[Run], seed: int, pipe) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=number, world_size=2
    )
    sink = Sink()
    config = TargetConfig(
        model=model,
        threads=1,
        kv_slots=1024,
        page_size=4,
        dtype="float32",
        tensor_parallel=2,
        forward="packed",  # or transformers' modules would answer for what ours gets wrong
    )
    target = LocalTarget.load(config, features=sink)
    texts, lengths = generate(target, Shared(target))
    rows = np.concatenate([features.rows for features in sink.got]) if sink.got else None
    drive(Shared(target), runs, seed)
    again = [replace(run, sequence=run.sequence + 100, text=[], entered=0) for run in runs]
    shared = Shared(target)
    drive(shared, again, seed)
    assert shared.restored > 0
    target.cache.check_integrity()
    assert target.cache.pool.available == target.cache.pool.pages
    pipe.send((texts, lengths, rows, [spec.kv_heads for spec in target.cache.specs], runs + again))
    torch.distributed.destroy_process_group()


def test_the_other_ranks_learn_paths_and_faults() -> None:
    works = [work_of(1, [5, 6, 7], [-1, 0, 1], 1, True), work_of(2, [5], [-1], 1, True)]
    sent = []

    class Pair(Ranks):
        def __init__(self, first: bool) -> None:
            self.first = first

        def agree(self, numbers: np.ndarray) -> np.ndarray:
            if self.first:
                sent.append(numbers)
            assert numbers.shape == sent[0].shape
            return sent[0]

    walks = [Walk([1, 2], [6, 7, 8], []), "no draw"]
    assert _agree(Pair(True), works, walks) is walks
    learned = _agree(Pair(False), works, ["", ""])
    assert learned == [Walk([1, 2], [], []), "failed on rank 0"]


def start_ranks(model: Path, store: Path, runs: list[Run], seed: int) -> list[tuple]:
    """What two ranks have to say."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(2)]
    ranks = [
        context.Process(
            target=rank, args=(number, str(model), str(store), runs, seed, pipes[number][1])
        )
        for number in range(2)
    ]
    for process in ranks:
        process.start()
    try:
        for receiver, sender in pipes:
            sender.close()
            assert receiver.poll(120)
        return [receiver.recv() for receiver, _ in pipes]
    finally:
        for process in ranks:
            process.join(10)
            process.kill()


@pytest.mark.parametrize("name", ["llama", pytest.param("qwen3", marks=pytest.mark.slow)])
def test_two_ranks_give_the_text_of_one(
    name: str, load: Loader, saved: Callable[[str], Path], tmp_path: Path, seed: int
) -> None:
    sink = Sink()
    alone = load(name, sink)
    expected, lengths = generate(alone, alone)
    rows = np.concatenate([features.rows for features in sink.got])
    rng = np.random.default_rng(seed)
    plain = build(name, "sdpa")
    prompts = [rng.integers(0, VOCABULARY, int(rng.integers(1, 45))).tolist() for _ in range(8)]
    said = [said_by(plain, prompt, 24) for prompt in prompts]
    runs = [Run(i, prompt, said[i][0]) for i, prompt in enumerate(prompts)]
    answers = start_ranks(saved(name), tmp_path / "store", runs, seed)
    for number, (texts, found, features, heads, driven) in enumerate(answers):
        assert texts == expected
        assert found == lengths
        assert heads == [1, 1, 1]
        if number == 0:
            np.testing.assert_allclose(features, rows, atol=1e-3, rtol=1e-3)
        else:
            assert features is None
        for run, (tokens, leads) in zip(driven, said * 2, strict=True):
            check_greedy(run.text[: len(tokens)], tokens, leads)
        assert sum(run.drafted for run in driven) > sum(run.accepted for run in driven) > 0
