"""How the time of a query grows with the tokens, and with the number of shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

SYSTEMS: Final = {
    "ours": "RASD",
    "aded": "draftretriever 0.1.1 (PyPI; ADED's tri-grams)",
    "arctic": "Arctic SuffixDecodingCache",
}


def plot(result: dict[str, Any], path: Path) -> None:
    """Two panels: one query inside the process beside the peers; batches through the actors."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, (inside, outside) = plt.subplots(1, 2, figsize=(11, 5))
    for system, name in SYSTEMS.items():
        measured = {int(k): v for k, v in result[system].items() if "p50_us" in v}
        if not measured:
            continue
        (line,) = inside.plot(
            list(measured), [v["p50_us"] for v in measured.values()], "o-", label=f"{name}, p50"
        )
        inside.plot(
            list(measured),
            [v["p99_us"] for v in measured.values()],
            "o--",
            color=line.get_color(),
            alpha=0.5,
            label=f"{name}, p99",
        )
    inside.set(xlabel="tokens", ylabel="microseconds", title="One query, inside the process")
    for shards in next(iter(result["actors"].values())):
        sizes = [int(size) for size in result["actors"]]
        times = [by_shards[shards]["batch_p50_ms"] for by_shards in result["actors"].values()]
        outside.plot(sizes, times, "o-", label=f"{shards} shard{'s' * (int(shards) > 1)}")
    outside.set(xlabel="tokens", ylabel="milliseconds", title="64 queries, through the actors, p50")
    for axes in (inside, outside):
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
    inside.set_yscale("log")
    inside.set_ylim(bottom=5)
    inside.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0.0, -0.15))
    outside.set_ylim(bottom=0)
    outside.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
