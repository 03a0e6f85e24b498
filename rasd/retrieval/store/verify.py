"""Reads everything a store consists of, and says what is wrong with it. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from rasd.errors import SegmentCorrupt, SegmentError
from rasd.retrieval.headers import expect
from rasd.retrieval.segment import SEPARATOR, Segment, open_segment
from rasd.retrieval.store.compact import alive_of
from rasd.retrieval.store.contents import open_source
from rasd.retrieval.store.corpora import SPEC, CorpusSpec, list_corpora, partition_path, read_spec
from rasd.retrieval.store.dead import dead_of, read_dead
from rasd.retrieval.store.documents import DocumentsFile
from rasd.retrieval.store.manifest import (
    PartitionManifest,
    SourceEntry,
    dead_path,
    docs_path,
    files_of,
    manifest_path,
    newest,
    newest_version,
    seg_path,
    versions,
)
from rasd.retrieval.store.records import content_digest, partition_of

_RETRIES: Final = 20
_CHUNK: Final = 2**20


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not as it must be, and why."""

    path: Path
    reason: str


@dataclass(slots=True)
class Report:
    """What was read. ``documents`` and ``tokens`` count live ones.

    ``leftovers`` are files that the newest manifests do not name: harmless, and removed by a
    writer in time.
    """

    corpora: list[str] = field(default_factory=list)
    files: int = 0
    documents: int = 0
    tokens: int = 0
    damaged: list[Damage] = field(default_factory=list)
    leftovers: list[Path] = field(default_factory=list)


def verify(root: Path, names: Sequence[str] | None = None) -> Report:
    """Checks corpora, all of them if None: every checksum, and that all files agree.

    May run beside a writer. Takes 8 bytes of memory per token of the largest segment.

    Raises:
        NotFound, InvalidRequest: there is no corpus of a name given, or it was dropped just now.
    """
    report = Report()
    for name in list_corpora(root) if names is None else names:
        report.corpora.append(name)
        with _noting(report.damaged, root / name / SPEC):
            spec = read_spec(root, name)
            report.files += 1
            for partition in range(spec.partitions):
                _verify_partition(report, spec, partition_path(root, name, partition), partition)
    if names is None:
        report.leftovers += sorted([*root.glob(".*.new"), *root.glob(".*.dropped")])
    return report


def _verify_partition(report: Report, spec: CorpusSpec, path: Path, partition: int) -> None:
    """Adds what there is to a report. Starts anew where a writer has moved on meanwhile."""
    if not path.is_dir():
        report.damaged.append(Damage(path, f"{path}: is missing"))
        return
    with _noting(report.damaged, path):
        for _ in range(_RETRIES):
            check = _Check(spec, path, partition, newest(path))
            needed = files_of(path, check.manifest)
            if all(file.exists() for file in needed):
                break
            if newest_version(path) == check.manifest.version:
                break
        report.files += len(needed) + 1
        report.documents += check.documents
        report.tokens += check.tokens
        report.damaged += check.damaged
        needed |= {manifest_path(path, version) for version in versions(path)}
        report.leftovers += sorted(set(path.iterdir()) - needed)


