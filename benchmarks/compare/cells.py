"""What is measured: the cells of the table, which systems stand in each, and their prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from benchmarks.compare.protocol import Job
from benchmarks.compare.texts import corpora, corpus_of, task_prompts
from benchmarks.models.tasks import TASKS

RANDOM: Final = "random"
CONTEXT: Final = "context"
MANY: Final = (
    *("off", "draft", "routing", "rasd-paper", "rasd"),
    *("vllm", "vllm-ngram", "vllm-suffix", "vllm-eagle"),
    *("http-off", "http-rasd", "http-vllm", "http-vllm-ngram", "http-vllm-suffix"),
    "http-vllm-eagle",
)
_HOT: Final = 100.0
"""A temperature at which any token may come: text that nobody can predict."""


@dataclass(frozen=True)
class Cell:
    """One row of the table, for every system that can run it.

    Attributes:
        task: one of TASKS; RANDOM, which is drawn so hot that nothing can be predicted; or
            CONTEXT, documents of ``length`` tokens that are continued.
        prompts: how many; tokens: how long each answer is.
    """

    task: str
    concurrency: int
    temperature: float
    prompts: int
    tokens: int
    length: int = 0

    @property
    def key(self) -> str:
        """Its name on disk."""
        parts = (self.task, self.concurrency, self.temperature, self.prompts, self.tokens)
        return "/".join(map(str, (*parts, self.length)))


@dataclass
class Prompts:
    """Held-out prompts by task, the same for every system, other ones in each repetition."""

    tokenizer: Any
    _known: dict[str, list[list[int]]] = field(default_factory=dict)

    def job(self, cell: Cell, repetition: int, corpus: str) -> Job:
        """What a system runs for a cell; a negative repetition is for warming up."""
        found = self._of(cell)
        first = repetition * cell.prompts
        chosen = [found[(first + i) % len(found)] for i in range(cell.prompts)]
        seed = 1000 * (repetition + 1)
        return Job(chosen, cell.tokens, cell.concurrency, cell.temperature, seed, corpus)

    def _of(self, cell: Cell) -> list[list[int]]:
        name = f"{cell.task}{cell.length or ''}"
        if name not in self._known:
            self._known[name] = self._make(cell)
        return self._known[name]

    def _make(self, cell: Cell) -> list[list[int]]:
        if cell.task in TASKS:
            return task_prompts(cell.task, self.tokenizer)
        rng = np.random.default_rng(0)
        if cell.task == RANDOM:
            drawn = rng.integers(2, len(self.tokenizer), (128, 256))
            return [row.tolist() for row in drawn]
        lines = corpora()[corpus_of("code")].read_text().splitlines()
        texts = [json.loads(line)["text"] for line in lines]
        order = rng.permutation(len(texts)).tolist()
        return [self._long(texts, order[i::8], cell.length) for i in range(8)]

    def _long(self, texts: Sequence[str], order: Sequence[int], length: int) -> list[int]:
        ids: list[int] = []
        for index in order:
            ids += self.tokenizer(texts[index], add_special_tokens=False)["input_ids"]
            if len(ids) >= length:
                break
        return ids[:length]


@dataclass(frozen=True)
class Plan:
    """Which cells there are.

    Attributes:
        many: systems that also run several requests at once, random text and long prompts.
        prompts: per cell, at least as many as run at once; tokens: of each answer.
        lengths: of long prompts.
    """

    tasks: tuple[str, ...] = (*TASKS, RANDOM)
    concurrency: tuple[int, ...] = (1, 4, 16, 64)
    temperatures: tuple[float, ...] = (0.0, 1.0)
    prompts: int = 8
    tokens: int = 128
    lengths: tuple[int, ...] = (256, 1024, 2048, 4096, 7936)
    many: tuple[str, ...] = MANY

    def takes(self, cell: Cell, system: str) -> bool:
        """Whether a system has a row in this cell; vLLM refuses to draw as hot as random text."""
        if cell.task == RANDOM and "vllm" in system:
            return False
        return system in self.many or (cell.concurrency == 1 and cell.task in TASKS)

    def cells(self, positions: int) -> list[Cell]:
        """All of them, for a model of so many positions."""
        made = [
            Cell(task, concurrency, _HOT if task == RANDOM else temperature, count, self.tokens)
            for concurrency in self.concurrency
            for temperature in self.temperatures
            for task in self.tasks
            for count in [max(self.prompts, concurrency)]
            if task != RANDOM or temperature == self.temperatures[0]
        ]
        fitting = [n for n in self.lengths if n + self.tokens <= positions]
        return made + [Cell(CONTEXT, 1, 0.0, 2, self.tokens, length) for length in fitting]
