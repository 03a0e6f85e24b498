"""The comparison as pictures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare.cells import CONTEXT
from benchmarks.compare.report import Median
from benchmarks.models.tasks import TASKS

_SCALING = ("off", "draft", "routing", "rasd", "vllm", "vllm-ngram", "vllm-suffix")


def plot(found: Sequence[Median], model: str, path: Path) -> None:
    """Three panels: one request by task, many at once, and growing context; greedy all."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    greedy = [entry for entry in found if entry["temperature"] == 0]
    figure, (bars, many, long) = plt.subplots(
        1, 3, figsize=(17, 5), gridspec_kw={"width_ratios": [1.6, 1, 1]}
    )
    _bars(bars, greedy)
    _many(many, greedy)
    _long(long, greedy)
    figure.suptitle(f"{model}, greedy, medians")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _bars(axes: Any, greedy: Sequence[Median]) -> None:
    """A bar per system in a group per task, whiskers from least to most."""
    alone = [e for e in greedy if e["concurrency"] == 1 and e["task"] in TASKS]
    systems = list(dict.fromkeys(e["system"] for e in alone))
    width = 0.85 / max(1, len(systems))
    for place, system in enumerate(systems):
        cells = [e for e in alone if e["system"] == system]
        x = [TASKS.index(e["task"]) + place * width for e in cells]
        rates = [e["rate"] for e in cells]
        low = [e["rate"] - e["rate_spread"][0] for e in cells]
        high = [e["rate_spread"][1] - e["rate"] for e in cells]
        axes.bar(x, rates, width, yerr=[low, high], label=system, error_kw={"lw": 0.7})
    axes.set_xticks([i + 0.4 for i in range(len(TASKS))], TASKS)
    axes.set(ylabel="tokens/s", title="one request at a time")
    axes.legend(fontsize=7, ncols=2)


def _many(axes: Any, greedy: Sequence[Median]) -> None:
    """Tokens per second by how many run together, the median over tasks."""
    for system in _SCALING:
        cells = [e for e in greedy if e["system"] == system and e["task"] in TASKS]
        rates = {
            many: statistics.median(e["rate"] for e in cells if e["concurrency"] == many)
            for many in sorted({e["concurrency"] for e in cells})
        }
        if len(rates) > 1:
            axes.plot(list(rates), list(rates.values()), "o-", label=system)
    axes.set(xlabel="requests at once", ylabel="tokens/s", title="many requests, over the tasks")
    axes.set_xscale("log", base=2)
    axes.legend(fontsize=7)


def _long(axes: Any, greedy: Sequence[Median]) -> None:
    """Tokens per second after the first token, by context."""
    for system in dict.fromkeys(e["system"] for e in greedy if e["task"] == CONTEXT):
        cells = [e for e in greedy if e["system"] == system and e["task"] == CONTEXT]
        cells.sort(key=lambda e: e["length"])
        axes.plot(
            [e["length"] for e in cells], [e["decode_rate"] for e in cells], "o-", label=system
        )
    axes.set(xlabel="tokens of context", ylabel="tokens/s after the first", title="long prompts")
    if axes.lines:
        axes.set_xscale("log", base=2)
        axes.legend(fontsize=7)
