"""What a shard searches of one partition, kept up with its manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np

from rasd.retrieval.headers import expect
from rasd.retrieval.live import Live
from rasd.retrieval.search import Part
from rasd.retrieval.segment import Segment, open_segment
from rasd.retrieval.store.contents import open_source
from rasd.retrieval.store.corpora import CorpusSpec, partition_path
from rasd.retrieval.store.dead import read_dead
from rasd.retrieval.store.documents import DocumentsFile
from rasd.retrieval.store.follow import Files
from rasd.retrieval.store.followers import PartitionFollower, View
from rasd.retrieval.store.layout import Int64s, UInt8s
from rasd.retrieval.store.manifest import (
    PartitionManifest,
    SourceEntry,
    dead_path,
    docs_path,
    seg_path,
)
from rasd.retrieval.store.memory import LogDocument, Memory
from rasd.retrieval.store.names import name, names, ordinals, united

_NOTHING: Final = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class PartitionView(View):
    """A partition as it is searched.

    Attributes:
        written: of the manifest, in seconds since 1970.
        parts: to be searched. digests: per part, gives the digests uint8[M, 16] of the ids of
            its documents int64[M].
        documents, tokens: live ones that are searched; ``memory_tokens`` of them in the log.
        segments, bytes: files of the manifest, and what all of them take.
    """

    written: float = 0.0
    parts: tuple[Part, ...] = ()
    digests: tuple[Callable[[Int64s], UInt8s], ...] = ()
    documents: int = 0
    tokens: int = 0
    memory_tokens: int = 0
    segments: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Log:
    """A log source: its documents until they are in memory, and names of others it deletes."""

    documents: list[LogDocument]
    deletes: Int64s


@dataclass(frozen=True, slots=True)
class _Segment:
    """A segment source, and what lives of it; all if None."""

    index: Segment
    file: DocumentsFile
    live: Live | None

    @property
    def documents(self) -> int:
        return self.file.count if self.live is None else self.live.documents

    @property
    def tokens(self) -> int:
        return len(self.index.suffixes) if self.live is None else self.live.tokens


class PartitionReader(PartitionFollower[PartitionView]):
    """Follows what is searched of one partition.

    Every file is opened once, and read whole to be checked. Of a damaged source nothing serves.
    While the documents of a log cannot be read, nothing of the partition does: nobody knows what
    else it deletes, and what was deleted must not come back.
    """

    def __init__(self, root: Path, spec: CorpusSpec, partition: int) -> None:
        """Reads nothing yet."""
        path = partition_path(root, spec.name, partition)
        super().__init__(path, PartitionView())
        self._spec = spec
        self._files: Files[DocumentsFile] = Files(path)
        self._indexes: Files[Segment] = Files(path)
        self._logs: Files[_Log] = Files(path)
        self._dead: Files[Int64s] = Files(path)
        self._segments: dict[int, _Segment] = {}
        self._memory = Memory()

    def _build(self, manifest: PartitionManifest) -> PartitionView:
        every = (self._files, self._indexes, self._logs, self._dead)
        for files in every:
            files.begin()
        logs = {entry: log for entry in manifest.logs if (log := self._log(entry)) is not None}
        deleted = united([log.deletes for log in logs.values()])
        segments = {
            entry.number: segment
            for entry in manifest.segments
            if (segment := self._segment(entry, deleted)) is not None
        }
        self._memory = self._with(logs, deleted)
        self._segments = segments
        for files in every:
            files.end()
        return self._view(manifest, serves=len(logs) == len(manifest.logs))

    def _view(self, manifest: PartitionManifest, serves: bool) -> PartitionView:
        """What was read, or nothing of it."""
        segments = [segment for segment in self._segments.values() if segment.documents]
        groups = self._memory.groups
        refused = chain.from_iterable(
            files.refused.items() for files in (self._files, self._indexes, self._logs, self._dead)
        )
        view = PartitionView(
            manifest.version,
            {self._name(file): error for file, error in refused},
            manifest.written,
            segments=len(manifest.segments),
            bytes=sum(entry.bytes for entry in manifest.sources),
        )
        if not serves:
            return view
        return replace(
            view,
            parts=(*(Part(s.index, s.live) for s in segments), *(group.part for group in groups)),
            digests=(*(s.file.digests for s in segments), *(g.digests.__getitem__ for g in groups)),
            documents=self._memory.documents + sum(segment.documents for segment in segments),
            tokens=self._memory.tokens + sum(segment.tokens for segment in segments),
            memory_tokens=self._memory.tokens,
        )

    # --- sources ------------------------------------------------------------------------------

    def _with(self, logs: dict[SourceEntry, _Log], deleted: Int64s) -> Memory:
        """What is in memory with these logs, and no others."""
        served: dict[int, _Log] = {}
        dead = [deleted]
        for entry, log in logs.items():
            gone = self._dead_file(entry)
            if gone is None:  # nobody knows what lives; begin anew when that is mended
                self._logs.forget(docs_path(self._path, entry.number), entry.docs_checksum)
            else:
                served[entry.number] = log
                dead.append(gone + name(entry.number, 0))
        memory = self._memory.updated(
            chain.from_iterable(log.documents for log in served.values()),
            sources=served,
            dead=np.concatenate(dead),
            vocabulary=self._spec.vocabulary,
        )
        for log in served.values():
            log.documents.clear()
        return memory

    def _segment(self, entry: SourceEntry, deleted: Int64s) -> _Segment | None:
        file = self._files.get(
            entry,
            docs_path(self._path, entry.number),
            entry.docs_checksum,
            lambda: open_source(self._path, entry),
        )
        index = self._indexes.get(
            entry,
            seg_path(self._path, entry.number),
            entry.seg_checksum,
            lambda: self._open_index(entry),
        )
        dead = self._dead_file(entry)
        if file is None or index is None or dead is None:
            return None
        dead = np.union1d(dead, ordinals(deleted, entry.number, file.count))
        known = self._segments.get(entry.number)
        before = known.live if known is not None and known.index is index else None
        if not len(dead):
            live = None
        elif before is not None and np.array_equal(before.dead, dead):
            live = before
        else:
            live = Live.without(index, dead, before)
        return _Segment(index, file, live)

    def _open_index(self, entry: SourceEntry) -> Segment:
        path = seg_path(self._path, entry.number)
        index = open_segment(
            path, vocabulary=self._spec.vocabulary, tokenizer_hash=self._spec.tokenizer_hash
        )
        expect(path, "header checksum", entry.seg_checksum, index.header.header_crc)
        expect(path, "documents", entry.documents, len(index.documents))
        return index

    def _dead_file(self, entry: SourceEntry) -> Int64s | None:
        """The consolidated dead of a source; None if they cannot be read."""
        if not entry.dead:
            return _NOTHING
        file = dead_path(self._path, entry.number, entry.dead)

        def read() -> Int64s:
            gone = read_dead(self._path, entry)
            expect(file, "ordinals in range", True, bool(np.all(gone < entry.documents)))
            return gone

        return self._dead.get(entry, file, entry.dead_checksum, read)

    def _log(self, entry: SourceEntry) -> _Log | None:
        file = docs_path(self._path, entry.number)
        return self._logs.get(entry, file, entry.docs_checksum, lambda: self._read_log(entry))

    def _read_log(self, entry: SourceEntry) -> _Log:
        file = open_source(self._path, entry)
        pairs = file.deletes
        expect(file.path, "deletes in range", True, bool(np.all((pairs >= 0) & (pairs < 2**31))))
        digests = file.digests(np.arange(file.count))
        documents = []
        for ordinal in range(file.count):
            tokens = file.read_tokens(ordinal).astype(np.uint32)
            expect(
                file.path, "token ids in range", True, bool(np.all(tokens < self._spec.vocabulary))
            )
            documents.append(LogDocument(name(entry.number, ordinal), digests[ordinal], tokens))
        return _Log(documents, names(pairs))
