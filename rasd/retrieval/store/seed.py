"""Fills the corpora of the configuration from their sources, once.

What is interrupted is begun again: documents that are there already change nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rasd.config import CorpusConfig, DatastoreConfig
from rasd.datastore import Change, NewDocument, Written
from rasd.errors import ConfigError, Overloaded, StorageError, StoreLocked
from rasd.retrieval.lines import PassedOver
from rasd.retrieval.sources import documents_of
from rasd.retrieval.store.intake import Intake, quoted, weight
from rasd.retrieval.store.prepare import is_filled, mark, prepare
from rasd.retrieval.store.records import Document, Put
from rasd.retrieval.store.writer import CorpusWriter

BATCH_BYTES: Final = 4 * 2**20
BATCH_DOCUMENTS: Final = 4096
WAIT_S: Final = 3600.0
"""How long another process may take to fill a corpus that is wanted here too."""

_POLL_S: Final = 0.2
_LOGGED: Final = 20

Progress = Callable[[int, int], None]
"""Takes the documents and tokens so far."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents with distinct ids, to be written together; ``size`` is in bytes, about."""

    puts: list[Put]
    size: int


class Seeding:
    """One attempt to fill a corpus. Its batches must be written in order, then it is finished."""

    def __init__(
        self, root: Path, corpus: CorpusConfig, intake: Intake, progress: Progress | None = None
    ) -> None:
        """Looks for the source; reads nothing yet.

        Raises:
            ConfigError: there is no such source.
        """
        self._root = root
        self._corpus = corpus
        self._intake = intake
        self._progress = progress
        self._documents = 0
        self._tokens = 0
        self._rejected = 0
        self._first = ""
        self._passed_over = PassedOver()
        self._new = documents_of(
            corpus.source,
            max_bytes=intake.max_document_bytes,
            reject=self._reject,
            passed_over=self._passed_over,
        )

    def begin(self) -> bool:
        """Says in the corpus that its filling has begun, unless that is needless by now.

        Must be called by the one who writes to the corpus, which must be there.
        """
        if is_filled(self._root, self._corpus.name):
            return False
        mark(self._root, self._corpus, finished=False)
        return True

    def batches(self) -> Iterator[Batch]:
        """The source, read, checked and tokenised. What is rejected is logged and left out.

        Raises:
            ConfigError: reading fails.
        """
        for batch in _cut(self._new):
            rejections = self._intake.check(batch)
            passed = [one for one, no in zip(batch, rejections, strict=True) if no is None]
            made = self._intake.tokenise(passed)
            for one in [*rejections, *made]:
                if isinstance(one, Written):
                    name = quoted(one.id)
                    self._reject(f"{self._corpus.source}, document {name}", one.error)
            puts = [Put(one) for one in made if isinstance(one, Document)]
            yield Batch(puts, sum(map(weight, passed)))

    def wrote(self, batch: Batch, changes: Sequence[Change]) -> None:
        """A batch is durable.

        Raises:
            StorageError: not all of it, since a partition is damaged.
        """
        if "rejected" in changes:
            raise StorageError(f"corpus {self._corpus.name} cannot be filled: it is damaged")
        for put, change in zip(batch.puts, changes, strict=True):
            self._tokens += len(put.document.tokens)
            if change == "replaced":
                name = quoted(put.document.id)
                self._reject(f"{self._corpus.source}, document {name}", "a later one has its id")
        self._documents += len(batch.puts)
        if self._progress is not None:
            self._progress(self._documents, self._tokens)

    def finish(self) -> None:
        """Everything is durable and indexed: says so in the corpus.

        Raises:
            ConfigError: the source gave nothing but what was rejected.
        """
        if self._rejected and not self._documents:
            raise ConfigError(
                f"source {self._corpus.source!r} of corpus {self._corpus.name} gave no document; "
                f"{self._rejected} were rejected, the first one was {self._first}"
            )
        mark(self._root, self._corpus, finished=True)
        _log.info(
            "corpus %s: %d documents, %d tokens; %d rejected",
            self._corpus.name,
            self._documents,
            self._tokens,
            self._rejected,
        )
        if fields := str(self._passed_over):
            _log.info("corpus %s: fields passed over: %s", self._corpus.name, fields)

    def _reject(self, place: str, reason: str) -> None:
        self._rejected += 1
        self._first = self._first or f"{place}: {reason}"
        if self._rejected <= _LOGGED:
            _log.warning("corpus %s: left out %s: %s", self._corpus.name, place, reason)
        if self._rejected == _LOGGED:
            _log.warning("corpus %s: further ones are only counted", self._corpus.name)


def _cut(documents: Iterator[NewDocument]) -> Iterator[list[NewDocument]]:
    """Batches of bounded size, in order. None holds an id twice, so that the last one counts."""
    batch: list[NewDocument] = []
    ids: set[str] = set()
    size = 0
    for document in documents:
        full = size + weight(document) > BATCH_BYTES or len(batch) >= BATCH_DOCUMENTS
        if batch and (full or document.id in ids):
            yield batch
            batch, ids, size = [], set(), 0
        batch.append(document)
        ids.add(document.id)
        size += weight(document)
    if batch:
        yield batch


# --- in one process ---------------------------------------------------------------------------


def ensure_seeded(
    root: Path,
    corpus: CorpusConfig,
    intake: Intake,
    settings: DatastoreConfig,
    *,
    progress: Progress | None = None,
    wait_s: float = WAIT_S,
) -> None:
    """Makes and fills a corpus of the configuration unless that is done. Then writes nothing.

    While another process writes to it, waits until that one has filled it, or is gone.

    Raises:
        ConfigError: its source is not there, or gives nothing.
        StoreLocked: another process is still at it after ``wait_s``.
        TokenizerMismatch, SegmentError, StorageError: it cannot be used, or not be made.
    """
    deadline = time.monotonic() + wait_s
    waiting = False
    while not is_filled(root, corpus.name):
        try:
            _fill(root, corpus, intake, settings, progress)
        except StoreLocked as error:
            if time.monotonic() >= deadline:
                raise
            if not waiting:
                _log.warning("corpus %s is filled by another process: %s", corpus.name, error)
            waiting = True
            time.sleep(_POLL_S)


def _fill(
    root: Path,
    corpus: CorpusConfig,
    intake: Intake,
    settings: DatastoreConfig,
    progress: Progress | None,
) -> None:
    seeding = Seeding(root, corpus, intake, progress)
    prepare(root, corpus.name, intake, settings.partitions)
    with (
        ThreadPoolExecutor(1, "rasd-compact") as threads,
        closing(CorpusWriter(root, corpus.name, settings.store, threads.submit)) as writer,
    ):
        if seeding.begin():
            for batch in seeding.batches():
                try:
                    changes = writer.write(batch.puts)
                except Overloaded:
                    writer.flush()
                    changes = writer.write(batch.puts)
                seeding.wrote(batch, changes)
                writer.tick()
            writer.flush()
            seeding.finish()
