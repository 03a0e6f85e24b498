"""What the headers of all our binary files have in common, and how they are checked.

They start with a magic, a version and their own size, and end in their own CRC-32.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

from rasd.errors import SegmentCorrupt, SegmentVersionError


def unpack_header(
    path: Path, content: memoryview, layout: struct.Struct, magic: bytes, version: int
) -> tuple[Any, ...]:
    """The fields at the start of a whole file, of which the common ones are right.

    Raises:
        SegmentCorrupt: the file is too short, or a common field or the checksum is wrong.
        SegmentVersionError: written by a newer version.
    """
    if len(content) < layout.size:
        raise SegmentCorrupt(f"{path}: length must be at least {layout.size}; got {len(content)}")
    raw = content[: layout.size]
    fields = layout.unpack(raw)
    expect(path, "magic", magic, fields[0])
    if fields[1] > version:
        raise SegmentVersionError(f"{path}: version must be at most {version}; got {fields[1]}")
    expect(path, "version", version, fields[1])
    expect(path, "header checksum", fields[-1], zlib.crc32(raw[:-4]))
    expect(path, "header_bytes", layout.size, fields[2])
    return fields


def expect(path: Path, field: str, wanted: object, got: object) -> None:
    """Refuses a file of which a field is not what it must be.

    Raises:
        SegmentCorrupt: naming the file, the field, and both values.
    """
    if wanted != got:
        raise SegmentCorrupt(f"{path}: {field} must be {wanted!r}; got {got!r}")
