"""One peer, one size: builds its store from the benchmark's tokens and answers its questions.

Runs in an environment of its own that holds ``draftretriever==0.1.1`` or
``arctic-inference==0.1.1`` (``pip install --no-deps``; `SuffixDecodingCache`) and numpy, and
needs nothing of this project. Prints one JSON object.

`draftretriever` has the name of REST's store, but on PyPI it is ADED's: a matrix of tri-grams that
Monte Carlo tree search walks. It looks at the last two tokens, answers up to four tokens deep
whatever is asked for, and is asked once, for 64 choices. Arctic's tree is 26 deep, so that 16
matched tokens have 10 behind them, and is asked for 64 tokens as a tree, without its limits by
match length and probability.
"""

import argparse
import json
import os
import resource
import time
from pathlib import Path

import numpy as np

SUFFIX_MAX, DEPTH, NODES = 16, 10, 64


def aded(documents, path):
    """Build seconds, bytes on disk, and a function from a tail to an answer.

    An answer is its number of nodes, and a function that lists its paths.
    """
    import draftretriever

    start = time.perf_counter()
    writer = draftretriever.Writer(str(path), vocab_size=65_535)
    for document in documents:
        writer.add_entry(document.tolist())
    writer.finalize()
    built = time.perf_counter() - start
    reader = draftretriever.Reader(str(path))

    def ask(tail):
        found = reader.search(tail, choices=NODES)
        return max(len(found[2]) - 1, 0), found[0].copy  # the root is no node

    return built, os.path.getsize(path), lambda tail: ask(tail.tolist())


def arctic(documents, path):
    """As `aded`; it lives in memory alone."""
    from arctic_inference.suffix_decoding.cache import SuffixDecodingCache

    start = time.perf_counter()
    cache = SuffixDecodingCache(max_tree_depth=SUFFIX_MAX + DEPTH)
    for number, document in enumerate(documents):
        cache.start_request(number, np.zeros(1, np.int32))
        cache.add_active_response(number, document.astype(np.int32))
        cache.stop_request(number)
    built = time.perf_counter() - start
    cache.start_request("asking", np.zeros(1, np.int32))

    def ask(tail):
        found = cache.speculate(
            "asking",
            tail,
            max_spec_tokens=NODES,
            max_spec_factor=1e6,
            min_token_prob=0.0,
            use_tree_spec=True,
        )
        return len(found.token_ids), lambda: paths(found.token_ids, found.parents)

    return built, 0, lambda tail: ask(tail.astype(np.int32))


def paths(tokens, parents):
    """All paths of a tree from its top; a parent below 0 is the top."""
    out = []
    for token, parent in zip(tokens, parents, strict=True):
        out.append([*(out[parent] if parent >= 0 else []), token])
    return out


def right_tokens(found, truth):
    """How far the best path follows what truly came."""
    best = 0
    for path in found:
        length = 0
        while length < min(len(path), len(truth)) and path[length] == truth[length]:
            length += 1
        best = max(best, length)
    return best


def anonymous_bytes():
    """Memory of this process that is no file's."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    return 0


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=["aded", "arctic"])
    parser.add_argument("place", type=Path, help="where tokens.npy, starts.npy and held.npy lie")
    parser.add_argument("tokens", type=int)
    parser.add_argument("questions", type=Path, help="npy file int[n]: places in held.npy")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-gib", type=float, default=12, help="give up beyond this")
    options = parser.parse_args()
    limit = int(options.memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    starts = np.load(options.place / "starts.npy")
    tokens = np.load(options.place / "tokens.npy", mmap_mode="r")
    held = np.load(options.place / "held.npy")
    ends = np.append(starts[1:], len(tokens))
    count = int(np.searchsorted(ends, options.tokens)) + 1
    documents = (
        tokens[a:b] for a, b in zip(starts[:count].tolist(), ends[:count].tolist(), strict=True)
    )
    total = int(ends[count - 1])
    path = options.place / f"{options.peer}.index"
    try:
        built, size, ask = {"aded": aded, "arctic": arctic}[options.peer](documents, path)
    except MemoryError:
        print(json.dumps({"failed": f"more than {options.memory_gib} GiB"}))
        return
    places = np.load(options.questions).tolist()
    tails = [held[at - SUFFIX_MAX : at] for at in places]
    nodes, right = [], []
    for at, tail in zip(places, tails, strict=True):
        count, listed = ask(tail)
        nodes.append(count)
        right.append(right_tokens(listed(), held[at : at + DEPTH].tolist()))
    rounds = []
    for _ in range(options.rounds):
        times = []
        for tail in tails:
            start = time.perf_counter()
            ask(tail)
            times.append(time.perf_counter() - start)
        rounds.append(times)
    p50, p99 = np.percentile(np.array(rounds) * 1e6, [50, 99], axis=1)
    result = {
        "tokens": total,
        "build_tokens_per_s": total / built,
        "bytes_per_token": size / total,
        "anonymous_mb": anonymous_bytes() / 1e6,
        "p50_us": float(np.median(p50)),
        "p99_us": float(np.median(p99)),
        "queries_per_s": float(len(tails) / np.median(np.array(rounds).sum(1))),
        "hit_rate": float(np.mean(np.array(nodes) > 0)),
        "nodes": float(np.mean(nodes)),
        "right_tokens": float(np.mean(right)),
    }
    path.unlink(missing_ok=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
