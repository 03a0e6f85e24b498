"""A corpus on disk: a manifest, and segments in a fixed number of partitions.

::

    root/stdlib/manifest.json
    root/stdlib/partition-0003/segment-000001.seg
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from pydantic import TypeAdapter, ValidationError

from rasd.config import Name
from rasd.errors import (
    InvalidRequest,
    NotFound,
    SegmentCorrupt,
    SegmentError,
    SegmentVersionError,
    TokenizerMismatch,
)
from rasd.retrieval.segment import Segment, open_segment

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1

_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)
_FILE: Final = re.compile(r"partition-[0-9]{4}/segment-[0-9]{6}\.seg")
_logger = logging.getLogger(__name__)


class SegmentEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a corpus. ``checksum`` is that of its header, which holds those of the rest."""

    file: str
    documents: int
    tokens: int
    checksum: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a corpus consists of. ``partitions[p]`` lists the segments of partition p."""

    format: int
    name: str
    vocabulary: int
    tokenizer_hash: str
    partitions: list[list[SegmentEntry]]

    @property
    def documents(self) -> int:
        """Documents in all."""
        return sum(entry.documents for entries in self.partitions for entry in entries)

    @property
    def tokens(self) -> int:
        """Tokens in all."""
        return sum(entry.tokens for entries in self.partitions for entry in entries)


@dataclass(frozen=True, slots=True)
class Corpus:
    """An open corpus, or some partitions of it.

    Attributes:
        segments: per partition, those that serve.
        refused: per file below the corpus, why it does not.
    """

    manifest: Manifest
    segments: dict[int, list[Segment]] = field(default_factory=dict)
    refused: dict[str, SegmentError] = field(default_factory=dict)


# --- opening ----------------------------------------------------------------------------------


def has_corpus(root: Path, name: str) -> bool:
    """Whether a corpus of that name is there.

    Raises:
        InvalidRequest: the name is not one.
    """
    return (corpus_path(root, name) / MANIFEST).is_file()


def read_manifest(root: Path, name: str) -> Manifest:
    """Reads and checks a corpus's manifest.

    Raises:
        NotFound: there is no such corpus.
        SegmentCorrupt, SegmentVersionError: the manifest is damaged, or of a newer version.
    """
    path = corpus_path(root, name) / MANIFEST
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"no corpus {name!r} in {root}") from error
    except OSError as error:
        raise SegmentCorrupt(f"{path}: cannot be read: {error}") from error
    try:
        version = msgspec.json.decode(raw, type=_Version).format
        if version > FORMAT:
            raise SegmentVersionError(f"{path}: format must be at most {FORMAT}; got {version}")
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SegmentCorrupt(f"{path}: {error}") from error
    if manifest.name != name:
        raise SegmentCorrupt(f"{path}: name must be {name!r}; got {manifest.name!r}")
    return manifest


def open_corpus(
    root: Path,
    name: str,
    *,
    vocabulary: int,
    tokenizer_hash: str,
    partitions: Iterable[int] | None = None,
) -> Corpus:
    """Opens the segments of some partitions, of all if None.

    A segment that is damaged or not the manifest's is left out, logged, and listed.

    Raises:
        NotFound: there is no such corpus.
        InvalidRequest: there is no such partition.
        SegmentError: the manifest itself is damaged, newer, or of another tokenizer.
    """
    manifest = read_manifest(root, name)
    made_with = (manifest.tokenizer_hash, manifest.vocabulary)
    if made_with != (tokenizer_hash, vocabulary):
        raise TokenizerMismatch(
            f"corpus {name!r}: tokenizer_hash and vocabulary must be "
            f"{(tokenizer_hash, vocabulary)}; got {made_with}"
        )
    count = len(manifest.partitions)
    corpus = Corpus(manifest)
    for partition in sorted(set(range(count) if partitions is None else partitions)):
        if not 0 <= partition < count:
            raise InvalidRequest(f"corpus {name!r} has {count} partitions; got {partition}")
        serving = corpus.segments.setdefault(partition, [])
        for entry in manifest.partitions[partition]:
            try:
                serving.append(_open_entry(corpus_path(root, name), manifest, entry))
            except SegmentError as error:
                _logger.error("segment refused: %s", error)
                corpus.refused[entry.file] = error
    return corpus


class _Version(msgspec.Struct):
    format: int


def _open_entry(place: Path, manifest: Manifest, entry: SegmentEntry) -> Segment:
    if not _FILE.fullmatch(entry.file):
        raise SegmentCorrupt(f"{place / MANIFEST}: file must be {_FILE.pattern}; got {entry.file}")
    segment = open_segment(
        place / entry.file,
        vocabulary=manifest.vocabulary,
        tokenizer_hash=manifest.tokenizer_hash,
    )
    wanted = (entry.checksum, entry.documents, entry.tokens)
    got = (segment.header.header_crc, segment.header.documents, segment.header.tokens)
    if wanted != got:
        raise SegmentCorrupt(
            f"{segment.path}: checksum, documents and tokens must be those of the manifest, "
            f"{wanted}; got {got}"
        )
    return segment


def corpus_path(root: Path, name: str) -> Path:
    """Where the corpus lies; never outside ``root``.

    Raises:
        InvalidRequest: the name is not one (`rasd.config.Name`).
    """
    try:
        return root / _NAME.validate_python(name, strict=True)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InvalidRequest(f"corpus name: {reason}; got {name!r}", param="corpus") from error
