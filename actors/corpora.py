"""Makes the configured corpora at their first start, in a process of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from actors.cluster import log_to_stderr
from rasd.config import CorpusConfig, DatastoreConfig, TargetConfig
from rasd.retrieval import build_corpus, documents_of, has_corpus, open_corpus
from rasd.text import encode_document, load_tokenizer, tokenizer_hash

D = TypeVar("D")

_log = logging.getLogger(__name__)
_PROGRESS_S: Final = 5.0


def make_corpus(target: TargetConfig, store: DatastoreConfig, corpus: CorpusConfig) -> int:
    """Makes a corpus unless it is there; checks that it fits the tokenizer. Its partitions.

    Runs as a Ray task: it takes minutes and gigabytes for a big corpus, the controller has to
    answer meanwhile, and what is killed with its owner leaves nothing half made.

    Raises:
        ConfigError: its source is not there.
        InvalidRequest, Unavailable, SegmentError: see `build_corpus` and `open_corpus`.
    """
    log_to_stderr()
    root = Path(store.root).expanduser()
    tokenizer = load_tokenizer(target.model, target.revision)
    fits: dict[str, Any] = {
        "vocabulary": len(tokenizer),
        "tokenizer_hash": tokenizer_hash(tokenizer),
    }
    if not has_corpus(root, corpus.name):
        _log.info("corpus %s: indexing %s", corpus.name, corpus.source)
        documents = documents_of(corpus.source, lambda text: encode_document(tokenizer, text))
        seen = _with_progress(corpus.name, documents)
        build_corpus(root, corpus.name, seen, partitions=store.partitions, **fits)
    manifest = open_corpus(root, corpus.name, partitions=(), **fits).manifest
    _log.info(
        "corpus %s: %d documents, %d tokens, %d partitions",
        corpus.name,
        manifest.documents,
        manifest.tokens,
        len(manifest.partitions),
    )
    return len(manifest.partitions)


def _with_progress(name: str, documents: Iterable[D]) -> Iterator[D]:
    due = time.monotonic() + _PROGRESS_S
    for number, document in enumerate(documents, start=1):
        yield document
        if time.monotonic() > due:
            _log.info("corpus %s: %d documents so far", name, number)
            due = time.monotonic() + _PROGRESS_S
