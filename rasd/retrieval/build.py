"""Makes a corpus: places documents into partitions and writes their segments.

It is made in a hidden directory beside its place and takes its name when all of it is there; so
a name that exists is a whole corpus, whenever its maker was killed.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from rasd.errors import InvalidRequest, Unavailable
from rasd.retrieval.corpus import (
    FORMAT,
    MANIFEST,
    Manifest,
    SegmentEntry,
    corpus_path,
    has_corpus,
)
from rasd.retrieval.files import sync_directory, write_atomically
from rasd.retrieval.segment import IntArray, UInt32s, write_segment

MAX_PARTITIONS: Final = 1024
BUFFERED_TOKENS: Final = 2**25
"""Tokens held in memory; then the fullest partition is written as a segment."""
WAIT_S: Final = 3600.0
"""How long another process may take to make a corpus that is wanted here too."""

_POLL_S: Final = 0.5

_logger = logging.getLogger(__name__)


def build_corpus(
    root: Path,
    name: str,
    documents: Iterable[tuple[str, Sequence[int] | IntArray]],
    *,
    partitions: int,
    vocabulary: int,
    tokenizer_hash: str,
) -> Manifest:
    """Indexes ``documents``, pairs of id and token ids; all of them appear at once, or none.

    A document's partition follows from its id alone. Takes memory for `BUFFERED_TOKENS` and for
    sorting one segment (see `write_segment`), however long the corpus.

    Raises:
        InvalidRequest: the corpus exists, or a name, an id or a token is wrong or comes twice.
        Unavailable: another process is making it.
    """
    place = corpus_path(root, name)
    if not 1 <= partitions <= MAX_PARTITIONS:
        raise InvalidRequest(f"partitions must be in [1, {MAX_PARTITIONS}]; got {partitions}")
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / f".{name}.lock"):
        if place.exists():
            raise InvalidRequest(f"corpus {name!r} exists in {root}", param="corpus")
        draft = root / f".{name}.building"
        if draft.exists():  # its maker was killed: the lock was free
            shutil.rmtree(draft)
        draft.mkdir()
        try:
            builder = _Builder(draft, partitions, vocabulary, tokenizer_hash)
            for id_, tokens in documents:
                builder.add(id_, tokens)
            manifest = Manifest(FORMAT, name, vocabulary, tokenizer_hash, builder.finish())
            raw = msgspec.json.format(msgspec.json.encode(manifest))
            write_atomically(draft / MANIFEST, [raw])
            draft.rename(place)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        sync_directory(root)
    return manifest


def ensure_corpus(
    root: Path,
    name: str,
    documents: Iterable[tuple[str, Sequence[int] | IntArray]],
    *,
    wait_s: float = WAIT_S,
    **made_with: Any,
) -> None:
    """Makes a corpus unless it is there. While another process makes it, waits for that one.

    ``documents`` are read only if it is made here. If the other one fails or dies, it is.

    Args:
        made_with: as for `build_corpus`.

    Raises:
        InvalidRequest: see `build_corpus`.
        Unavailable: another process is still making it after ``wait_s``.
    """
    deadline = time.monotonic() + wait_s
    waiting = False
    while not has_corpus(root, name):
        try:
            build_corpus(root, name, documents, **made_with)
        except Unavailable:
            if time.monotonic() >= deadline:
                raise
            if not waiting:
                _logger.warning("corpus %s is being made by another process; waiting", name)
            waiting = True
            time.sleep(_POLL_S)
        except InvalidRequest:
            if not has_corpus(root, name):  # else it was finished elsewhere just now
                raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock that the system takes back from a process that dies."""
    with path.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Unavailable(f"{path} is held: the corpus is being made elsewhere") from error
        yield


class _Builder:
    """Collects documents per partition and writes a segment whenever memory is full."""

    def __init__(self, place: Path, partitions: int, vocabulary: int, tokenizer_hash: str) -> None:
        self._place = place
        self._vocabulary = vocabulary
        self._tokenizer_hash = tokenizer_hash
        self._seen: set[bytes] = set()
        self._waiting: list[list[UInt32s]] = [[] for _ in range(partitions)]
        self._sizes = [0] * partitions
        self._buffered = 0
        self._entries: list[list[SegmentEntry]] = [[] for _ in range(partitions)]

    def add(self, id_: str, tokens: Sequence[int] | IntArray) -> None:
        key = hashlib.blake2b(id_.encode(errors="surrogatepass"), digest_size=16).digest()
        if key in self._seen:
            raise InvalidRequest(f"document id {id_!r} comes twice")
        self._seen.add(key)
        partition = int.from_bytes(key, "little") % len(self._waiting)
        document = _checked(id_, tokens, self._vocabulary)
        self._waiting[partition].append(document)
        self._sizes[partition] += len(document) + 1
        self._buffered += len(document) + 1
        if self._buffered >= BUFFERED_TOKENS:
            self._write(self._sizes.index(max(self._sizes)))

    def finish(self) -> list[list[SegmentEntry]]:
        """Writes what is left; returns the segments of each partition."""
        for partition, waiting in enumerate(self._waiting):
            if waiting:
                self._write(partition)
        return self._entries

    def _write(self, partition: int) -> None:
        entries = self._entries[partition]
        file = f"partition-{partition:04d}/segment-{len(entries) + 1:06d}.seg"
        path = self._place / file
        path.parent.mkdir(exist_ok=True)
        header = write_segment(
            path,
            self._waiting[partition],
            vocabulary=self._vocabulary,
            tokenizer_hash=self._tokenizer_hash,
        )
        entries.append(SegmentEntry(file, header.documents, header.tokens, header.header_crc))
        self._buffered -= self._sizes[partition]
        self._waiting[partition], self._sizes[partition] = [], 0


def _checked(id_: str, tokens: Sequence[int] | IntArray, vocabulary: int) -> UInt32s:
    """A copy of the document's tokens uint32[n]."""
    array = np.asarray(tokens)
    if array.size == 0:
        return np.zeros(0, np.uint32)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise InvalidRequest(
            f"document {id_!r} must be a list of integers; got {array.dtype}{list(array.shape)}"
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= vocabulary:
        raise InvalidRequest(
            f"token ids must be in [0, {vocabulary}); document {id_!r} holds "
            f"{low if low < 0 else high}"
        )
    return array.astype(np.uint32)
