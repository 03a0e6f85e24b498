"""How a process without a service opens its corpora."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from rasd.config import CorpusConfig, DatastoreConfig, RetrievalConfig
from rasd.errors import ConfigError, TokenizerMismatch
from rasd.local import _open_corpora
from rasd.retrieval import LocalRetriever
from rasd.retrieval.store.records import Delete, Document, Put
from rasd.retrieval.store.writer import CorpusWriter
from rasd.stages import RetrieveQuery, RetrieveRequest
from tests.tokenizers import byte_tokenizer, metaspace_tokenizer


def settings_of(place: Path, *corpora: CorpusConfig) -> DatastoreConfig:
    return DatastoreConfig(root=str(place / "store"), partitions=2, corpora=list(corpora))


def source_of(place: Path, *texts: str) -> CorpusConfig:
    path = place / "source.jsonl"
    path.write_text("\n".join(json.dumps({"id": text, "text": text}) for text in texts))
    return CorpusConfig(name="notes", source=str(path))


def open_(settings: DatastoreConfig) -> LocalRetriever:
    return _open_corpora(byte_tokenizer(), settings, RetrievalConfig(suffix_min=1))


def follows(retriever: LocalRetriever, text: str) -> set[str]:
    """The characters that follow a text in the corpus."""
    tail = np.asarray(byte_tokenizer()(text, add_special_tokens=False).input_ids, np.int32)
    reply = retriever.retrieve(RetrieveRequest(0, [RetrieveQuery(0, tail, ("notes",))]))
    found = reply.wait(10).found[0]
    return {byte_tokenizer().decode([t]) for t in found.tokens[found.parents == -1].tolist()}


def test_a_corpus_is_filled_and_then_followed(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, source_of(tmp_path, "xyz", "xyw"))
    first = open_(settings)
    assert follows(first, "xy") == {"z", "w"}
    (tmp_path / "source.jsonl").unlink()
    root = tmp_path / "store"
    with (
        ThreadPoolExecutor(1) as threads,
        closing(CorpusWriter(root, "notes", settings.store, threads.submit)) as writer,
    ):
        second = open_(settings)  # while another one writes
        ids = byte_tokenizer()("xyv", add_special_tokens=False).input_ids
        writer.write([Put(Document("new", np.asarray(ids, np.uint32))), Delete("xyz")])
        for retriever in (first, second):
            assert follows(retriever, "xy") == {"z", "w"}
            retriever.refresh()
            assert follows(retriever, "xy") == {"v", "w"}


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got 'nowhere'"):
        open_(settings_of(tmp_path, CorpusConfig(name="notes", source="nowhere")))
    settings = settings_of(tmp_path, source_of(tmp_path, "xyz"))
    open_(settings)
    with pytest.raises(TokenizerMismatch, match=f"'notes'.*remove it from {tmp_path}"):
        _open_corpora(metaspace_tokenizer(), settings, RetrievalConfig())
