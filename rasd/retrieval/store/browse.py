"""Documents of a corpus, one by one, beside its writer and always as the newest manifests say."""

from __future__ import annotations

import base64
import binascii
import heapq
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from rasd.datastore import DocumentInfo, Page
from rasd.errors import InvalidRequest, NotFound, SegmentError
from rasd.retrieval.store.contents import open_source
from rasd.retrieval.store.corpora import CorpusSpec, partition_path
from rasd.retrieval.store.dead import read_dead
from rasd.retrieval.store.documents import DocumentsFile
from rasd.retrieval.store.follow import Files
from rasd.retrieval.store.followers import CorpusFollower, Identity, PartitionFollower, View
from rasd.retrieval.store.layout import Int64s
from rasd.retrieval.store.manifest import PartitionManifest, SourceEntry, dead_path, docs_path
from rasd.retrieval.store.names import names, ordinals, united
from rasd.retrieval.store.records import DIGEST_BYTES, Document, id_digest, partition_of

_CHECK_BYTES: Final = 2
_CHUNK: Final = 256


@dataclass(frozen=True, slots=True)
class _Source:
    """Documents, and the ordinals int64[K] of those that are dead, sorted."""

    file: DocumentsFile
    dead: Int64s

    def living(self, found: Int64s) -> Int64s:
        """Those of some ordinals int64[n] that live, in the same order."""
        return found[np.isin(found, self.dead, invert=True)]

    def behind(self, digest: bytes) -> Iterator[tuple[bytes, int]]:
        """Digest and ordinal of living documents behind a digest, in order of digests."""
        while len(found := self.file.after(digest, _CHUNK)):
            for ordinal in self.living(found).tolist():
                yield self.file.digest(ordinal), ordinal
            digest = self.file.digest(int(found[-1]))


@dataclass(frozen=True, slots=True, eq=False)
class _Documents(View):
    """The documents of a partition."""

    sources: tuple[_Source, ...] = ()

    def find(self, digest: bytes) -> tuple[_Source, int] | None:
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


class _Follower(PartitionFollower[_Documents]):
    """Follows the documents of a partition."""

    def __init__(self, root: Path, spec: CorpusSpec, partition: int) -> None:
        path = partition_path(root, spec.name, partition)
        super().__init__(path, _Documents())
        self._files: Files[DocumentsFile] = Files(path)
        self._dead: Files[Int64s] = Files(path)

    def _build(self, manifest: PartitionManifest) -> _Documents:
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
                sources.append(_Source(file, dead))
        self._files.end()
        self._dead.end()
        refused = {**self._files.refused, **self._dead.refused}
        return _Documents(
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


class Browser:
    """Reads documents of a corpus. Every call sees what was committed before it.

    Safe to use from several threads; calls read from disk. Keeps the files of documents open.
    A damaged file is left out; see each call for what that means.
    """

    def __init__(self, root: Path, name: str) -> None:
        """The corpus need not be there yet.

        Raises:
            InvalidRequest: the name is none.
        """
        self._name = name
        self._where = f"no corpus {name!r} in {root}"
        self._lock = threading.Lock()

        def open_(spec: CorpusSpec, identity: Identity) -> list[_Follower]:
            return [_Follower(root, spec, partition) for partition in range(spec.partitions)]

        self._corpus = CorpusFollower(root, name, open_)

    def get(self, id_: str) -> Document:
        """The document of an id.

        Raises:
            NotFound: no such corpus or document.
            SegmentError: it is damaged, or may have been in a file that is.
        """
        views = self._views()
        digest = id_digest(id_)
        view = views[partition_of(digest, len(views))]
        found = view.find(digest)
        if found is not None:
            return found[0].file.read(found[1])
        if view.refused:
            raise next(iter(view.refused.values())).with_traceback(None)
        raise NotFound(f"corpus {self._name!r} has no document {id_!r}", param="id")

    def page(self, after: str | None, limit: int) -> Page:
        """Up to ``limit`` documents in order of partition and id digest, behind a page.

        A document that is there all the while is on one page. Those in damaged files are on none.

        Args:
            after: `Page.after` of the page before; None for the first.

        Raises:
            NotFound: no such corpus.
            InvalidRequest: ``after`` came from no page of this corpus, or ``limit`` is below 1.
            SegmentError: a document on the page is damaged.
        """
        if limit < 1:
            raise InvalidRequest(f"limit must be at least 1; got {limit}", param="limit")
        digest = b"" if after is None else self._parse(after)
        views = self._views()
        first = partition_of(digest, len(views)) if digest else 0
        rows: list[tuple[bytes, _Source, int]] = []
        for view in views[first:]:
            found = islice(view.behind(digest), limit + 1 - len(rows))
            rows += [(key, view.sources[number], ordinal) for key, number, ordinal in found]
            digest = b""
        listed: dict[bytes, DocumentInfo] = {}
        # Neighbours on disk are read together.
        for key, source, ordinal in sorted(rows[:limit], key=lambda row: (id(row[1]), row[2])):
            listed[key] = DocumentInfo(source.file.read(ordinal).id, source.file.tokens(ordinal))
        documents = [listed[key] for key, _, _ in rows[:limit]]
        return Page(documents, self._mark(rows[limit - 1][0]) if len(rows) > limit else None)

    def resolve(self, digests: Sequence[bytes]) -> list[str | None]:
        """Ids by digest, in order; None for documents that are gone, or in a damaged place.

        Raises:
            NotFound: no such corpus.
        """
        views = self._views()
        found: list[str | None] = []
        for digest in digests:
            place = views[partition_of(digest, len(views))].find(digest)
            try:
                found.append(place[0].file.read(place[1]).id if place else None)
            except SegmentError:
                found.append(None)
        return found

    def documents(self) -> Iterator[Document]:
        """All documents, in an order that is quick to read, each partition as it is now.

        Raises:
            NotFound: no such corpus.
            SegmentError: something is damaged; raised at the end, behind all that can be read.
        """
        return _read_all(self._views())

    def _views(self) -> list[_Documents]:
        with self._lock:
            self._corpus.refresh()
            if self._corpus.refused is not None:
                raise self._corpus.refused.with_traceback(None)
            if not self._corpus.there:
                raise NotFound(self._where, param="corpus")
            return [partition.view for partition in self._corpus.partitions]

    # A mark is the digest of the last document, and two bytes that only this corpus adds to it.

    def _mark(self, digest: bytes) -> str:
        return base64.urlsafe_b64encode(digest + self._check(digest)).decode()

    def _parse(self, after: str) -> bytes:
        try:
            raw = base64.b64decode(after.encode("ascii"), b"-_", validate=True)
        except (UnicodeEncodeError, binascii.Error, ValueError):
            raw = b""
        digest = raw[:DIGEST_BYTES]
        if len(raw) != DIGEST_BYTES + _CHECK_BYTES or self._check(digest) != raw[DIGEST_BYTES:]:
            raise InvalidRequest(f"after must come from a page; got {after!r:.80}", param="after")
        return digest

    def _check(self, digest: bytes) -> bytes:
        return zlib.crc32(digest + self._name.encode()).to_bytes(4, "little")[:_CHECK_BYTES]


def _read_all(views: list[_Documents]) -> Iterator[Document]:
    errors = [error for view in views for error in view.refused.values()]
    for source in (source for view in views for source in view.sources):
        for ordinal in source.living(np.arange(source.file.count)).tolist():
            try:
                document = source.file.read(ordinal)
            except SegmentError as error:
                errors.append(error)
            else:
                yield document
    if errors:
        raise errors[0].with_traceback(None)
