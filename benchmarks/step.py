"""What a step costs at batch 1 on the shipped model, part by part, in process and as a service.

*forward* and *walk* are what the target says it did; *hop* is the rest of the wait for it. The
drafter, the prompt lookup and the corpus are asked at the same time: their columns are the time the
engine waited for each; *extend* is the same behind drafted nodes. *rest* is the engine's own work.
*nodes* were verified per step, and so many sequences were left *undrafted*. Medians over
repetitions, which alternate between the two ways to run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.common import code_prompts, save
from rasd import LLM, SamplingParams

PARTS = ("forward", "walk", "hop", "draft", "prompt", "corpus", "extend", "fuse", "rest", "step")
COUNTS = ("nodes", "undrafted")
Totals = dict[str, tuple[float, int]]
Ask = Callable[[list[int], SamplingParams], tuple[int, int]]


def per_step(before: Totals, after: Totals) -> dict[str, float]:
    """Milliseconds per step of every part between two readings; and what is only counted."""
    steps = after["step"][1] - before["step"][1]
    spent = {part: 1000 * (after[part][0] - before[part][0]) / steps for part in after}
    spent["hop"] = spent["verify"] - spent["forward"] - spent["walk"]
    named = sum(spent[p] for p in ("verify", "draft", "prompt", "corpus", "extend", "fuse"))
    spent["rest"] = spent["step"] - named
    counts = {event: (after[event][1] - before[event][1]) / steps for event in COUNTS}
    return {part: spent[part] for part in PARTS} | counts


def measure(
    ask: Ask, read: Callable[[], Totals], prompts: list[list[int]], params: SamplingParams
) -> dict[str, float]:
    """One repetition: all prompts, one after the other."""
    before, started = read(), time.perf_counter()
    counts = [ask(prompt, params) for prompt in prompts]
    seconds = time.perf_counter() - started
    tokens, steps = (sum(column) for column in zip(*counts, strict=True))
    return {
        **per_step(before, read()),
        "tokens_per_s": tokens / seconds,
        "tokens_per_step": tokens / steps,
    }


def in_process(llm: LLM) -> tuple[Ask, Callable[[], Totals]]:
    """Asks the engine in this process."""
    timings = llm._engine.timings

    def ask(prompt: list[int], params: SamplingParams) -> tuple[int, int]:
        found = llm.generate([prompt], params)[0].outputs[0].statistics
        return found.tokens, found.steps

    return ask, timings.totals


def as_service() -> tuple[Ask, Callable[[], Totals]]:
    """Starts the shipped application on a cluster of its own, and asks through its handle."""
    import ray
    from ray import serve

    from actors.app import build

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": 8123})
    handle = serve.run(build({}), name="rasd", _local_testing_mode=False)
    names = ("max_tokens", "temperature", "speculation", "ignore_eos")
    corpora_deadline = time.monotonic() + 300

    def ask(prompt: list[int], params: SamplingParams) -> tuple[int, int]:
        given = {name: getattr(params, name) for name in names}
        result = handle.generate.remote(prompt, **given).result(timeout_s=300)
        found = result.choices[0].statistics
        return found.tokens, found.steps

    probe = SamplingParams(max_tokens=8, temperature=0.0, speculation="corpus", ignore_eos=True)
    while True:  # the corpus comes a little later than the text
        result = handle.generate.remote(
            "import os\nimport", max_tokens=8, temperature=0.0, speculation=probe.speculation
        ).result(timeout_s=300)
        if result.choices[0].statistics.nodes or time.monotonic() > corpora_deadline:
            return ask, lambda: handle.engine_timings.remote().result(timeout_s=60)


def table(result: dict[str, Any]) -> Table:
    """Milliseconds per step by part."""
    out = Table(title="one step at batch 1, ms")
    columns = (*PARTS, *COUNTS, "tokens_per_step", "tokens_per_s")
    for column in ("where", "mode", *columns):
        out.add_column(column, justify="left" if column in ("where", "mode") else "right")
    for where, modes in result.items():
        for mode, found in modes.items():
            out.add_row(where, mode, *(f"{found[column]:.2f}" for column in columns))
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    llm = LLM()
    ways = {"in process": in_process(llm), "service": as_service()}
    prompts = code_prompts(llm, options.prompts)
    runs: dict[str, dict[str, list[dict[str, float]]]] = {}
    for repetition in range(options.repetitions + 1):
        for mode in ("off", "draft", "prompt", "corpus", "rasd"):
            params = SamplingParams(
                max_tokens=options.tokens, temperature=0.0, speculation=mode, ignore_eos=True
            )
            for where, (ask, read) in ways.items():
                found = measure(ask, read, prompts, params)
                if repetition:  # the first warms up
                    runs.setdefault(where, {}).setdefault(mode, []).append(found)
    result = {
        where: {
            mode: {key: statistics.median(run[key] for run in found) for key in found[0]}
            for mode, found in modes.items()
        }
        for where, modes in runs.items()
    }
    save("step", {"settings": vars(options), "median": result})
    Console(width=150).print(table(result))


if __name__ == "__main__":
    main()
