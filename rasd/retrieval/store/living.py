"""The living documents of a partition, by id digest, kept up with its manifest."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from rasd.retrieval.store.contents import open_source
from rasd.retrieval.store.corpora import CorpusSpec, partition_path
from rasd.retrieval.store.dead import read_dead
from rasd.retrieval.store.documents import DocumentsFile
from rasd.retrieval.store.follow import Files
from rasd.retrieval.store.followers import PartitionFollower, View
from rasd.retrieval.store.layout import Int64s
from rasd.retrieval.store.manifest import PartitionManifest, SourceEntry, dead_path, docs_path
from rasd.retrieval.store.names import among, names, ordinals, united

_CHUNK: Final = 256


@dataclass(frozen=True, slots=True)
class LiveSource:
    """Documents, and the ordinals int64[K] of those that are dead, sorted."""

    file: DocumentsFile
    dead: Int64s

    def living(self, found: Int64s) -> Int64s:
        """Those of some ordinals int64[n] that live, in the same order."""
        return found[~among(found, self.dead)]

    def behind(self, digest: bytes) -> Iterator[tuple[bytes, int]]:
        """Digest and ordinal of living documents behind a digest, in order of digests."""
        while len(found := self.file.after(digest, _CHUNK)):
            for ordinal in self.living(found).tolist():
                yield self.file.digest(ordinal), ordinal
            digest = self.file.digest(int(found[-1]))


@dataclass(frozen=True, slots=True, eq=False)
class DocumentsView(View):
    """The documents of a partition."""

    sources: tuple[LiveSource, ...] = ()

    def find(self, digest: bytes) -> tuple[LiveSource, int] | None:
        """The living document of an id."""
        for source in self.sources:
            ordinal = source.file.find(digest)
            if ordinal is not None and len(source.living(np.array([ordinal]))):
                return source, ordinal
        return None

    def behind(self, digest: bytes) -> Iterator[tuple[bytes, int, int]]:
        """Digest, source and ordinal of living documents behind a digest, in order of digests."""

        def of(number: int) -> Iterator[tuple[bytes, int, int]]:
            return ((key, number, row) for key, row in self.sources[number].behind(digest))

        return heapq.merge(*map(of, range(len(self.sources))))


class DocumentsFollower(PartitionFollower[DocumentsView]):
    """Follows the documents of a partition."""

    def __init__(self, root: Path, spec: CorpusSpec, partition: int) -> None:
        """Reads nothing yet."""
        path = partition_path(root, spec.name, partition)
        super().__init__(path, DocumentsView())
        self._files: Files[DocumentsFile] = Files(path)
        self._dead: Files[Int64s] = Files(path)

    def _build(self, manifest: PartitionManifest) -> DocumentsView:
        self._files.begin()
        self._dead.begin()
        opened = {entry: self._open(entry) for entry in manifest.sources}
        logs = [file for entry in manifest.logs if (file := opened[entry]) is not None]
        deleted = united([names(file.deletes) for file in logs])
        sources = []
        for entry, file in opened.items():
            dead = self._dead_file(entry)
            if file is not None and dead is not None:
                dead = np.union1d(dead, ordinals(deleted, entry.number, file.count))
                sources.append(LiveSource(file, dead))
        self._files.end()
        self._dead.end()
        refused = {**self._files.refused, **self._dead.refused}
        return DocumentsView(
            manifest.version,
            {self._name(file): error for file, error in refused.items()},
            tuple(sources),
        )

    def _open(self, entry: SourceEntry) -> DocumentsFile | None:
        file = docs_path(self._path, entry.number)
        return self._files.get(
            entry, file, entry.docs_checksum, lambda: open_source(self._path, entry)
        )

    def _dead_file(self, entry: SourceEntry) -> Int64s | None:
        if not entry.dead:
            return np.zeros(0, np.int64)
        file = dead_path(self._path, entry.number, entry.dead)
        return self._dead.get(
            entry, file, entry.dead_checksum, lambda: read_dead(self._path, entry)
        )
