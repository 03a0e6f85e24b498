"""What a forward of the target costs, beside the products it cannot do without.

*bare* multiplies weights of the same shapes, laid out in the same way, by as many rows and does
nothing else; *packed* is our decoder over the KV cache, *transformers* the model's own modules over
the same cache. All three alternate. Each cell is a tree of some rows behind a context, times
sequences; milliseconds, medians. ``--ranks`` measures two tensor-parallel processes beside one, and
what their sums cost alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig

from benchmarks.common import save
from benchmarks.models.paths import target as target_path
from rasd.config import TargetConfig
from rasd.forward import Linear
from rasd.kv import Append
from rasd.stages import Work
from rasd.target import LocalTarget

CELLS = [
    *((1, rows, 256) for rows in (1, 2, 4, 8, 16, 32, 64)),
    *((16, 1, context) for context in (256, 1024)),
    *((4, 1, 256), (4, 16, 256), (1, 1, 1900), (1, 16, 1900)),
]
"""Sequences, rows of each, tokens of context of each."""

FORWARDS = ("packed", "transformers")
REPETITIONS = 15
Cell = tuple[int, int, int]


def products(model: str, dtype: torch.dtype) -> Callable[[int], None]:
    """The model's products alone, by rows."""
    config = AutoConfig.from_pretrained(model)
    hidden, inner = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads * config.head_dim
    kv_heads = config.num_key_value_heads * config.head_dim
    shapes = [(heads + 2 * kv_heads, hidden), (hidden, heads), (2 * inner, hidden), (hidden, inner)]
    shapes = [*shapes * config.num_hidden_layers, (config.vocab_size, hidden)]
    layers = [Linear(torch.randn(shape, dtype=dtype)) for shape in shapes]

    def run(rows: int) -> None:
        for layer in layers:
            layer(torch.ones(rows, layer.inputs, dtype=dtype))

    return run


def step_of(target: LocalTarget, cell: Cell) -> Callable[[], None]:
    """A forward of the cell's trees, repeatable; opens the sequences."""
    sequences, rows, context = cell
    for sequence in range(sequences):
        target.cache.open(sequence)
        target.cache.plan([Append(sequence, np.arange(-1, context - 1, dtype=np.int32))])
        target.cache.commit(sequence, range(context))
    parents = np.asarray([-1, *((node - 1) // 2 for node in range(1, rows))], np.int32)
    tokens = np.arange(5, 5 + rows, dtype=np.int32)
    works = [Work(sequence, tokens, parents, 1, True) for sequence in range(sequences)]

    def run() -> None:
        target._runner.forward(works)
        target.cache.commit_all({sequence: [] for sequence in range(sequences)})

    return run


def measure(ways: dict[str, Callable[[], None]], repetitions: int) -> dict[str, float]:
    """Median milliseconds of every way; they alternate."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions + 2):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if repetition > 1:
                spent[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(times) for name, times in spent.items()}


def config_of(options: argparse.Namespace, **settings: Any) -> TargetConfig:
    base = {"model": options.model, "dtype": options.dtype, "threads": options.threads}
    return TargetConfig(**base | {"kv_slots": 20_480, "prefix_cache": False} | settings)


def cells(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per cell."""
    targets = {name: LocalTarget.load(config_of(options, forward=name)) for name in FORWARDS}
    bare = products(options.model, targets["packed"].cache.states(0)[0].dtype)
    found: list[dict[str, Any]] = []
    for cell in CELLS:
        steps = {name: step_of(target, cell) for name, target in targets.items()}
        steps["bare"] = lambda rows=cell[0] * cell[1]: bare(rows)
        times = measure(steps, options.repetitions)
        found.append(dict(zip(("sequences", "rows", "context"), cell, strict=True)) | times)
        for target in targets.values():
            for sequence in range(cell[0]):
                target.cache.close(sequence)
    return found


def rank(number: int, options: argparse.Namespace, store: str, pipe: Any) -> None:
    """One of two ranks: sends milliseconds of a step and of one sum of as many numbers."""
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=number, world_size=2
    )
    target = LocalTarget.load(config_of(options, threads=1, tensor_parallel=2))
    step = step_of(target, (1, 16, 256))
    rows = torch.ones(16, target.info.feature_size, dtype=target.cache.states(0)[0].dtype)
    times = measure(
        {"step": step, "sum": lambda: torch.distributed.all_reduce(rows)}, options.repetitions
    )
    pipe.send(times)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def ranks(options: argparse.Namespace) -> dict[str, float]:
    """A step of 16 rows by two ranks, by one process with one thread, and a sum."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe() for _ in range(2)]
        processes = [
            context.Process(
                target=rank, args=(number, options, f"{folder}/store", pipes[number][1])
            )
            for number in range(2)
        ]
        for process in processes:
            process.start()
        times = next(receiver.recv() for receiver, _ in pipes)
        for process in processes:
            process.join()
    alone = LocalTarget.load(config_of(options, threads=1))
    one = measure({"one": step_of(alone, (1, 16, 256))}, options.repetitions)["one"]
    sums = 2 * len(alone.cache) * times["sum"]
    limit = one + sums
    return {"one": one, **times, "sums": sums, "ratio": times["step"] / limit}


def table(rows: list[dict[str, Any]]) -> Table:
    out = Table(title="one forward, ms")
    names = ("sequences", "rows", "context", "bare", *FORWARDS)
    for name in (*names, "packed / bare"):
        out.add_column(name, justify="right")
    for row in rows:
        times = [f"{row[name]:.2f}" for name in names[3:]]
        out.add_row(
            *(str(row[name]) for name in names[:3]), *times, f"{row['packed'] / row['bare']:.2f}"
        )
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(target_path("100m")))
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument(
        "--ranks", action="store_true", help="two tensor-parallel processes instead"
    )
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/forward.json")
    options = parser.parse_args()
    if options.ranks:
        result: dict[str, Any] = {"ranks": ranks(options)}
        Console().print(result)
    else:
        result = {"cells": cells(options)}
        Console().print(table(result["cells"]))
    if options.save:
        save("forward-ranks" if options.ranks else "forward", result)


if __name__ == "__main__":
    main()
