"""Small JSON files whose first line is the CRC-32 of the rest."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from rasd.errors import SegmentCorrupt, SegmentVersionError

FORMAT: Final = 2
"""Of corpora and manifests; 1 was built once and never changed."""

_T = TypeVar("_T", bound=msgspec.Struct)


class _Version(msgspec.Struct):
    format: int


def seal(content: msgspec.Struct) -> bytes:
    """The file that says ``content``, whose ``format`` is `FORMAT`."""
    raw = msgspec.json.encode(content)
    return b"%08x\n%s\n" % (zlib.crc32(raw + b"\n"), raw)


def unseal(path: Path, raw: bytes, kind: type[_T]) -> _T:
    """What a file says.

    Raises:
        SegmentCorrupt: the checksum or a field is wrong.
        SegmentVersionError: written by a newer version.
    """
    line, _, rest = raw.partition(b"\n")
    if line != b"%08x" % zlib.crc32(rest):
        raise SegmentCorrupt(f"{path}: checksum must be {zlib.crc32(rest):08x}; got {line[:16]!r}")
    try:
        version = msgspec.json.decode(rest, type=_Version).format
        if version > FORMAT:
            raise SegmentVersionError(f"{path}: format must be at most {FORMAT}; got {version}")
        return msgspec.json.decode(rest, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SegmentCorrupt(f"{path}: {error}") from error
