"""Drives a target by hand, the way an engine would, with proposals of every quality."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from rasd.params import SamplingParams
from rasd.stages import Admission, Features, Target, Verified, VerifyRequest, Work

GREEDY = SamplingParams(temperature=0.0, seed=0, max_tokens=64)


@dataclass
class Sink:
    """Keeps all features."""

    got: list[Features] = field(default_factory=list)

    def put(self, features: Features) -> None:
        self.got.append(features)


def chain(tokens: list[int]) -> tuple[list[int], list[int]]:
    return list(tokens), list(range(-1, len(tokens) - 1))


def work_of(sequence: int, tokens: list[int], parents: list[int], decided: int, draw: bool) -> Work:
    return Work(
        sequence, np.asarray(tokens, np.int32), np.asarray(parents, np.int32), decided, draw
    )


def propose(
    rng: np.random.Generator, decided: list[int], future: list[int], vocabulary: int
) -> tuple[list[int], list[int]]:
    """A random tree below the last decided token; ``future`` is what would be accepted.

    Grows from any node, along the true text, beside it, and into nonsense.
    """
    tokens, parents = chain(decided)
    taken = {}
    on_path = {len(decided) - 1: 0}  # node -> how much of the future led to it
    for _ in range(int(rng.integers(0, 12))):
        parent = int(rng.integers(len(decided) - 1, len(tokens)))
        at = on_path.get(parent)
        right = at is not None and at < len(future) and rng.random() < 0.7
        token = future[at] if right else int(rng.integers(vocabulary))
        if (parent, token) in taken:
            continue
        node = taken[parent, token] = len(tokens)
        if at is not None and at < len(future) and token == future[at]:
            on_path[node] = at + 1
        tokens.append(token)
        parents.append(parent)
    return tokens, parents


@dataclass
class Run:
    """One sequence being generated; ``expected`` is its text without speculation."""

    sequence: int
    prompt: list[int]
    expected: list[int]
    text: list[int] = field(default_factory=list)
    entered: int = 0  # tokens of the prompt that are in the cache
    steps: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def done(self) -> bool:
        return len(self.text) >= len(self.expected)

    def next_work(self, rng: np.random.Generator, vocabulary: int) -> Work:
        if self.entered < len(self.prompt):
            left = self.prompt[self.entered :]
            chunk = left[: int(rng.integers(1, 12))]
            self.entered += len(chunk)
            if self.entered < len(self.prompt):
                return work_of(self.sequence, *chain(chunk), len(chunk), False)
            decided = chunk
        else:
            decided = [self.text[-1]]
        future = self.expected[len(self.text) :]
        tokens, parents = propose(rng, decided, future, vocabulary)
        return work_of(self.sequence, tokens, parents, len(decided), True)

    def take(self, work: Work, result: Verified) -> None:
        assert not result.error, result.error
        assert result.sequence == self.sequence
        self.steps += 1
        if work.draw:
            path = work.tokens[result.path].tolist()
            assert path == result.tokens[:-1].tolist()
            self.drafted += len(work.tokens) - work.decided
            self.accepted += len(path)
            self.text += result.tokens.tolist()
        else:
            assert len(result.tokens) == 0
            assert result.slots == -1 or self.entered < result.slots < len(self.prompt)
            self.entered = max(self.entered, result.slots)


def drive(target: Target, runs: list[Run], seed: int, params: SamplingParams = GREEDY) -> int:
    """Generates all runs; they join at random steps and leave when done. Returns the steps."""
    rng = np.random.default_rng(seed)
    waiting, running, leaving, steps = list(runs), [], [], 0
    while waiting or running:
        admit = []
        while waiting and (not running or rng.random() < 0.4):
            run = waiting.pop(0)
            running.append(run)
            prompt = np.asarray(run.prompt, np.int32)
            admit.append(Admission(run.sequence, prompt, np.zeros(0, np.int32), params))
        works = [run.next_work(rng, target.info.vocabulary) for run in running]
        reply = target.verify(VerifyRequest(steps, leaving, admit, works)).wait(1.0)
        assert reply.step == steps
        for run, work, result in zip(running, works, reply.results, strict=True):
            run.take(work, result)
        leaving = [run.sequence for run in running if run.done]
        running = [run for run in running if not run.done]
        steps += 1
    target.verify(VerifyRequest(steps, leaving, [], []))
    return steps


def generate(model: torch.nn.Module, prompt: list[int], count: int) -> list[int]:
    """transformers' own greedy text."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=count,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()
