"""Documents of a source that are no more: consolidated in a file, and as pairs in later logs."""

from __future__ import annotations

import struct
import zlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from rasd.errors import SegmentCorrupt
from rasd.retrieval.files import creating
from rasd.retrieval.headers import expect
from rasd.retrieval.segment import IntArray
from rasd.retrieval.store.documents import DocumentsFile
from rasd.retrieval.store.layout import Int64s
from rasd.retrieval.store.manifest import PartitionManifest, SourceEntry, dead_path

_MAGIC: Final = b"RASDDEAD"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sII")


def write_dead(file: Path, ordinals: IntArray) -> int:
    """Writes a new file: magic, version, count, then the ordinals uint32[n]; syncs it.

    Returns its checksum, for the manifest.

    Raises:
        FileExistsError: the file is there already.
    """
    raw = _HEADER.pack(_MAGIC, _VERSION, len(ordinals)) + ordinals.astype("<u4").tobytes()
    with creating(file) as target:
        target.write(raw)
    return zlib.crc32(raw)


def read_dead(path: Path, entry: SourceEntry) -> Int64s:
    """The ordinals int64[n] in a source's file, none if it has no file.

    Raises:
        SegmentCorrupt: the file is damaged.
        FileNotFoundError: it is gone.
    """
    if not entry.dead:
        return np.zeros(0, np.int64)
    file = dead_path(path, entry.number, entry.dead)
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SegmentCorrupt(f"{file}: cannot be read: {error}") from error
    expect(file, "checksum", entry.dead_checksum, zlib.crc32(raw))
    expect(file, "length", True, len(raw) >= _HEADER.size and len(raw) % 4 == 0)
    ordinals = np.frombuffer(raw, "<u4", offset=_HEADER.size)
    expect(file, "header", (_MAGIC, _VERSION, len(ordinals)), _HEADER.unpack_from(raw))
    return ordinals.astype(np.int64)


def dead_of(
    path: Path, manifest: PartitionManifest, documents: Mapping[int, DocumentsFile]
) -> dict[int, Int64s]:
    """Per source of a manifest, the ordinals int64[n] of its dead documents, sorted.

    Args:
        documents: the open files of at least its logs, by source; others are not looked at.

    Raises:
        SegmentCorrupt: a file is damaged, or names a document that never was.
        FileNotFoundError: a file is gone.
    """
    found: defaultdict[int, list[Int64s]] = defaultdict(list)
    for log in manifest.logs:
        pairs = documents[log.number].deletes
        for number in np.unique(pairs[:, 0]).tolist():
            found[number].append(pairs[pairs[:, 0] == number, 1])
    dead: dict[int, Int64s] = {}
    for entry in manifest.sources:
        ordinals = np.unique(np.concatenate([read_dead(path, entry), *found[entry.number]]))
        if len(ordinals) and not 0 <= ordinals[0] <= ordinals[-1] < entry.documents:
            raise SegmentCorrupt(
                f"{path}: dead documents of source {entry.number} must be in "
                f"[0, {entry.documents}); got {ordinals[0]} to {ordinals[-1]}"
            )
        dead[entry.number] = ordinals
    return dead
