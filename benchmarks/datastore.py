"""The datastore at growing sizes, beside its peers: building, asking, growing while asked.

Questions are the 16 tokens before random places of held-out text; an answer has up to 64 nodes,
10 deep, behind the longest suffix of 16 to 2 tokens. *Right tokens* is how many of the tokens that
truly follow lie on one path of an answer. Stores are built through `CorpusWriter` as the service
builds them, served by real shard actors, and warm.

In every round each peer builds its store and answers all questions, and ours is asked in a process
of its own and through the actors, with the shards started anew; text is added in as many rounds.
Numbers are medians over rounds, with the least and the most of them beside (``spread``). Only
building is told of one time for ours: a store is kept. Memory is what belongs to no file, so
beyond the page cache: of the process that is asked, and of the largest shard actor.

    python -m benchmarks.datastore --peers /path/to/peers/bin/python

where that environment holds ``draftretriever==0.1.1``, which on PyPI is ADED's store and not
REST's, and ``arctic-inference==0.1.1`` installed with ``--no-deps``. Text and stores are kept
below ``--place`` and used again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.common import RESULTS, save
from benchmarks.datastore_plot import SYSTEMS, plot
from benchmarks.datastore_service import actor_times, ingest_times
from benchmarks.datastore_store import build
from benchmarks.texts import Tokens, tokenized

CORPUS_TOKENS = 105_000_000
SIZES = (1_000_000, 10_000_000, 100_000_000)
SHARDS = (1, 2, 4)
PEERS = ("aded", "arctic")
PARTS = ("sizes", "ingest")
_PEERS = Path(__file__).with_name("datastore_peers.py")


def ask_peer(python: str, peer: str, place: Path, tokens: int, questions: Path) -> dict[str, Any]:
    """What the peer's own process measured, or why it could not."""
    command = [python, str(_PEERS), peer, str(place), str(tokens), str(questions)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    if done.returncode != 0 or not done.stdout.strip():
        return {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure_sizes(text: Tokens, places: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """Ours, the peers and the actors, size by size; systems take turns."""
    questions = options.place / "questions.npy"
    np.save(questions, places)
    result: dict[str, Any] = {"ours": {}, **{peer: {} for peer in PEERS}, "actors": {}}
    for size in options.sizes:
        root = options.place / f"store-{size}"
        built = build(root, text, size)
        told: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        actors: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        for _ in range(options.rounds):
            told["ours"].append(ask_ours(options.place, root, questions))
            for peer in PEERS if options.peers else ():
                if not any("failed" in one for one in told[peer]):  # once is enough
                    told[peer].append(ask_peer(options.peers, peer, options.place, size, questions))
            for shards in SHARDS:
                actors[shards].append(actor_times(root, text, places, shards))
            Console().print(size, {system: rounds[-1] for system, rounds in told.items()})
        for system, rounds in told.items():
            result[system][size] = median(rounds)
        result["ours"][size] = {**built, **result["ours"][size]}
        result["actors"][size] = {shards: median(rounds) for shards, rounds in actors.items()}
        Console().print(size, result["actors"][size])
    return result


def ask_ours(place: Path, root: Path, questions: Path) -> dict[str, Any]:
    """What a process of its own measured, whose memory is then the store's."""
    command = [sys.executable, "-m", "benchmarks.datastore_store"]
    command += [str(place), str(root), str(questions)]
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
    """A row per system and size."""
    columns = {
        "p50_us": "p50 µs",
        "p99_us": "p99 µs",
        "batch_p50_ms": "64, ms",
        "queries_per_s": "per s",
        "right_tokens": "right",
        "build_tokens_per_s": "built/s",
        "bytes_per_token": "B/tok",
        "anonymous_mb": "MB",
        "resident_mb": "actor MB",
    }
    shown = Table(title="Datastore beside its peers", box=None, pad_edge=False)
    shown.add_column("tokens")
    for name in columns.values():
        shown.add_column(name, justify="right")
    for system in SYSTEMS:
        for size, numbers in result[system].items():
            if system == "ours":
                numbers = numbers | {"resident_mb": result["actors"][size]["1"]["resident_mb"]}
            values = [numbers.get(key) for key in columns]
            cells = ["-" if v is None else f"{v:,.3g}" if v < 1e3 else f"{v:,.0f}" for v in values]
            shown.add_row(f"{system} {int(size) // 1_000_000}M", *cells)
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
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        help="measure these; the other stays as it was last time",
    )
    options = parser.parse_args()
    text = tokenized(options.place, CORPUS_TOKENS)
    places = np.random.default_rng(0).integers(16, len(text.held) - 10, options.questions)
    last = RESULTS / "datastore.json"
    whole = {*options.parts} == {*PARTS}
    result: dict[str, Any] = json.loads(last.read_text()) if last.exists() and not whole else {}
    if "sizes" in options.parts:
        result["settings"] = {"questions": options.questions, "rounds": options.rounds}
        result |= measure_sizes(text, places, options)
    if "ingest" in options.parts:
        rounds = [ingest_times(options.place, text, places) for _ in range(options.rounds)]
        result["ingest"] = {"rounds": options.rounds, **median(rounds)}
        Console().print(result["ingest"])
    path = save("datastore", {key: part for key, part in result.items() if key != "machine"})
    kept = json.loads(path.read_text())
    plot(kept, path.with_suffix(".png"))
    Console(width=100).print(table(kept))


if __name__ == "__main__":
    main()
