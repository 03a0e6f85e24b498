"""Texts of a few topics, each with words of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rasd.config import StoreConfig
from rasd.retrieval import ShardStore
from rasd.retrieval.dense.embed import TokenMean
from rasd.retrieval.segment import UInt32s
from rasd.retrieval.store.corpora import create_corpus
from rasd.retrieval.store.records import Document, Put
from rasd.retrieval.store.writer import CorpusWriter
from tests.retrieval.store.worlds import Submitter

VOCABULARY = 200
WORDS = 20  # of a topic
WIDTH = 16
MADE: dict[str, Any] = {"vocabulary": VOCABULARY, "tokenizer_hash": "t"}


def matrix(seed: int = 0, dimension: int = 48) -> Any:
    return np.random.default_rng(seed).standard_normal((VOCABULARY, dimension)).astype(np.float32)


def embedder() -> TokenMean:
    return TokenMean(matrix())


def text(topic: int, size: int, seed: int = 0) -> UInt32s:
    """Words of a topic, at random."""
    draw = np.random.default_rng([topic, size, seed])
    return draw.integers(WORDS * topic, WORDS * (topic + 1), size).astype(np.uint32)


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline


class World:
    """Corpora that change, inline."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.writers: dict[str, CorpusWriter] = {}

    def create(self, name: str, partitions: int = 2) -> None:
        create_corpus(self.root, name, partitions=partitions, **MADE)
        self.writers[name] = CorpusWriter(self.root, name, StoreConfig(), Submitter())

    def put(self, name: str, **documents: UInt32s) -> None:
        puts = [Put(Document(id_, tokens)) for id_, tokens in documents.items()]
        self.writers[name].write(puts)

    def store(self, **holdings: Any) -> ShardStore:
        return ShardStore(self.root, holdings or dict.fromkeys(self.writers), **MADE)

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()
