"""A worker that holds `rasd.LLM`, stepped so that requests enter one by one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.compare.protocol import Job, Outcome
from benchmarks.compare.worker import drive, serve
from rasd import LLM, SamplingParams
from rasd.config import CorpusConfig, parse_config
from rasd.engine.api import Output, Request
from rasd.stages import Admission, VerifyRequest, Work
from rasd.text import TextStream


@dataclass
class _Asked:
    """A prompt on its way: its place in the job, and its text, which vLLM makes, too."""

    number: int
    stream: TextStream


class Ours:
    """RASD's engine, stepped."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._llm = LLM(
            settings["model"],
            dtype=settings["dtype"],
            drafter=settings["drafter"],
            corpora=[CorpusConfig(**corpus) for corpus in settings["corpora"]] or None,
            settings=parse_config(settings["config"]),
        )
        self._engine = self._llm._engine  # no public way lets requests enter while others run
        self._mode = settings["config"]["speculation"]["mode"]
        self._numbers = itertools.count(1 << 40)
        self._asked: dict[int, _Asked] = {}
        self._nodes = self._steps = 0

    def add(self, number: int, job: Job) -> None:
        """Takes in one prompt."""
        params = SamplingParams(
            max_tokens=job.max_tokens,
            temperature=job.temperature,
            seed=job.seed + number,
            ignore_eos=True,
            speculation=self._mode,
            corpora=tuple({job.corpus} & {*self._llm.corpora}),
        )
        sequence = next(self._numbers)
        self._asked[sequence] = _Asked(number, TextStream(self._llm.tokenizer, ()))
        self._engine.add(Request(sequence, np.asarray(job.prompts[number], np.int32), params))

    def step(self) -> list[tuple[int, list[int], bool]]:
        """What one step of the engine brought."""
        return [self._take(output) for output in self._engine.step()]

    def _take(self, output: Output) -> tuple[int, list[int], bool]:
        asked = self._asked[output.sequence]
        done = output.finish is not None
        if output.finish == "error":
            raise RuntimeError(output.error)
        asked.stream.push(output.tokens, final=done)
        if done:
            del self._asked[output.sequence]
            self._nodes += output.statistics.nodes
            self._steps += output.statistics.steps
        return asked.number, output.tokens, done

    def run(self, job: Job) -> Outcome:
        """Runs a job. ``parts`` are the step's timings and ``nodes`` per sequence and step."""
        self._nodes = self._steps = 0
        before = _totals(self._engine.timings)
        outcome = drive(self, job)
        while self._engine.has_work:  # stages forget what has ended
            self._engine.step()
        outcome.parts = _per_step(before, _totals(self._engine.timings))
        outcome.parts["nodes"] = self._nodes / max(self._steps, 1)
        return outcome

    def curve(self, context: int, sizes: list[int], repetitions: int = 9) -> list[list[float]]:
        """Milliseconds of a forward of one tree by its rows, behind ``context`` random tokens."""
        target, sequence = self._llm._stages.target, next(self._numbers)
        rng = np.random.default_rng(0)
        vocabulary = target.info.vocabulary
        params = SamplingParams(temperature=0.0, seed=0, max_tokens=4096)

        def forward(rows: int, decided: int) -> float:
            tokens = rng.integers(2, vocabulary, rows, dtype=np.int32)
            parents = np.arange(-1, rows - 1) if decided > 1 else np.zeros(rows)
            parents[0] = -1
            work = Work(sequence, tokens, parents.astype(np.int32), decided, decided == 1)
            return 1000 * target.verify(VerifyRequest(0, [], [], [work])).wait(60).forward_s

        prompt = np.zeros(0, np.int32)
        admission = Admission(sequence, prompt, prompt, params)
        target.verify(VerifyRequest(0, [], [admission], [])).wait(60)
        for _ in range(context // 64):
            forward(64, 64)
        times = {size: [forward(size, 1) for _ in range(repetitions)] for size in sizes}
        target.verify(VerifyRequest(0, [sequence], [], [])).wait(60)
        return [[size, float(np.median(found))] for size, found in times.items()]

    def close(self) -> None:
        """Frees the stages."""
        self._llm.close()


def _totals(timings: Any) -> dict[str, float]:
    return {**timings.seconds, "steps": timings.counts["step"]}


def _per_step(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    spent = {part: after[part] - before[part] for part in after}
    steps = max(spent.pop("steps"), 1)
    return {**{part: 1000 * seconds / steps for part, seconds in spent.items()}, "steps": steps}


def main() -> None:
    """Serves the bench."""
    serve(Ours)


if __name__ == "__main__":
    main()