class _Check:
    """One manifest and all that it names."""

    def __init__(
        self, spec: CorpusSpec, path: Path, partition: int, manifest: PartitionManifest
    ) -> None:
        self.damaged: list[Damage] = []
        self.documents = self.tokens = 0
        self.manifest = manifest
        self._spec, self._path, self._partition = spec, path, partition
        opened: dict[int, DocumentsFile] = {}
        for entry in manifest.sources:
            file = docs_path(path, entry.number)
            with _noting(self.damaged, file):
                documents = open_source(path, entry)
                for ordinal in range(documents.count):
                    self._check_document(documents, ordinal)
                check_order(documents)
                opened[entry.number] = documents
            if entry.kind == "segment":
                with _noting(self.damaged, seg_path(path, entry.number)):
                    self._check_segment(entry, opened.get(entry.number))
            if entry.dead:
                with _noting(self.damaged, dead_path(path, entry.number, entry.dead)):
                    read_dead(path, entry)
        if not self.damaged:
            with _noting(self.damaged, manifest_path(path, manifest.version)):
                self._check_manifest(opened)

    def _check_document(self, documents: DocumentsFile, ordinal: int) -> None:
        document = documents.read(ordinal)
        at = f"document {ordinal}"
        content = content_digest(document)
        expect(documents.path, f"{at}: content digest", documents.content(ordinal), content)
        found = partition_of(documents.digest(ordinal), self._spec.partitions)
        expect(documents.path, f"{at}: partition", self._partition, found)
        inside = len(document.tokens) > 0 and int(document.tokens.max()) < self._spec.vocabulary
        expect(documents.path, f"{at}: tokens in [0, {self._spec.vocabulary})", True, inside)

    def _check_segment(self, entry: SourceEntry, documents: DocumentsFile | None) -> None:
        file = seg_path(self._path, entry.number)
        segment = open_segment(
            file, vocabulary=self._spec.vocabulary, tokenizer_hash=self._spec.tokenizer_hash
        )
        expect(file, "checksum", entry.seg_checksum, segment.header.header_crc)
        expect(file, "suffixes in order", True, in_order(segment))
        if documents is None:
            return
        expect(file, "documents", documents.count, len(segment.documents))
        at = 0
        for ordinal, start in enumerate(segment.documents.tolist()):
            tokens = documents.read_tokens(ordinal)
            end = at + len(tokens)
            same = start == at and np.array_equal(segment.tokens[at:end], tokens)
            expect(file, f"tokens of document {ordinal} as in {documents.path.name}", True, same)
            expect(file, f"separator behind document {ordinal}", SEPARATOR, segment.tokens[end])
            at = end + 1
        expect(file, "tokens", at, len(segment.tokens))

    def _check_manifest(self, opened: dict[int, DocumentsFile]) -> None:
        """That each id is live once, and that the counts are right."""
        file = manifest_path(self._path, self.manifest.version)
        expect(file, "partition", self._partition, self.manifest.partition)
        seen: dict[bytes, int] = {}
        for number, dead in dead_of(self._path, self.manifest, opened).items():
            documents = opened[number]
            for ordinal in np.flatnonzero(alive_of(documents.count, dead)).tolist():
                digest = documents.digest(ordinal)
                if digest in seen:
                    raise SegmentCorrupt(
                        f"{file}: {documents.read(ordinal).id!r} is live in source {seen[digest]} "
                        f"and in {number}"
                    )
                seen[digest] = number
                self.tokens += documents.tokens(ordinal)
        self.documents = len(seen)
        expect(file, "documents", self.manifest.documents, self.documents)
        expect(file, "tokens", self.manifest.tokens, self.tokens)


def check_order(documents: DocumentsFile) -> None:
    """That each document is found by its digest, and that the counts are right.

    Raises:
        SegmentCorrupt: one is not.
    """
    everything = np.arange(documents.count)
    found = documents.find_all(documents.digests(everything))
    expect(documents.path, "order", True, bool(np.array_equal(found, everything)))
    tokens = int(documents.places[:, 0].sum(dtype=np.int64))
    expect(documents.path, "tokens", documents.header.tokens, tokens)


def in_order(segment: Segment) -> bool:
    """Whether the suffixes are all there, each not above the next, up to the first separator.

    Two neighbours are in order if their first tokens are, or are the same and what follows them
    is in order: that is somewhere else in the same list.
    """
    tokens, suffixes = segment.tokens, segment.suffixes
    rank = np.full(len(tokens), len(tokens), np.int32)  # separators sort behind everything
    rank[suffixes] = np.arange(len(suffixes), dtype=np.int32)
    if not np.array_equal(rank < len(tokens), tokens != SEPARATOR):
        return False
    for start in range(0, len(suffixes) - 1, _CHUNK):
        part = suffixes[start : start + _CHUNK + 1]
        first, behind = tokens[part], rank[part + 1]
        rises = first[:-1] < first[1:]
        stays = (first[:-1] == first[1:]) & (behind[:-1] <= behind[1:])
        if not np.all(rises | stays):
            return False
    return True


@contextmanager
def _noting(damaged: list[Damage], path: Path) -> Iterator[None]:
    """Adds what is refused in here to a list, and goes on."""
    try:
        yield
    except (SegmentError, FileNotFoundError) as error:
        damaged.append(Damage(path, str(error)))
