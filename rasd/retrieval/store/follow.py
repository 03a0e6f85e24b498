"""Reads a partition while its writer goes on: which manifest counts, which files are there.

A reader takes the newest manifest and opens what that names. A file it does not find may have
been removed because a newer manifest no longer names it; then the reader starts over with that.
What is still named and cannot be read is damaged: it is refused, and the rest serves.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from rasd.errors import SegmentCorrupt, SegmentError
from rasd.retrieval.store.manifest import (
    PartitionManifest,
    SourceEntry,
    manifest_path,
    newest,
    newest_version,
    read_manifest,
)

_STARTS: Final = 100

T = TypeVar("T")
_logger = logging.getLogger(__name__)


class Moved(Exception):
    """A file is gone, and so is the manifest that named it: a newer one counts."""


class Probe:
    """Tells whether a partition has another manifest than the one that was read last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seen(0)

    def seen(self, version: int) -> None:
        """The manifest of this number was read, or cannot be."""
        self.version = version
        self._own = str(manifest_path(self._path, version))
        self._next = str(manifest_path(self._path, version + 1))

    def changed(self) -> bool:
        """Whether there is another. Looks for two names, whatever the partition holds.

        The next manifest may be gone already, but not while the one before it is there.
        """
        return os.access(self._next, os.F_OK) or not os.access(self._own, os.F_OK)

    def waiting_s(self) -> float:
        """Age of the oldest manifest that is there behind the one read; 0 if there is none."""
        if not self.changed():
            return 0.0
        try:
            names = [name for name in os.listdir(self._path) if name.startswith("manifest-")]
            later = [self._path / name for name in names if name > os.path.basename(self._own)]
            since = min(file.stat().st_mtime for file in later)
        except (OSError, ValueError):  # ValueError: there is none
            return 0.0
        return max(time.time() - since, 0.0)


def follow(path: Path, probe: Probe, build: Callable[[PartitionManifest], T]) -> T:
    """What ``build`` makes of the newest manifest, or of a newer one if that raises `Moved`.

    Raises:
        NotFound: the partition is gone.
        SegmentError: the newest manifest cannot be read.
        Moved: files vanished again and again.
    """
    for _ in range(_STARTS):
        version = newest_version(path)
        try:
            manifest = read_manifest(path, version)
        except FileNotFoundError:
            continue
        except SegmentError:
            probe.seen(version)
            raise
        try:
            built = build(manifest)
        except Moved:
            continue
        probe.seen(version)
        return built
    raise Moved(f"{path}: files vanished {_STARTS} times while they were read")


def may_pass(error: BaseException) -> bool:
    """Whether the system refused to read, for reasons that may pass; what it read was not bad."""
    return isinstance(error, OSError) or isinstance(error.__cause__, OSError)


class Files(Generic[T]):
    """Files of a partition, opened once, or why they are refused.

    What is damaged is not tried again: a manifest that goes on without it names another file.
    What the system would not read is tried again by the next manifest, or the next `begin`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[Path, int], T | SegmentError] = {}
        self._used: set[tuple[Path, int]] = set()
        self._logged: dict[Path, str] = {}

    @property
    def refused(self) -> dict[Path, SegmentError]:
        """What is wrong with files of the last manifest."""
        return {
            file: found
            for (file, _), found in self._known.items()
            if isinstance(found, SegmentError)
        }

    def begin(self) -> None:
        """A manifest is read anew."""
        self._used.clear()
        for key, found in list(self._known.items()):
            if isinstance(found, SegmentError) and may_pass(found):
                del self._known[key]

    def get(
        self, entry: SourceEntry, file: Path, checksum: int, open_: Callable[[], T]
    ) -> T | None:
        """What ``open_`` makes of a file, with a checksum that no other of its name has.

        None if it is refused, which is logged once. Raises `Moved`.
        """
        key = (file, checksum)
        self._used.add(key)
        found = self._known.get(key)
        if found is None:
            try:
                found = open_()
            except (SegmentError, FileNotFoundError) as error:
                found = self._refusal(entry, file, error)
            self._known[key] = found
        return None if isinstance(found, SegmentError) else found

    def forget(self, file: Path, checksum: int) -> None:
        """Next time it is opened again."""
        self._known.pop((file, checksum), None)

    def end(self) -> None:
        """The manifest has been read: files that nobody asked for since `begin` are closed."""
        for key in self._known.keys() - self._used:
            del self._known[key]
        for file in self._logged.keys() - {file for file, _ in self._used}:
            del self._logged[file]

    def _refusal(self, entry: SourceEntry, file: Path, error: Exception) -> SegmentError:
        if all(other != entry for other in newest(self._path).sources):
            raise Moved(f"{file} is gone") from error
        if not isinstance(error, SegmentError):
            missing = SegmentCorrupt(f"{file}: is missing")
            missing.__cause__ = error.with_traceback(None)
            error = missing
        if self._logged.get(file) != str(error):
            _logger.error("refused: %s", error)
            self._logged[file] = str(error)
        return error.with_traceback(None)  # its frames hold the file
