"""Builds a store of some size, and asks it inside one process."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.datastore_peers import anonymous_bytes, right_tokens
from benchmarks.datastore_peers import paths as paths_of
from benchmarks.texts import Tokens, tokenized
from rasd.config import RetrievalConfig, StoreConfig
from rasd.retrieval import ShardStore
from rasd.retrieval.store.corpora import create_corpus
from rasd.retrieval.store.records import Document, Put
from rasd.retrieval.store.writer import CorpusWriter
from rasd.stages import RetrieveQuery

CORPUS: Final = "bench"
HASH: Final = "benchmark"
PARTITIONS: Final = 4
SETTINGS: Final = RetrievalConfig()
BATCH: Final = 64
GROUP_TOKENS: Final = 2**20

# A bulk load: segments are written late and large, so that little is merged again.
BULK: Final = StoreConfig(flush_tokens=2**25, flush_after_s=86_400, grace_s=0)


def groups(text: Tokens, limit: int | None) -> Iterator[list[Put]]:
    """Operations that add the first documents, a commit's worth at a time."""
    group: list[Put] = []
    size = 0
    for number, tokens in enumerate(text.documents(limit)):
        group.append(Put(Document(f"document-{number}", np.asarray(tokens))))
        size += len(tokens)
        if size >= GROUP_TOKENS:
            yield group
            group, size = [], 0
    if group:
        yield group


def build(root: Path, text: Tokens, size: int) -> dict[str, Any]:
    """Adds documents until all are in segments; what it took. Kept and told again later."""
    known = root / "built.json"
    if known.exists():
        found: dict[str, Any] = json.loads(known.read_text())
        return found
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    made = {"vocabulary": text.vocabulary, "tokenizer_hash": HASH}
    create_corpus(root, CORPUS, partitions=PARTITIONS, **made)
    prepared = list(groups(text, size))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(abs, range(2)))  # started
        writer = CorpusWriter(root, CORPUS, BULK, pool.submit)
        start = time.perf_counter()
        for group in prepared:
            writer.write(group)
        writer.flush()
        taken = time.perf_counter() - start
        writer.close()
    tokens = sum(len(put.document.tokens) for group in prepared for put in group)
    result = {
        "tokens": tokens,
        "documents": sum(map(len, prepared)),
        "build_tokens_per_s": tokens / taken,
        "bytes_per_token": _bytes(root, "*.seg") / tokens,
        "document_bytes_per_token": _bytes(root, "*.docs") / tokens,
        "segments": len(list(root.rglob("*.seg"))),
    }
    known.write_text(json.dumps(result))
    return result


def _bytes(root: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in root.rglob(pattern))


def queries_at(held: np.ndarray, places: np.ndarray) -> list[RetrieveQuery]:
    """One query per place of held-out text."""
    tails = (held[at - SETTINGS.suffix_max : at].astype(np.int32) for at in places.tolist())
    return [RetrieveQuery(number, tail, (CORPUS,)) for number, tail in enumerate(tails)]


def open_store(root: Path, vocabulary: int) -> ShardStore:
    """All partitions, as a shard holds them."""
    return ShardStore(root, {CORPUS: None}, vocabulary=vocabulary, tokenizer_hash=HASH)


def shard_numbers(store: ShardStore, held: np.ndarray, places: np.ndarray) -> dict[str, Any]:
    """Queries one by one and in batches, inside the process; everything is warmed first."""
    queries = queries_at(held, places)
    found = store.search(queries, SETTINGS)
    right = [
        right_tokens(
            paths_of(one.tokens.tolist(), one.parents.tolist()),
            held[at : at + SETTINGS.depth].tolist(),
        )
        for one, at in zip(found, places.tolist(), strict=True)
    ]
    singles = [_timed(store, [query]) for query in queries]
    batches = [
        _timed(store, queries[at : at + BATCH]) for at in range(0, len(queries) - BATCH, BATCH)
    ]
    p50, p99 = np.percentile(np.array(singles) * 1e6, [50, 99])
    return {
        "p50_us": float(p50),
        "p99_us": float(p99),
        "queries_per_s": len(singles) / sum(singles),
        "batch_p50_ms": float(np.median(batches) * 1e3),
        "batch_queries_per_s": BATCH * len(batches) / sum(batches),
        "hit_rate": float(np.mean([len(one) > 0 for one in found])),
        "match_length": float(np.mean([one.match_length for one in found])),
        "nodes": float(np.mean([len(one) for one in found])),
        "right_tokens": float(np.mean(right)),
        "anonymous_mb": anonymous_bytes() / 1e6,
    }


def _timed(store: ShardStore, queries: list[RetrieveQuery]) -> float:
    start = time.perf_counter()
    store.search(queries, SETTINGS)
    return time.perf_counter() - start


def main() -> None:
    """Asks one store; prints JSON. The memory printed is that of this process."""
    place, root, questions = map(Path, sys.argv[1:4])
    text = tokenized(place, 0)
    store = open_store(root, text.vocabulary)
    print(json.dumps(shard_numbers(store, text.held, np.load(questions))))


if __name__ == "__main__":
    main()
