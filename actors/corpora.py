"""Makes the configured corpora at their first start, each in a process of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from actors.cluster import log_to_stderr
from rasd.config import CorpusConfig, DatastoreConfig, TargetConfig
from rasd.retrieval import documents_of, ensure_corpus, has_corpus, open_corpus
from rasd.text import encode_document, load_tokenizer, tokenizer_hash

D = TypeVar("D")

_log = logging.getLogger(__name__)
_PROGRESS_S: Final = 5.0
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 300.0


def configured_corpora(store: DatastoreConfig | None) -> frozenset[str]:
    """The names a request may use. One that is still being made adds nothing yet."""
    return frozenset(corpus.name for corpus in store.corpora) if store else frozenset()


async def until_made(name: str, make: Callable[[], Awaitable[int]]) -> int:
    """What ``make`` returns. A failure is logged, and it is tried again after a longer pause."""
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return await make()
        except Exception as error:
            reason = getattr(error, "cause", error)  # of Ray's error, which is a traceback
            _log.error("corpus %s is not served: %r; tried again in %.0f s", name, reason, pause_s)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def make_corpus(target: TargetConfig, store: DatastoreConfig, corpus: CorpusConfig) -> int:
    """Makes a corpus unless it is there; checks that it fits the tokenizer. Its partitions.

    Another process that makes it, be it of another application, is waited for.

    Runs as a Ray task: it takes minutes and gigabytes for a big corpus, the controller has to
    answer meanwhile, and what is killed with its owner leaves nothing half made.

    Raises:
        ConfigError: its source is not there.
        InvalidRequest, Unavailable, SegmentError: see `ensure_corpus` and `open_corpus`.
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
        ensure_corpus(root, corpus.name, seen, partitions=store.partitions, **fits)
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
