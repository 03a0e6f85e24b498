"""The datastore at growing sizes, beside its peers: building, asking, growing while asked.

Questions are the 16 tokens before random places of held-out text; an answer has up to 64 nodes,
10 deep, behind the longest suffix of 16 to 2 tokens. *Right tokens* is how many of the tokens that
truly follow lie on one path of an answer. Stores are built through `CorpusWriter` as the service
builds them, served by real shard actors, and warm. Times are medians over rounds that alternate
between the systems; the memory of a process is what belongs to no file.

    python -m benchmarks.datastore --peers /path/to/peers/bin/python

where that environment holds ``draftretriever==0.1.1``, and ``arctic-inference==0.1.1`` installed
with ``--no-deps``. Text and stores are kept below ``--place`` and used again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.common import save
from benchmarks.datastore_plot import plot
from benchmarks.datastore_service import actor_times, ingest_times
from benchmarks.datastore_store import build
from benchmarks.texts import Tokens, tokenized

CORPUS_TOKENS = 105_000_000
SIZES = (1_000_000, 10_000_000, 100_000_000)
SHARDS = (1, 2, 4)
_PEERS = Path(__file__).with_name("datastore_peers.py")


def ask_peer(python: str, peer: str, place: Path, tokens: int, questions: Path) -> dict[str, Any]:
    """What the peer's own process measured, or why it could not."""
    command = [python, str(_PEERS), peer, str(place), str(tokens), str(questions)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    if done.returncode != 0 or not done.stdout.strip():
        return {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure(text: Tokens, options: argparse.Namespace) -> dict[str, Any]:
    """Everything, size by size."""
    places = np.random.default_rng(0).integers(16, len(text.held) - 10, options.questions)
    questions = options.place / "questions.npy"
    np.save(questions, places)
    result: dict[str, Any] = {"ours": {}, "rest": {}, "arctic": {}, "actors": {}}
    for size in options.sizes:
        root = options.place / f"store-{size}"
        built = build(root, text, size)
        ours: list[dict[str, Any]] = []
        for _ in range(options.rounds):
            ours.append(run_alone("shard", options.place, root, questions))
            for peer in ("rest", "arctic") if options.peers else ():
                told = result[peer].setdefault(size, [])
                if not any("failed" in one for one in told):  # once is enough
                    told.append(ask_peer(options.peers, peer, options.place, size, questions))
                    Console().print(size, peer, told[-1])
        result["ours"][size] = {**built, **median(ours)}
        Console().print(size, result["ours"][size])
        result["actors"][size] = {n: actor_times(root, text, places, n) for n in SHARDS}
        Console().print(size, result["actors"][size])
    for peer in ("rest", "arctic"):
        result[peer] = {size: median(rounds) for size, rounds in result[peer].items()}
    result["ingest"] = ingest_times(options.place, text, places)
    return result


def run_alone(what: str, place: Path, root: Path, questions: Path) -> dict[str, Any]:
    """Measures in a process of its own, whose memory is then the store's."""
    module = f"benchmarks.datastore_{'store' if what == 'shard' else what}"
    command = [sys.executable, "-m", module, str(place), str(root), str(questions)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=3600)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def median(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Each number's median over the rounds, with the least and the most beside it."""
    good = [one for one in rounds if "failed" not in one]
    if not good:
        return rounds[0]
    middle: dict[str, Any] = {key: float(np.median([r[key] for r in good])) for key in good[0]}
    spread = {key: [min(r[key] for r in good), max(r[key] for r in good)] for key in good[0]}
    return {**middle, "spread": {k: v for k, v in spread.items() if v[0] != v[1]}}


def table(result: dict[str, Any]) -> Table:
    """Ours beside the peers', a column per system and size."""
    rows = {
        "p50_us": "query p50, us",
        "p99_us": "query p99, us",
        "batch_p50_ms": "64 queries in one call, ms",
        "queries_per_s": "queries/s, one by one",
        "batch_queries_per_s": "queries/s, in batches of 64",
        "right_tokens": "right tokens per query",
        "build_tokens_per_s": "tokens/s built",
        "bytes_per_token": "index bytes/token",
        "anonymous_mb": "memory of the process, MB",
    }
    shown = Table(title="Datastore beside its peers")
    shown.add_column("")
    columns = []
    for system in ("ours", "rest", "arctic"):
        for size, numbers in result[system].items():
            shown.add_column(f"{system} {int(size) // 1_000_000}M", justify="right")
            columns.append(numbers)
    for key, name in rows.items():
        values = [numbers.get(key) for numbers in columns]
        shown.add_row(name, *("-" if v is None else f"{v:,.3g}" if v < 1e3 else f"{v:,.0f}"
                              for v in values))  # fmt: skip
    return shown


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--place", type=Path, default=Path.home() / ".cache/rasd/bench/datastore")
    parser.add_argument("--peers", help="python of an environment with the peers")
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    options = parser.parse_args()
    text = tokenized(options.place, CORPUS_TOKENS)
    result = measure(text, options)
    settings = {"questions": options.questions, "rounds": options.rounds}
    path = save("datastore", {"settings": settings, **result})
    plot(result, path.with_suffix(".png"))
    Console().print(table(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
