"""Documents of a corpus, one by one, beside its writer and always as the newest manifests say."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from rasd.datastore import DocumentInfo, Page, StoredDocument
from rasd.errors import InvalidRequest, NotFound, SegmentError
from rasd.retrieval.store.corpora import CorpusSpec
from rasd.retrieval.store.followers import CorpusFollower, Identity
from rasd.retrieval.store.living import DocumentsFollower, DocumentsView, LiveSource
from rasd.retrieval.store.records import Document, id_digest, partition_of

MAX_OPEN: Final = 16
IDLE_S: Final = 30.0


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

        def open_(spec: CorpusSpec, identity: Identity) -> list[DocumentsFollower]:
            return [
                DocumentsFollower(root, spec, partition) for partition in range(spec.partitions)
            ]

        self._corpus = CorpusFollower(root, name, open_)

    def get(self, id_: str) -> StoredDocument:
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
            return _stored(found[0].file.read(found[1]))
        if view.refused:
            raise next(iter(view.refused.values())).with_traceback(None)
        raise NotFound(f"corpus {self._name!r} has no document {id_!r}", param="id")

    def page(self, after: str | None, limit: int) -> Page:
        """Up to ``limit`` documents in order of partition and id digest, behind a page.

        A document that is there all the while is on one page. Those in damaged files are on none;
        every page names all such files.

        Args:
            after: id of the last document of the page before, be it there or not; None for the
                first page.

        Raises:
            NotFound: no such corpus.
            InvalidRequest: ``after`` is no text, or ``limit`` is below 1.
            SegmentError: a document on the page is damaged.
        """
        if limit < 1:
            raise InvalidRequest(f"limit must be at least 1; got {limit}", param="limit")
        digest = b"" if after is None else _place(after)
        views = self._views()
        first = partition_of(digest, len(views)) if digest else 0
        rows: list[tuple[bytes, LiveSource, int]] = []
        for view in views[first:]:
            found = islice(view.behind(digest), limit + 1 - len(rows))
            rows += [(key, view.sources[number], ordinal) for key, number, ordinal in found]
            digest = b""
        listed: dict[bytes, DocumentInfo] = {}
        # Neighbours on disk are read together.
        for key, source, ordinal in sorted(rows[:limit], key=lambda row: (id(row[1]), row[2])):
            listed[key] = DocumentInfo(source.file.read(ordinal).id, source.file.tokens(ordinal))
        documents = [listed[key] for key, _, _ in rows[:limit]]
        damaged = sorted({name for view in views for name in view.refused})
        more = len(rows) > limit
        return Page(documents, documents[-1].id if more else None, damaged)

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

    def documents(self) -> Iterator[StoredDocument]:
        """All documents, in an order that is quick to read, each partition as it is now.

        Raises:
            NotFound: no such corpus.
            SegmentError: something is damaged; raised at the end, behind all that can be read.
        """
        return _read_all(self._views())

    def _views(self) -> list[DocumentsView]:
        with self._lock:
            self._corpus.refresh()
            if self._corpus.refused is not None:
                raise self._corpus.refused.with_traceback(None)
            if not self._corpus.there:
                raise NotFound(self._where, param="corpus")
            return [partition.view for partition in self._corpus.partitions]


class Browsers:
    """Browsers of the corpora of a root, kept while they are used. For several threads.

    An open one keeps files from being freed that were removed meanwhile, so `tidy` is to be
    called now and then.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._open: dict[str, tuple[Browser, float]] = {}

    def of(self, name: str) -> Browser:
        """That of a corpus, which need not be there.

        Raises:
            InvalidRequest: the name is none.
        """
        with self._lock:
            known = self._open.pop(name, None)
            browser = Browser(self._root, name) if known is None else known[0]
            if len(self._open) >= MAX_OPEN:
                del self._open[next(iter(self._open))]
            self._open[name] = browser, time.monotonic()
            return browser

    def tidy(self) -> None:
        """Closes those that nobody asked for in the last `IDLE_S` seconds."""
        before = time.monotonic() - IDLE_S
        with self._lock:
            self._open = {name: each for name, each in self._open.items() if each[1] >= before}


def _place(id_: str) -> bytes:
    try:
        return id_digest(id_)
    except UnicodeEncodeError:
        raise InvalidRequest(f"after must be an id; got {id_!r:.80}", param="after") from None


def _stored(document: Document) -> StoredDocument:
    return StoredDocument(document.id, document.tokens.tolist(), document.text, document.metadata)


def _read_all(views: list[DocumentsView]) -> Iterator[StoredDocument]:
    errors = [error for view in views for error in view.refused.values()]
    for source in (source for view in views for source in view.sources):
        for ordinal in source.living(np.arange(source.file.count)).tolist():
            try:
                document = source.file.read(ordinal)
            except SegmentError as error:
                errors.append(error)
            else:
                yield _stored(document)
    if errors:
        raise errors[0].with_traceback(None)
