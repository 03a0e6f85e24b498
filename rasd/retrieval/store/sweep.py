"""Removes files of a partition that nobody needs any more."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from rasd.errors import StoreLocked
from rasd.retrieval.files import storing
from rasd.retrieval.store.manifest import (
    PartitionManifest,
    files_of,
    manifest_path,
    newest_version,
)

KEPT_MANIFESTS: Final = 3
"""The newest stay, for readers that list the directory just now."""

_OURS: Final = re.compile(r"\.?(?:source-([0-9]{6,})|manifest-[0-9]{12})\..+")


class Sweeper:
    """Remembers since when files of a partition were seen that its manifest does not name."""

    def __init__(self, path: Path, grace_s: float) -> None:
        self._path = path
        self._grace_s = grace_s
        self._since: dict[str, float] = {}

    def sweep(self, manifest: PartitionManifest, making: Collection[int], now: float) -> None:
        """Removes what was not needed for ``grace_s``. Files of other names are left alone.

        That no other writer has committed is seen before anything is removed; files of one that
        commits later have new names.

        Args:
            manifest: the newest one.
            making: numbers of the sources that are being made.
            now: monotonic seconds.

        Raises:
            StoreLocked: another writer has taken over; nothing was removed.
            StorageError: the directory cannot be read.
        """
        needed = {file.name for file in files_of(self._path, manifest)}
        for version in range(manifest.version, manifest.version - KEPT_MANIFESTS, -1):
            needed.add(manifest_path(self._path, version).name)
        with storing(self._path):
            names = os.listdir(self._path)
        self._since = {
            name: self._since.get(name, now)
            for name in names
            if (found := _OURS.fullmatch(name))
            and name not in needed
            and (found[1] is None or int(found[1]) not in making)
        }
        due = [name for name, since in self._since.items() if now - since >= self._grace_s]
        if due and newest_version(self._path) != manifest.version:
            raise StoreLocked(f"{self._path}: another writer has taken over")
        for name in sorted(due):  # of two manifests the older one goes first: readers count on it
            with suppress(OSError):
                (self._path / name).unlink()
