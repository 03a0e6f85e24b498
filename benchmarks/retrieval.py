"""How fast and how useful retrieval is, without a model: held-out source asks the rest.

The corpus is the standard library without the held-out modules, in the embedded tokens if the
tokenizer is there, else in words. *Hit rate* is how often something is found at a random place
of held-out text; *right tokens* how many of the tokens that truly follow lie on one path of the
trie, per query.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.common import save
from rasd.config import EMBEDDED, RetrievalConfig, StoreConfig
from rasd.retrieval import LocalRetriever, PromptRetriever, ShardStore
from rasd.retrieval.store.corpora import create_corpus
from rasd.retrieval.store.records import Document, Put
from rasd.retrieval.store.writer import CorpusWriter
from rasd.stages import RetrieveQuery, Retriever, RetrieveRequest
from rasd.train.text import documents
from rasd.tree import Int32s
from rasd.trie import Continuations

SETTINGS = RetrievalConfig()
WORDS = 2**20
CORPUS = "stdlib"


def tokenizer() -> tuple[Callable[[str], Int32s], int, str]:
    """Text to ids, the vocabulary's size, and a name."""
    path = EMBEDDED / "target" / "tokenizer.json"
    if path.exists():
        from tokenizers import Tokenizer

        fast = Tokenizer.from_file(str(path))
        return (
            lambda text: np.array(fast.encode(text, add_special_tokens=False).ids, np.int32),
            fast.get_vocab_size(),
            "embedded",
        )
    ids: dict[str, int] = {}
    word = re.compile(r"\w+| +|\n *|[^\w\s]")
    return (
        lambda text: np.array([ids.setdefault(w, len(ids)) for w in word.findall(text)], np.int32),
        WORDS,
        "words",
    )


@contextmanager
def clock(times: list[float]) -> Iterator[None]:
    """Appends the seconds its body takes."""
    start = time.perf_counter()
    yield
    times.append(time.perf_counter() - start)


def right_tokens(found: Continuations, truth: Int32s) -> int:
    """How far the trie follows ``truth``."""
    children = {
        (parent, token): node
        for node, (parent, token) in enumerate(
            zip(found.parents.tolist(), found.tokens.tolist(), strict=True)
        )
    }
    node, right = -1, 0
    for token in truth.tolist():
        if (node, token) not in children:
            break
        node, right = children[node, token], right + 1
    return right


def ask(retriever: Retriever, text: Int32s, at: int, times: list[float]) -> Continuations:
    """One query behind the first ``at`` tokens."""
    tail = text[at - SETTINGS.suffix_max : at]
    request = RetrieveRequest(0, [RetrieveQuery(0, tail, (CORPUS,))])
    with clock(times):
        return retriever.retrieve(request).wait(0).found[0]


def summary(times: list[float], found: list[Continuations], right: list[int]) -> dict[str, float]:
    """Times in microseconds, and rates over all queries."""
    p50, p99 = np.percentile(np.array(times) * 1e6, [50, 99])
    return {
        "p50_us": p50,
        "p99_us": p99,
        "hit_rate": float(np.mean([len(one) > 0 for one in found])),
        "match_length": float(np.mean([one.match_length for one in found])),
        "nodes": float(np.mean([len(one) for one in found])),
        "right_tokens": float(np.mean(right)),
    }


def measure_corpus(retriever: Retriever, held: list[Int32s], count: int) -> dict[str, float]:
    """Queries at random places of held-out text."""
    rng = np.random.default_rng(0)
    text = np.concatenate(held)
    times: list[float] = []
    found, right = [], []
    for at in rng.integers(SETTINGS.suffix_max, len(text) - SETTINGS.depth, count).tolist():
        found.append(ask(retriever, text, at, times))
        right.append(right_tokens(found[-1], text[at : at + SETTINGS.depth]))
    return summary(times, found, right)


def measure_prompt(held: list[Int32s], size: int, count: int) -> dict[str, float]:
    """One sequence of ``size`` tokens, growing by two tokens per step."""
    retriever = PromptRetriever(SETTINGS)
    text = np.concatenate(sorted(held, key=len, reverse=True))
    count = min(count, (len(text) - size - SETTINGS.depth) // 2)
    retriever.observe(0, text[:size])
    times: list[float] = []
    observing: list[float] = []
    found, right = [], []
    for at in range(size, size + 2 * count, 2):
        found.append(ask(retriever, text, at, times))
        right.append(right_tokens(found[-1], text[at : at + SETTINGS.depth]))
        with clock(observing):
            retriever.observe(0, text[at : at + 2])
    result = summary(times, found, right)
    return {**result, "observe_p50_us": float(np.median(observing) * 1e6)}


def build(
    root: Path, corpus: list[tuple[str, Int32s]], partitions: int, made_with: dict[str, Any]
) -> int:
    """Puts documents into segments, in this process; how many tokens that are."""
    create_corpus(root, CORPUS, partitions=partitions, **made_with)
    settings = StoreConfig(flush_tokens=2**28)
    with (
        ThreadPoolExecutor(1) as threads,
        closing(CorpusWriter(root, CORPUS, settings, threads.submit)) as writer,
    ):
        writer.write([Put(Document(id_, tokens.astype(np.uint32))) for id_, tokens in corpus])
        writer.flush()
        return sum(manifest.tokens for manifest in writer.manifests)


def measure(root: Path, count: int) -> dict[str, Any]:
    """Everything, with 1 partition and with 4, and for two lengths of prompt."""
    tokenize, vocabulary, name = tokenizer()
    made_with: dict[str, Any] = {"vocabulary": vocabulary, "tokenizer_hash": name}
    corpus = [(one.id, tokenize(one.text)) for one in documents(held_out=False)]
    held = [tokenize(one.text) for one in documents(held_out=True)]
    result: dict[str, Any] = {"tokenizer": name, "corpus": {}, "prompt": {}}
    for partitions in (1, 4):
        times: list[float] = []
        place = root / str(partitions)
        with clock(times):
            tokens = build(place, corpus, partitions, made_with)
        size = sum(path.stat().st_size for path in place.rglob("*.seg"))
        with clock(times):
            store = ShardStore(place, {CORPUS: None}, **made_with)
        result["corpus"][partitions] = {
            "tokens": tokens,
            "documents": len(corpus),
            "build_tokens_per_s": tokens / times[0],
            "open_s": times[1],
            "bytes_per_token": size / tokens,
            **measure_corpus(LocalRetriever(store, SETTINGS), held, count),
        }
    for length in (512, 4096, 32_768):
        result["prompt"][length] = measure_prompt(held, length, min(count, 1000))
    return result


def table(result: dict[str, Any]) -> Table:
    """The result, a column per case."""
    columns = {
        **{f"corpus, {n} partitions": one for n, one in result["corpus"].items()},
        **{f"prompt from {n:,} tokens": one for n, one in result["prompt"].items()},
    }
    shown = Table(title=f"Retrieval ({result['tokenizer']} tokens, {SETTINGS.nodes} nodes)")
    shown.add_column("")
    for column in columns:
        shown.add_column(column, justify="right")
    for key in dict.fromkeys(key for one in columns.values() for key in one):
        values = [one.get(key) for one in columns.values()]
        cells = ["" if x is None else f"{x:,.0f}" if x >= 1000 else f"{x:.3g}" for x in values]
        shown.add_row(key.replace("_", " "), *cells)
    return shown


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=5000, help="per case")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        result = measure(Path(root), options.queries)
    save("retrieval", {"settings": {**vars(options), **SETTINGS.model_dump()}, **result})
    Console().print(table(result))


if __name__ == "__main__":
    main()
