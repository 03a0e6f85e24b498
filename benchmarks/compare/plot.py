"""The comparison as pictures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.compare.cells import CONTEXT
from benchmarks.compare.report import Median
from benchmarks.models.tasks import TASKS

_COLOURS: Final = {
    "off": "#7f7f7f",
    "draft": "#c49c94",
    "prompt": "#dbc38a",
    "corpus": "#e7a35b",
    "routing": "#e377c2",
    "rasd-paper": "#ff9896",
    "rasd": "#d62728",
    "vllm": "#08306b",
    "vllm-ngram": "#2171b5",
    "vllm-suffix": "#6baed6",
    "vllm-eagle": "#c6dbef",
    "transformers": "#00441b",
    "transformers-lookup": "#41ab5d",
    "transformers-assisted": "#a1d99b",
}
_SCALING: Final = ("off", "draft", "routing", "rasd", "vllm", "vllm-ngram", "vllm-suffix")

_HTTP: Final = "http-"


def plot(found: Sequence[Median], model: str, path: Path) -> None:
    """Three panels: one request by task, many at once, and growing context; greedy all.

    Where servers were measured they are shown, and not what runs without HTTP beside them.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    greedy = [e for e in found if e["temperature"] == 0]
    served = [e | {"system": e["system"].removeprefix(_HTTP)} for e in greedy if _is_http(e)]
    greedy = [e for e in served or greedy if e["system"] in _COLOURS]
    figure, (bars, many, long) = plt.subplots(
        1, 3, figsize=(17, 5.6), gridspec_kw={"width_ratios": [1.6, 1, 1]}
    )
    _bars(bars, greedy)
    _many(many, greedy)
    _long(long, greedy)
    known = {e["system"] for e in greedy}
    marks = [plt.Rectangle((0, 0), 1, 1, color=_COLOURS[s]) for s in _COLOURS if s in known]
    figure.legend(marks, [s for s in _COLOURS if s in known], loc="lower center", ncols=7)
    figure.suptitle(f"{model}, greedy, medians{', over HTTP' if served else ''}")
    figure.tight_layout(rect=(0, 0.11, 1, 1))
    figure.savefig(path, dpi=120)


def _is_http(entry: Median) -> bool:
    return str(entry["system"]).startswith(_HTTP)


def _bars(axes: Any, greedy: Sequence[Median]) -> None:
    """A bar per system in a group per task, whiskers from least to most."""
    alone = [e for e in greedy if e["concurrency"] == 1 and e["task"] in TASKS]
    systems = [system for system in _COLOURS if system in {e["system"] for e in alone}]
    width = 0.85 / max(1, len(systems))
    for place, system in enumerate(systems):
        cells = [e for e in alone if e["system"] == system]
        x = [TASKS.index(e["task"]) + place * width for e in cells]
        rates = [e["rate"] for e in cells]
        low = [e["rate"] - e["rate_spread"][0] for e in cells]
        high = [e["rate_spread"][1] - e["rate"] for e in cells]
        spread = {"yerr": [low, high], "error_kw": {"lw": 0.7}}
        axes.bar(x, rates, width, color=_COLOURS[system], **spread)
    axes.set_xticks([i + 0.4 for i in range(len(TASKS))], TASKS)
    axes.set(ylabel="tokens/s", title="one request at a time")


def _many(axes: Any, greedy: Sequence[Median]) -> None:
    """Tokens per second by how many run together, the median over tasks."""
    for system in _SCALING:
        cells = [e for e in greedy if e["system"] == system and e["task"] in TASKS]
        rates = {
            many: statistics.median(e["rate"] for e in cells if e["concurrency"] == many)
            for many in sorted({e["concurrency"] for e in cells})
        }
        if len(rates) > 1:
            axes.plot(list(rates), list(rates.values()), "o-", color=_COLOURS[system])
    axes.set(xlabel="requests at once", ylabel="tokens/s", title="many requests, over the tasks")
    axes.set_xscale("log", base=2)


def _long(axes: Any, greedy: Sequence[Median]) -> None:
    """Tokens per second after the first token, by context."""
    for system in _COLOURS:
        cells = [e for e in greedy if e["system"] == system and e["task"] == CONTEXT]
        cells.sort(key=lambda e: e["length"])
        if not cells:
            continue
        rates = [e["decode_rate"] for e in cells]
        axes.plot([e["length"] for e in cells], rates, "o-", color=_COLOURS[system])
    axes.set(xlabel="tokens of context", ylabel="tokens/s after the first", title="long prompts")
    axes.set_visible(bool(axes.lines))
    if axes.lines:
        axes.set_xscale("log", base=2)
