"""How a file of documents is laid out. Documents are compressed in blocks, behind them tables.

All numbers are little-endian::

    header     what `Header` names, and its own CRC-32 at the end
    blocks     zlib streams, each of some documents' records in turn; then zeros up to 8 bytes
    table      uint64[B, 4]  per block: where it starts behind the header, its bytes, the bytes
                             it holds, the CRC-32 of the stream
    keys       uint64[D]     in order, the first 8 bytes of the id digests as big-endian numbers
    deletes    int64[K, 2]   (source, ordinal) of documents elsewhere that are no more
    ids        uint8[D, 16]  digest of each document's id
    contents   uint8[D, 16]  digest of everything else of it
    places     uint32[D, 4]  per document: tokens, block, where its record starts in it, bytes
    order      uint32[D]     the documents in order of their id digests
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from rasd.retrieval.headers import expect, unpack_header
from rasd.trie import DIGEST_BYTES

MAGIC: Final = b"RASDDOCS"
VERSION: Final = 1
NARROW: Final = 2**16
"""Vocabularies up to here are stored with 2 bytes per token, others with 4."""

LAYOUT: Final = struct.Struct("<8sIIQQQQQQII")
HEADER_BYTES: Final = LAYOUT.size

Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]
UInt8s = NDArray[np.uint8]


class Header(NamedTuple):
    """The fields at the start of the file, in order."""

    magic: bytes
    version: int
    header_bytes: int
    vocabulary: int
    documents: int
    tokens: int
    deletes: int
    blocks: int
    blocks_bytes: int
    tables_crc: int
    header_crc: int

    @property
    def tables_bytes(self) -> int:
        """Size of everything behind the blocks."""
        return 32 * self.blocks + (28 + 2 * DIGEST_BYTES) * self.documents + 16 * self.deletes

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return HEADER_BYTES + self.blocks_bytes + self.tables_bytes


class Record(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A document in a block: token ids as `token_type`, metadata as JSON, empty for none."""

    tokens: memoryview
    id: str
    text: str | None
    metadata: bytes


class TokensOnly(msgspec.Struct, array_like=True, frozen=True):
    """The first field of a `Record`; the rest is not looked at."""

    tokens: memoryview


def token_type(vocabulary: int) -> np.dtype[np.unsignedinteger[Any]]:
    """How token ids of a vocabulary are stored: uint16 where they fit, else uint32."""
    return np.dtype("<u2" if vocabulary <= NARROW else "<u4")


def keys_of(digests: UInt8s) -> UInt64s:
    """The first 8 bytes of digests uint8[M, 16] as numbers uint64[M] that sort as they do."""
    return np.ascontiguousarray(digests[:, :8]).view(">u8")[:, 0].astype(np.uint64)


def parse_header(path: Path, content: memoryview) -> Header:
    """The checked header of a whole file.

    Raises:
        SegmentCorrupt: a length, checksum or field is wrong.
        SegmentVersionError: written by a newer version.
    """
    header = Header(*unpack_header(path, content, LAYOUT, MAGIC, VERSION))
    expect(path, "blocks_bytes past a multiple of 8", 0, header.blocks_bytes % 8)
    expect(path, "length", header.file_bytes, len(content))
    return header
