"""Commits to one partition."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from rasd.datastore import Change
from rasd.errors import RasdError, SegmentError, StorageError, StoreLocked
from rasd.retrieval.files import creating, storing, sync_directory
from rasd.retrieval.store.compact import Job, Outcome
from rasd.retrieval.store.contents import Contents, Place, load, open_source
from rasd.retrieval.store.corpora import CorpusSpec
from rasd.retrieval.store.dead import write_dead
from rasd.retrieval.store.documents import DocumentsFile
from rasd.retrieval.store.layout import Int64s
from rasd.retrieval.store.manifest import (
    PartitionManifest,
    SourceEntry,
    commit,
    dead_path,
    docs_path,
    files_of,
    newest,
    seg_path,
)
from rasd.retrieval.store.pack import DocumentsInfo, DocumentsWriter, encode
from rasd.retrieval.store.records import Delete, Document, Operation, content_digest

_NUMBER: Final = re.compile(r"\b(?:source|dead)-([0-9]{6,})")

_SOURCE: Final = re.compile(r"\bpartition-\d+/source-\d+\.[a-z]+(-\d+)?")

_T = TypeVar("_T")


@dataclass(slots=True)
class Step:
    """What a group of operations does to a partition.

    Attributes:
        puts: documents to add, with the digests of id and content.
        pairs: what they replace, and what is deleted.
        gone: tokens of those.
    """

    changes: list[Change] = field(default_factory=list)
    puts: list[tuple[Document, bytes, bytes]] = field(default_factory=list)
    pairs: list[Place] = field(default_factory=list)
    gone: int = 0


def step_of(contents: Contents, operations: Sequence[tuple[bytes, Operation]]) -> Step:
    """What operations, each with the digest of its id, all distinct, change in what is there."""
    step = Step()
    places = contents.locate([digest for digest, _ in operations])
    for (digest, operation), place in zip(operations, places, strict=True):
        if isinstance(operation, Delete):
            step.changes.append("deleted" if place else "missing")
        else:
            content = content_digest(operation.document)
            if place and contents.content(place) == content:
                step.changes.append("unchanged")
                continue
            step.changes.append("replaced" if place else "created")
            step.puts.append((operation.document, digest, content))
        if place:
            step.pairs.append(place)
            step.gone += contents.documents[place[0]].tokens(place[1])
    return step


class PartitionStore:
    """Commits to a partition, one change after the other. Not for several threads at once.

    After a failure the newest manifest is read again, so that memory says what the disk says.

    Attributes:
        damaged: why nothing can be written, by the file that is to blame, as in
            "partition-0003/source-000017.docs", or the partition; empty if all is well.
    """

    def __init__(self, path: Path, spec: CorpusSpec, writer: str) -> None:
        """Takes the partition over, as ``writer``, a name nobody else has.

        Raises:
            StoreLocked: another writer has just done the same.
            StorageError, SegmentCorrupt, SegmentVersionError: it cannot be written or read.
        """
        self.path = path
        self._spec = spec
        self._writer = writer
        self._contents: Contents | None = None
        self.damaged: dict[str, str] = {}
        manifest = newest(path)
        with storing(path):
            used = [int(found) for name in os.listdir(path) for found in _NUMBER.findall(name)]
        self._next = max([manifest.next_source, *(number + 1 for number in used)])
        self._commit(manifest, epoch=manifest.epoch + 1)

    @property
    def contents(self) -> Contents:
        """What is there now.

        Raises:
            StoreLocked: another writer has taken over.
            StorageError: the disk refuses, or a file is damaged, so that nothing can be written.
        """
        if self._contents is None:
            try:
                manifest = newest(self.path)
                if manifest.writer != self._writer:
                    raise StoreLocked(f"{self.path}: another writer has taken over")
                with storing(self.path):  # a commit may have failed after its manifest was there
                    sync_directory(self.path)
                self._contents = load(self.path, manifest)
                self.damaged = {}
            except SegmentError as error:
                file = _SOURCE.search(str(error))
                self.damaged = {file[0] if file else self.path.name: str(error)}
                raise StorageError(f"damaged, nothing can be written: {error}") from error
        return self._contents

    def reserve(self) -> int:
        """A number that no source and no file of dead documents has."""
        self._next += 1
        return self._next - 1

    def write(self, operations: Sequence[tuple[bytes, Operation]]) -> list[Change]:
        """Commits a group of operations, each with the digest of its id, all distinct.

        Raises:
            StoreLocked, StorageError: as `contents`. The group may count or not; repeat it.
        """
        contents = self.contents
        step = step_of(contents, operations)
        if step.puts or step.pairs:
            with self._attempt() as created:
                number, info = self._create(
                    created, docs_path, lambda file: _write_log(file, step, self._spec.vocabulary)
                )
                entry = SourceEntry(
                    number, "log", info.documents, info.tokens, info.bytes, info.checksum
                )
                documents = open_source(self.path, entry)
                old = contents.manifest
                manifest = self._commit(
                    old,
                    documents=old.documents + info.documents - len(step.pairs),
                    tokens=old.tokens + info.tokens - step.gone,
                    sources=[*old.sources, entry],
                )
                contents.append(manifest, documents, step.pairs)
        return step.changes

    def replace(self, job: Job, outcome: Outcome) -> None:
        """Commits what a compaction made of its inputs.

        Raises:
            StoreLocked, StorageError: as `contents`; its files are removed.
        """
        with self._attempt() as created:
            if outcome.documents:
                created += [docs_path(self.path, job.output), seg_path(self.path, job.output)]
            contents = self.contents
            if not job.inputs.keys() <= contents.documents.keys():
                raise StorageError(f"{self.path}: what was compacted is there no more")
            known = {n: d for n, d in contents.documents.items() if n not in job.inputs}
            sources = self._kept(contents, job, created)
            if outcome.documents:
                entry = SourceEntry(
                    job.output,
                    "segment",
                    outcome.documents,
                    outcome.tokens,
                    outcome.bytes,
                    outcome.docs_checksum,
                    outcome.seg_checksum,
                )
                known[job.output] = open_source(self.path, entry)
                dead = _died_meanwhile(contents, job, known[job.output])
                sources.append(self._with_dead(entry, dead, created))
            manifest = self._commit(contents.manifest, sources=sources)
            self._contents = load(self.path, manifest, known)

    def _kept(self, contents: Contents, job: Job, created: list[Path]) -> list[SourceEntry]:
        """The other sources. What logs among the inputs deleted of them is written down."""
        touched = {
            number
            for log in contents.manifest.logs
            if log.number in job.inputs
            for number in contents.documents[log.number].deletes[:, 0].tolist()
        }
        return [
            self._with_dead(entry, contents.dead(entry.number), created)
            if entry.number in touched
            else entry
            for entry in contents.manifest.sources
            if entry.number not in job.inputs
        ]

    def _with_dead(self, entry: SourceEntry, dead: Int64s, created: list[Path]) -> SourceEntry:
        if not len(dead):
            return entry
        number, checksum = self._create(
            created,
            lambda path, number: dead_path(path, entry.number, number),
            lambda file: write_dead(file, dead),
        )
        return msgspec.structs.replace(entry, dead=number, dead_checksum=checksum)

    def _commit(self, old: PartitionManifest, **changes: Any) -> PartitionManifest:
        manifest = msgspec.structs.replace(
            old,
            version=old.version + 1,
            writer=self._writer,
            next_source=self._next,
            written=time.time(),
            **changes,
        )
        commit(self.path, manifest)
        return manifest

    def _create(
        self,
        created: list[Path],
        name: Callable[[Path, int], Path],
        write: Callable[[Path], _T],
    ) -> tuple[int, _T]:
        """Writes a new file under a free number."""
        while True:
            number = self.reserve()
            file = name(self.path, number)
            try:
                written = write(file)
            except FileExistsError:  # from a writer that was killed or has been replaced
                continue
            created.append(file)
            return number, written

    @contextmanager
    def _attempt(self) -> Iterator[list[Path]]:
        """Collects files that are created; removes those that are not needed after a failure."""
        created: list[Path] = []
        try:
            with storing(self.path):
                yield created
        except BaseException as error:
            self._contents = None
            with suppress(RasdError):
                needed = files_of(self.path, self.contents.manifest)
                for file in set(created) - needed:
                    with suppress(OSError):
                        file.unlink()
            if isinstance(error, SegmentError):
                raise StorageError(f"damaged as soon as written: {error}") from error
            raise


def _write_log(file: Path, step: Step, vocabulary: int) -> DocumentsInfo:
    with creating(file) as target:
        writer = DocumentsWriter(target, vocabulary)
        for document, digest, content in step.puts:
            writer.add(encode(document, vocabulary), len(document.tokens), digest, content)
        return writer.finish(step.pairs)


def _died_meanwhile(contents: Contents, job: Job, output: DocumentsFile) -> Int64s:
    """Ordinals int64[n] in the output of documents that were live when the compaction began."""
    gone = [
        contents.documents[number].digests(
            np.setdiff1d(contents.dead(number), before, assume_unique=True)
        )
        for number, before in job.inputs.items()
    ]
    return np.sort(output.find_all(np.concatenate(gone)))
