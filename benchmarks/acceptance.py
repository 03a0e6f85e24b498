"""Acceptance length of every mode at one node budget, on text the target has not seen.

Tasks: *code* (held-out modules continued), *questions* (docstrings asked for in chat, of modules
in the corpus) and *new questions* (of held-out modules). Greedy, float32. All modes must say the
same; where two scores tie within float32's rounding they may part, which is counted.
"""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.common import code_prompts, question_prompts, save
from rasd import LLM, SamplingParams
from rasd.params import SPECULATIONS

TASKS = ("code", "questions", "new questions")


def prompts_of(llm: LLM, task: str, count: int) -> list[list[int]]:
    """The prompts of one task."""
    if task == "code":
        return code_prompts(llm, count)
    return question_prompts(llm, count, held_out=task == "new questions")


def measure(llm: LLM, prompts: list[list[int]], mode: str, nodes: int, tokens: int) -> Any:
    """One mode on one task: totals over all prompts, and what was said."""
    params = SamplingParams(
        max_tokens=tokens, temperature=0.0, ignore_eos=False, speculation=mode, nodes=nodes
    )
    answers = [request.outputs[0] for request in llm.generate(prompts, params)]
    found = [answer.statistics for answer in answers]
    steps = sum(one.steps for one in found)
    return {
        "acceptance_length": sum(one.tokens for one in found) / steps,
        "nodes_per_step": sum(one.nodes for one in found) / steps,
        "accepted": {key: sum(one.accepted[key] for one in found) for key in found[0].accepted},
        "drafted": {key: sum(one.drafted[key] for one in found) for key in found[0].drafted},
        "steps": steps,
    }, [answer.token_ids for answer in answers]


def run(llm: LLM, count: int, tokens: int, nodes: int) -> dict[str, Any]:
    """Every task in every mode."""
    result: dict[str, Any] = {}
    for task in TASKS:
        prompts = prompts_of(llm, task, count)
        result[task] = {}
        plain: list[list[int]] = []
        for mode in SPECULATIONS:
            result[task][mode], said = measure(llm, prompts, mode, nodes, tokens)
            plain = plain or said
            parted = sum(one != other for one, other in zip(plain, said, strict=True))
            result[task][mode]["answers_unlike_plain"] = parted
    return result


def table(result: dict[str, Any], nodes: int) -> Table:
    """Acceptance length by task and mode."""
    out = Table(title=f"acceptance length, {nodes} nodes beside the root")
    out.add_column("task")
    for mode in SPECULATIONS:
        out.add_column(mode, justify="right")
    for task, modes in result.items():
        out.add_row(task, *(f"{modes[mode]['acceptance_length']:.2f}" for mode in SPECULATIONS))
    return out


def plot(result: dict[str, Any], nodes: int) -> None:
    """The same as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from benchmarks.common import RESULTS

    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    width = 0.8 / len(SPECULATIONS)
    for i, mode in enumerate(SPECULATIONS):
        heights = [result[task][mode]["acceptance_length"] for task in TASKS]
        bars = axes.bar([x + i * width for x in range(len(TASKS))], heights, width, label=mode)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(TASKS))], TASKS)
    axes.set_ylabel("tokens per target forward")
    axes.set_title(f"Acceptance length, {nodes} nodes per tree", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=5, fontsize=8, frameon=False, loc="upper center")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.15)
    figure.savefig(RESULTS / "acceptance.png", dpi=160)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=48, help="per task")
    parser.add_argument("--tokens", type=int, default=96, help="new tokens per prompt")
    parser.add_argument("--nodes", type=int, default=32, help="budget beside the root")
    options = parser.parse_args()
    llm = LLM(dtype="float32")
    result = run(llm, options.prompts, options.tokens, options.nodes)
    save("acceptance", {"settings": vars(options), "tasks": result})
    plot(result, options.nodes)
    Console().print(table(result, options.nodes))


if __name__ == "__main__":
    main()
