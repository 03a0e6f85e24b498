"""What a partition holds, as its writer knows it: where each document is, and which are live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rasd.errors import SegmentCorrupt
from rasd.retrieval.store.compact import Bools, alive_of
from rasd.retrieval.store.dead import dead_of
from rasd.retrieval.store.documents import DocumentsFile, open_documents
from rasd.retrieval.store.layout import Int64s
from rasd.retrieval.store.manifest import PartitionManifest, SourceEntry, docs_path
from rasd.retrieval.store.policy import Weight

Place = tuple[int, int]
"""A document: its source and its ordinal in it."""


@dataclass(slots=True)
class Contents:
    """A manifest and what it names, open.

    Attributes:
        alive: per source, which documents are live.
        live_tokens: per source.
        logged: where the live documents of logs are, by id digest; those of segments are looked
            up in their files.
    """

    manifest: PartitionManifest
    documents: dict[int, DocumentsFile]
    alive: dict[int, Bools]
    live_tokens: dict[int, int] = field(default_factory=dict)
    logged: dict[bytes, Place] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, alive in self.alive.items():
            places = self.documents[number].places
            self.live_tokens[number] = int(places[alive, 0].sum(dtype=np.int64))
        for entry in self.manifest.logs:
            self._index(entry.number)

    def locate(self, digests: Sequence[bytes]) -> list[Place | None]:
        """Where the live documents with these id digests are."""
        found = [self.logged.get(digest) for digest in digests]
        wanted = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
        for entry in self.manifest.segments:
            ordinals = self.documents[entry.number].find_all(wanted)
            for row in np.flatnonzero(ordinals >= 0).tolist():
                if self.alive[entry.number][ordinals[row]]:
                    found[row] = (entry.number, int(ordinals[row]))
        return found

    def content(self, place: Place) -> bytes:
        """Digest of a document's content."""
        return self.documents[place[0]].content(place[1])

    def append(
        self, manifest: PartitionManifest, documents: DocumentsFile, pairs: Sequence[Place]
    ) -> None:
        """A log was committed: the last source of ``manifest``. ``pairs`` are what it replaces."""
        self.manifest = manifest
        for number, ordinal in pairs:
            source = self.documents[number]
            self.alive[number][ordinal] = False
            self.live_tokens[number] -= source.tokens(ordinal)
            self.logged.pop(source.digest(ordinal), None)
        number = manifest.sources[-1].number
        self.documents[number] = documents
        self.alive[number] = np.ones(documents.count, np.bool_)
        self.live_tokens[number] = documents.header.tokens
        self._index(number)

    def dead(self, number: int) -> Int64s:
        """Ordinals int64[n] of a source's dead documents."""
        return np.flatnonzero(~self.alive[number])

    def weights(self) -> list[Weight]:
        """The sources as `policy` wants them."""
        return [
            Weight(
                entry.number,
                entry.kind == "log",
                entry.tokens,
                self.live_tokens[entry.number],
                int(np.count_nonzero(self.alive[entry.number])),
            )
            for entry in self.manifest.sources
        ]

    def _index(self, number: int) -> None:
        source = self.documents[number]
        for ordinal in np.flatnonzero(self.alive[number]).tolist():
            self.logged[source.digest(ordinal)] = (number, ordinal)


def load(
    path: Path, manifest: PartitionManifest, known: Mapping[int, DocumentsFile] | None = None
) -> Contents:
    """Opens what a manifest names; files in ``known`` are open already.

    Raises:
        SegmentCorrupt, SegmentVersionError: a file is damaged, missing, or not the manifest's.
    """
    known = known or {}
    documents = {
        entry.number: known.get(entry.number) or open_source(path, entry)
        for entry in manifest.sources
    }
    try:
        dead = dead_of(path, manifest, documents)
    except FileNotFoundError as error:
        raise SegmentCorrupt(f"{error.filename}: is missing") from error
    alive = {number: alive_of(source.count, dead[number]) for number, source in documents.items()}
    return Contents(manifest, documents, alive)


def open_source(path: Path, entry: SourceEntry) -> DocumentsFile:
    """The documents of a source.

    Raises:
        SegmentCorrupt, SegmentVersionError: the file is damaged, missing, or another one.
    """
    file = docs_path(path, entry.number)
    try:
        documents = open_documents(file)
    except FileNotFoundError as error:
        raise SegmentCorrupt(f"{file}: is missing") from error
    header = documents.header
    wanted = (entry.docs_checksum, entry.documents, entry.tokens)
    got = (header.header_crc, header.documents, header.tokens)
    if wanted != got:
        raise SegmentCorrupt(
            f"{file}: checksum, documents and tokens must be those of the manifest, {wanted}; "
            f"got {got}"
        )
    return documents
