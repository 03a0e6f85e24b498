"""Of what a partition consists. The newest manifest counts.

::

    partition-0003/manifest-000000000042.json   `PartitionManifest`
    partition-0003/source-000018.docs           documents of a source, see `layout`
    partition-0003/source-000018.seg            their index, if it is a segment
    partition-0003/source-000018.dead-000040    those of them that are no more, see `dead`

A manifest is committed by giving it the next number, which fails if that is taken, and by then
seeing no higher one: older ones are removed in time, so a free number alone proves nothing.
Numbers of sources and of files of dead documents are never used twice.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from rasd.errors import NotFound, SegmentCorrupt, StoreLocked
from rasd.retrieval.files import creating, draft_of, storing, sync_directory
from rasd.retrieval.store.sealed import seal, unseal

_MANIFEST: Final = re.compile(r"manifest-([0-9]{12})\.json")
_RETRIES: Final = 100

Natural = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]


class SourceEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A source: its number, what its files hold, and the checksums of their headers.

    ``documents`` and ``tokens`` count dead ones too. ``dead`` is the number of its file of dead
    documents, 0 if it has none, and ``dead_checksum`` that of the whole file.
    """

    number: Positive
    kind: Literal["log", "segment"]
    documents: Natural
    tokens: Natural
    bytes: Natural
    docs_checksum: Natural
    seg_checksum: Natural = 0
    dead: Natural = 0
    dead_checksum: Natural = 0


class PartitionManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a partition consists of.

    Attributes:
        epoch, writer: how many have opened it for writing, and a name of the last of them.
        next_source: numbers from here on were never used.
        documents, tokens: live ones.
        written: seconds since 1970.
    """

    format: int
    partition: Natural
    version: Positive
    epoch: Natural
    writer: str
    next_source: Positive
    documents: Natural
    tokens: Natural
    written: float
    sources: list[SourceEntry]

    @property
    def logs(self) -> list[SourceEntry]:
        """Sources that are searched from memory."""
        return [entry for entry in self.sources if entry.kind == "log"]

    @property
    def segments(self) -> list[SourceEntry]:
        """Sources that have an index on disk."""
        return [entry for entry in self.sources if entry.kind == "segment"]


def docs_path(path: Path, number: int) -> Path:
    """The documents of a source of the partition at ``path``."""
    return path / f"source-{number:06d}.docs"


def seg_path(path: Path, number: int) -> Path:
    """The index of a source."""
    return path / f"source-{number:06d}.seg"


def dead_path(path: Path, number: int, dead: int) -> Path:
    """A file of dead documents of a source."""
    return path / f"source-{number:06d}.dead-{dead:06d}"


def manifest_path(path: Path, version: int) -> Path:
    """A manifest of the partition at ``path``."""
    return path / f"manifest-{version:012d}.json"


def files_of(path: Path, manifest: PartitionManifest) -> set[Path]:
    """Everything a manifest needs but itself."""
    files = {docs_path(path, entry.number) for entry in manifest.sources}
    files |= {seg_path(path, entry.number) for entry in manifest.segments}
    files |= {dead_path(path, entry.number, entry.dead) for entry in manifest.sources if entry.dead}
    return files


def versions(path: Path) -> list[int]:
    """The numbers of all manifests that are there, unsorted.

    Raises:
        NotFound: the partition is gone.
        SegmentCorrupt: it cannot be read.
    """
    try:
        names = os.listdir(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"no partition {path}", param="corpus") from error
    except OSError as error:
        raise SegmentCorrupt(f"{path}: cannot be read: {error}") from error
    return [int(found[1]) for name in names if (found := _MANIFEST.fullmatch(name))]


def newest_version(path: Path) -> int:
    """The number of the manifest that counts, without reading it.

    Raises:
        NotFound: the partition is gone.
        SegmentCorrupt: it has no manifest.
    """
    found = versions(path)
    if not found:
        raise SegmentCorrupt(f"{path}: has no manifest")
    return max(found)


def newest(path: Path) -> PartitionManifest:
    """The manifest that counts, though newer ones may come and older ones go meanwhile.

    Raises:
        NotFound: the partition is gone.
        SegmentCorrupt, SegmentVersionError: the manifest is damaged, or of a newer version.
    """
    for _ in range(_RETRIES):
        version = newest_version(path)
        try:
            return read_manifest(path, version)
        except FileNotFoundError:
            continue
    raise SegmentCorrupt(f"{manifest_path(path, version)}: vanished {_RETRIES} times")


def read_manifest(path: Path, version: int) -> PartitionManifest:
    """A manifest by number.

    Raises:
        FileNotFoundError: it is gone.
        SegmentCorrupt, SegmentVersionError: it is damaged, or of a newer version.
    """
    file = manifest_path(path, version)
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SegmentCorrupt(f"{file}: cannot be read: {error}") from error
    manifest = unseal(file, raw, PartitionManifest)
    if manifest.version != version:
        raise SegmentCorrupt(f"{file}: version must be {version}; got {manifest.version}")
    numbers = [entry.number for entry in manifest.sources]
    if len(set(numbers)) < len(numbers) or max(numbers, default=0) >= manifest.next_source:
        raise SegmentCorrupt(f"{file}: sources must be distinct, below {manifest.next_source}")
    return manifest


def commit(path: Path, manifest: PartitionManifest) -> None:
    """Makes a manifest the one that counts, if it is the successor of the newest.

    What it names must be synced already; its directory is synced here.

    Raises:
        StoreLocked: another writer has committed; this manifest does not count.
        StorageError: the system refused something; whether it counts, `newest` tells.
    """
    target = manifest_path(path, manifest.version)
    draft = draft_of(target)
    with storing(target):
        with creating(draft) as file:
            file.write(seal(manifest))
        try:
            sync_directory(path)
            os.link(draft, target)
        except FileExistsError as error:
            raise StoreLocked(f"{target} exists: another writer has taken over") from error
        finally:
            with suppress(OSError):
                draft.unlink()
        sync_directory(path)
    version = newest_version(path)
    if version != manifest.version:
        raise StoreLocked(f"{target} is behind version {version}: another writer has taken over")
