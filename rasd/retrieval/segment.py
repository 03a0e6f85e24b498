"""One index file: the tokens of some documents and their suffix array. Immutable, memory-mapped.

All numbers are little-endian; sections follow the header without gaps::

    header     what `Header` names, and its own CRC-32 at the end
    keys       uint64[K]      the first tokens of every 32nd suffix; see `rasd.retrieval.suffixes`
    tokens     uint32[T + D]  the documents in turn, each closed by a separator
    suffixes   int32[T]       where suffixes start, in their order; none starts at a separator
    documents  int32[D]       where each document starts in ``tokens``
    zeros      512 bytes, so that reading on behind a wrong suffix stays in the file

The separator is no token id, so it is never queried nor drafted, and sorts behind all of them:
a match ends at the border of its document. REST's index has neither (FasterDecoding/REST,
``lib.rs``), and holds 16-bit ids; here ids reach 2**31 - 1.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rasd.errors import (
    InvalidRequest,
    SegmentCorrupt,
    TokenizerMismatch,
)
from rasd.retrieval.files import write_atomically
from rasd.retrieval.headers import expect, unpack_header
from rasd.retrieval.suffixes import (
    KEY_EVERY,
    MAX_TOKENS,
    MAX_VOCABULARY,
    SEPARATOR,
    Int64s,
    IntArray,
    UInt32s,
    UInt64s,
    sort_documents,
)
from rasd.tree import Int32s

__all__ = [
    "HEADER_BYTES",
    "KEY_EVERY",
    "MAX_HASH_CHARS",
    "MAX_TOKENS",
    "MAX_VOCABULARY",
    "REACH",
    "SEPARATOR",
    "Header",
    "Int64s",
    "IntArray",
    "Segment",
    "UInt32s",
    "UInt64s",
    "build_segment",
    "open_segment",
    "write_segment",
]

MAGIC: Final = b"RASDSEGM"
VERSION: Final = 2
MAX_HASH_CHARS: Final = 64
REACH: Final = 512
"""Bytes that a search may read behind where a suffix starts: what it matches and the depth."""

_LAYOUT: Final = struct.Struct("<8sIIQ64sQQQQQQIIIIII")
HEADER_BYTES: Final = _LAYOUT.size
_SECTIONS: Final = (("keys", "<u8"), ("tokens", "<u4"), ("suffixes", "<i4"), ("documents", "<i4"))


class Header(NamedTuple):
    """The fields at the start of the file, in order."""

    magic: bytes
    version: int
    header_bytes: int
    vocabulary: int
    tokenizer_hash: bytes
    documents: int
    tokens: int
    keys_bytes: int
    tokens_bytes: int
    suffixes_bytes: int
    documents_bytes: int
    key_every: int
    keys_crc: int
    tokens_crc: int
    suffixes_crc: int
    documents_crc: int
    header_crc: int

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return HEADER_BYTES + sum(self.section_bytes) + REACH

    @property
    def section_bytes(self) -> tuple[int, int, int, int]:
        """Size of each section, in their order."""
        return self.keys_bytes, self.tokens_bytes, self.suffixes_bytes, self.documents_bytes


@dataclass(frozen=True, slots=True)
class Segment:
    """An index, of a file or in memory. The arrays are read-only, and keep a file mapped.

    Attributes:
        path: the file; None in memory.
        header: as in the file; in memory without checksums and tokenizer.
        keys: uint64[K]; tokens: uint32[T + D]; suffixes: int32[T]; documents: int32[D], as in
            the file.
    """

    path: Path | None
    header: Header
    keys: UInt64s
    tokens: UInt32s
    suffixes: Int32s
    documents: Int32s

    def locate(self, positions: IntArray) -> tuple[Int64s, Int64s]:
        """The documents int64[n] that places int[n] in ``tokens`` lie in, and the offsets there."""
        places = np.asarray(positions, np.int64)
        ordinals = np.searchsorted(self.documents, places, "right").astype(np.int64) - 1
        return ordinals, places - self.documents[ordinals]


# --- writing ----------------------------------------------------------------------------------


def build_segment(documents: Sequence[IntArray], *, vocabulary: int) -> Segment:
    """Sorts all suffixes of the documents, in memory.

    Takes about 30 bytes of memory per token while sorting, 60 from 65,536 ids on.

    Args:
        documents: token ids int[n] each, in [0, vocabulary).

    Raises:
        InvalidRequest: a token is out of range, there is no document, or there is too much.
    """
    sections = sort_documents(documents, vocabulary)
    header = _header(sections, vocabulary, b"", [0] * len(sections), 0)
    for array in sections:
        array.setflags(write=False)
    return Segment(None, header, *sections)


def write_segment(
    path: Path, documents: Sequence[IntArray], *, vocabulary: int, tokenizer_hash: str
) -> Header:
    """As `build_segment`, into a file; readers see it whole or not.

    Raises:
        InvalidRequest: as `build_segment`, or the hash is none.
    """
    name = _checked_hash(tokenizer_hash)
    sections = sort_documents(documents, vocabulary)
    parts = [section.view(np.uint8).data for section in sections]
    header = _header(sections, vocabulary, name, [zlib.crc32(part) for part in parts], 0)
    raw = _LAYOUT.pack(*header)[:-4]
    header = header._replace(header_crc=zlib.crc32(raw))
    write_atomically(path, [raw, header.header_crc.to_bytes(4, "little"), *parts, bytes(REACH)])
    return header


def _header(
    sections: Sequence[NDArray[Any]], vocabulary: int, name: bytes, crcs: list[int], crc: int
) -> Header:
    _, _, suffixes, documents = sections
    sizes = [section.nbytes for section in sections]
    start = (MAGIC, VERSION, HEADER_BYTES, vocabulary, name, len(documents), len(suffixes))
    return Header._make([*start, *sizes, KEY_EVERY, *crcs, crc])


def _checked_hash(tokenizer_hash: str) -> bytes:
    name = tokenizer_hash.encode()
    if not 1 <= len(name) <= MAX_HASH_CHARS or not tokenizer_hash.isascii():
        raise InvalidRequest(
            f"a tokenizer hash has 1 to {MAX_HASH_CHARS} ASCII characters; got {tokenizer_hash!r}"
        )
    return name


# --- reading ----------------------------------------------------------------------------------


def open_segment(path: Path, *, vocabulary: int, tokenizer_hash: str) -> Segment:
    """Maps a file and checks all of it, reading it once.

    Raises:
        SegmentCorrupt: it cannot be read, or a length, checksum or field is wrong.
        SegmentVersionError: written by a newer version.
        TokenizerMismatch: made with another tokenizer or vocabulary.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise SegmentCorrupt(f"{path}: cannot be read: {error}") from error
    header = _parse(path, mapped)
    _check_tokenizer(path, header, vocabulary, tokenizer_hash)
    crcs = (header.keys_crc, header.tokens_crc, header.suffixes_crc, header.documents_crc)
    views: list[NDArray[Any]] = []
    at = HEADER_BYTES
    for (field, dtype), size, crc in zip(_SECTIONS, header.section_bytes, crcs, strict=True):
        view = np.frombuffer(mapped, dtype, size // np.dtype(dtype).itemsize, at)
        expect(path, f"{field} checksum", crc, zlib.crc32(view.data))
        views.append(view)
        at += size
    _check_bounds(path, views[1], views[2])
    return Segment(path, header, *views)


def _parse(path: Path, mapped: mmap.mmap) -> Header:
    fields = unpack_header(path, memoryview(mapped), _LAYOUT, MAGIC, VERSION)
    header = Header(*fields)
    keys = (header.tokens + KEY_EVERY - 1) // KEY_EVERY + 1
    expect(path, "key_every", KEY_EVERY, header.key_every)
    expect(path, "keys_bytes", 8 * keys, header.keys_bytes)
    expect(path, "tokens_bytes", 4 * (header.tokens + header.documents), header.tokens_bytes)
    expect(path, "suffixes_bytes", 4 * header.tokens, header.suffixes_bytes)
    expect(path, "documents_bytes", 4 * header.documents, header.documents_bytes)
    expect(path, "length", header.file_bytes, len(mapped))
    if any(mapped[-REACH:]):
        raise SegmentCorrupt(f"{path}: must end in {REACH} zeros")
    return header


def _check_tokenizer(path: Path, header: Header, vocabulary: int, tokenizer_hash: str) -> None:
    made_with = header.tokenizer_hash.rstrip(b"\0").decode(errors="replace")
    if made_with != tokenizer_hash:
        raise TokenizerMismatch(f"{path}: tokenizer_hash must be {tokenizer_hash}; got {made_with}")
    if header.vocabulary != vocabulary:
        raise TokenizerMismatch(f"{path}: vocabulary must be {vocabulary}; got {header.vocabulary}")


def _check_bounds(path: Path, tokens: UInt32s, suffixes: Int32s) -> None:
    """The search follows addresses: whatever wrote the file, no read may leave the mapping."""
    if len(tokens) == 0 or tokens[-1] != SEPARATOR:
        raise SegmentCorrupt(f"{path}: tokens must end in a separator")
    if len(suffixes) and not 0 <= int(suffixes.min()) <= int(suffixes.max()) < len(tokens):
        raise SegmentCorrupt(f"{path}: suffixes must be in [0, {len(tokens)})")
