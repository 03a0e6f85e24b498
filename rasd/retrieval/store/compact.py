"""Writes the live documents of some sources into one segment. Runs in any process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rasd.errors import SegmentCorrupt, SegmentError
from rasd.retrieval.files import creating, storing
from rasd.retrieval.segment import write_segment
from rasd.retrieval.store.documents import DocumentsFile, open_documents
from rasd.retrieval.store.layout import Int64s, token_type
from rasd.retrieval.store.manifest import docs_path, seg_path
from rasd.retrieval.store.pack import COPIED_BYTES, DocumentsInfo, DocumentsWriter

Bools = NDArray[np.bool_]
UInts = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done.

    Attributes:
        path: of the partition.
        inputs: per source, the ordinals int64[n] of its dead documents.
        output: number of the new segment.
        urgent: what waits for it is worth being put first.
    """

    path: Path
    inputs: dict[int, Int64s]
    output: int
    vocabulary: int
    tokenizer_hash: str
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it: two files, or none if no document was live.

    Nothing was done if an input is ``damaged``, or if the number is ``taken``: by a compaction
    that a former writer had begun.
    """

    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    docs_checksum: int = 0
    seg_checksum: int = 0
    damaged: int = 0
    reason: str = ""
    taken: bool = False


class _Damaged(Exception):
    """An input cannot be read."""

    def __init__(self, number: int, error: Exception) -> None:
        super().__init__(f"{error}")
        self.number = number


def compact(job: Job) -> Outcome:
    """Writes and syncs the files of the new source; their names are not durable yet.

    Takes memory for the live tokens, and for sorting them (see `write_segment`); documents are
    streamed.

    Raises:
        StorageError: the system refuses it; nothing is left of it.
    """
    docs, seg = docs_path(job.path, job.output), seg_path(job.path, job.output)
    with storing(docs):
        try:
            sources = {number: _open(job, number) for number in job.inputs}
            alive = {
                number: alive_of(source.count, job.inputs[number])
                for number, source in sources.items()
            }
            if not any(mask.any() for mask in alive.values()):
                return Outcome()
            with creating(docs) as file:  # first: whoever creates it owns the number
                writer = DocumentsWriter(file, job.vocabulary)
                documents = _copy(sources, alive, writer, job.vocabulary)
                info = writer.finish()
            return _index(job, info, documents, docs, seg)
        except FileExistsError:
            return Outcome(taken=True)
        except _Damaged as damaged:
            return Outcome(damaged=damaged.number, reason=str(damaged))


def alive_of(count: int, dead: Int64s) -> Bools:
    """Which of ``count`` documents are not in ``dead``, bool[count]."""
    alive = np.ones(count, np.bool_)
    alive[dead] = False
    return alive


def _open(job: Job, number: int) -> DocumentsFile:
    path = docs_path(job.path, number)
    try:
        source = open_documents(path)
        if source.header.vocabulary != job.vocabulary:
            raise SegmentCorrupt(
                f"{path}: vocabulary must be {job.vocabulary}; got {source.header.vocabulary}"
            )
    except (SegmentError, FileNotFoundError) as error:
        raise _Damaged(number, error) from error
    return source


def _copy(
    sources: dict[int, DocumentsFile],
    alive: dict[int, Bools],
    writer: DocumentsWriter,
    vocabulary: int,
) -> list[UInts]:
    """Gives all live documents to ``writer``; returns their tokens, views of one array."""
    total = sum(
        int(source.places[alive[number], 0].sum(dtype=np.int64))
        for number, source in sources.items()
    )
    tokens = np.empty(total, token_type(vocabulary))
    documents: list[UInts] = []
    at = 0
    for number, source in sources.items():
        try:
            for document in _stream(source, alive[number], writer):
                tokens[at : at + len(document)] = document
                documents.append(tokens[at : at + len(document)])
                at += len(document)
        except SegmentError as error:
            raise _Damaged(number, error) from error
    return documents


def _stream(source: DocumentsFile, alive: Bools, writer: DocumentsWriter) -> Iterator[UInts]:
    """The live documents' tokens, in turn; what is wholly live is not compressed again."""
    borders = np.searchsorted(source.places[:, 1], np.arange(len(source.table) + 1))
    for block, (first, last) in enumerate(pairwise(borders)):
        live = np.flatnonzero(alive[first:last]) + first
        if not len(live):
            continue
        whole = len(live) == last - first and source.table[block, 2] >= COPIED_BYTES
        if whole:
            writer.copy(source, block)
        for ordinal in live.tolist():
            tokens = source.read_tokens(ordinal)
            if not whole:
                writer.add(
                    source.record(ordinal),
                    len(tokens),
                    source.digest(ordinal),
                    source.content(ordinal),
                )
            yield tokens


def _index(job: Job, info: DocumentsInfo, documents: list[UInts], docs: Path, seg: Path) -> Outcome:
    try:
        header = write_segment(
            seg, documents, vocabulary=job.vocabulary, tokenizer_hash=job.tokenizer_hash
        )
    except BaseException:
        with suppress(OSError):
            docs.unlink()
        raise
    return Outcome(
        documents=info.documents,
        tokens=info.tokens,
        bytes=info.bytes + header.file_bytes,
        docs_checksum=info.checksum,
        seg_checksum=header.header_crc,
    )
