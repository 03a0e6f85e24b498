"""One index file: the tokens of some documents and their suffix array. Immutable, memory-mapped.

All numbers are little-endian; sections follow the header without gaps::

    header     what `Header` names, and its own CRC-32 at the end
    tokens     uint32[T + D]  the documents in turn, each closed by a separator
    suffixes   int32[T]       where suffixes start, in their order; none starts at a separator
    documents  int32[D]       where each document starts in ``tokens``

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
from pydivsufsort import divsufsort
from pydivsufsort.dll import libdivsufsort

from rasd.errors import (
    InvalidRequest,
    SegmentCorrupt,
    SegmentVersionError,
    TokenizerMismatch,
)
from rasd.retrieval.files import write_atomically
from rasd.tree import Int32s

MAGIC: Final = b"RASDSEGM"
VERSION: Final = 1
SEPARATOR: Final = 2**32 - 1
MAX_VOCABULARY: Final = 2**31 - 1
MAX_TOKENS: Final = 2**31 - 1
"""Tokens and separators of one segment; what is longer goes into several."""
MAX_HASH_CHARS: Final = 64

_LAYOUT: Final = struct.Struct("<8sIIQ64sQQQQQIIII")
HEADER_BYTES: Final = _LAYOUT.size

UInt32s = NDArray[np.uint32]
Int64s = NDArray[np.int64]
IntArray = NDArray[np.integer[Any]]


class Header(NamedTuple):
    """The fields at the start of the file, in order."""

    magic: bytes
    version: int
    header_bytes: int
    vocabulary: int
    tokenizer_hash: bytes
    documents: int
    tokens: int
    tokens_bytes: int
    suffixes_bytes: int
    documents_bytes: int
    tokens_crc: int
    suffixes_crc: int
    documents_crc: int
    header_crc: int

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return HEADER_BYTES + self.tokens_bytes + self.suffixes_bytes + self.documents_bytes


@dataclass(frozen=True, slots=True)
class Segment:
    """An index, of a file or in memory. The arrays are read-only, and keep a file mapped.

    Attributes:
        path: the file; None in memory.
        header: as in the file; in memory without checksums and tokenizer.
        tokens: uint32[T + D]; suffixes: int32[T]; documents: int32[D], as in the file.
    """

    path: Path | None
    header: Header
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
    sections = _sections(documents, vocabulary)
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
    sections = _sections(documents, vocabulary)
    parts = [section.view(np.uint8).data for section in sections]
    header = _header(sections, vocabulary, name, [zlib.crc32(part) for part in parts], 0)
    raw = _LAYOUT.pack(*header)[:-4]
    header = header._replace(header_crc=zlib.crc32(raw))
    write_atomically(path, [raw, header.header_crc.to_bytes(4, "little"), *parts])
    return header


def _sections(documents: Sequence[IntArray], vocabulary: int) -> tuple[UInt32s, Int32s, Int32s]:
    text, starts = _join(documents, vocabulary)
    return text, _sort(text, vocabulary, len(documents)), starts


def _header(
    sections: Sequence[NDArray[Any]], vocabulary: int, name: bytes, crcs: list[int], crc: int
) -> Header:
    _, suffixes, documents = sections
    sizes = [section.nbytes for section in sections]
    start = (MAGIC, VERSION, HEADER_BYTES, vocabulary, name, len(documents), len(suffixes))
    return Header._make([*start, *sizes, *crcs, crc])


def _checked_hash(tokenizer_hash: str) -> bytes:
    name = tokenizer_hash.encode()
    if not 1 <= len(name) <= MAX_HASH_CHARS or not tokenizer_hash.isascii():
        raise InvalidRequest(
            f"a tokenizer hash has 1 to {MAX_HASH_CHARS} ASCII characters; got {tokenizer_hash!r}"
        )
    return name


def _join(documents: Sequence[IntArray], vocabulary: int) -> tuple[UInt32s, Int32s]:
    """All documents in one array, each closed by a separator, and where each starts."""
    if not 1 <= vocabulary <= MAX_VOCABULARY:
        raise InvalidRequest(f"vocabulary must be in [1, {MAX_VOCABULARY}]; got {vocabulary}")
    if not documents:
        raise InvalidRequest("a segment holds at least 1 document; got 0")
    total = sum(len(document) + 1 for document in documents)
    if total > MAX_TOKENS:
        raise InvalidRequest(f"a segment holds at most {MAX_TOKENS} tokens; got {total}")
    text = np.full(total, SEPARATOR, "<u4")
    starts = np.zeros(len(documents), "<i4")
    at = 0
    for i, document in enumerate(documents):
        starts[i] = at
        if not np.issubdtype(document.dtype, np.integer):
            raise InvalidRequest(f"token ids must be integers; document {i} is {document.dtype}")
        if len(document):
            low, high = int(document.min()), int(document.max())
            if low < 0 or high >= vocabulary:
                raise InvalidRequest(
                    f"token ids must be in [0, {vocabulary}); document {i} holds "
                    f"{low if low < 0 else high}"
                )
            text[at : at + len(document)] = document
        at += len(document) + 1
    return text, starts


def _sort(text: UInt32s, vocabulary: int, documents: int) -> Int32s:
    """Starts of the suffixes in order. The separators' own sort last, and are dropped.

    The sorter works on bytes, so small ids are given to it small. Its second thread saves no
    work and waits for the first: on a busy machine a small text takes 40 times as long with it.
    """
    if set_threads := getattr(libdivsufsort, "omp_set_num_threads", None):
        set_threads(1)  # of those that this thread starts
    order = divsufsort(np.minimum(text, np.uint32(vocabulary)))
    return np.ascontiguousarray(order[: len(text) - documents], "<i4")


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
    sizes = (header.tokens_bytes, header.suffixes_bytes, header.documents_bytes)
    crcs = (header.tokens_crc, header.suffixes_crc, header.documents_crc)
    views: list[NDArray[Any]] = []
    at = HEADER_BYTES
    for field, dtype, size, crc in zip(
        ("tokens", "suffixes", "documents"), ("<u4", "<i4", "<i4"), sizes, crcs, strict=True
    ):
        view = np.frombuffer(mapped, dtype, size // 4, at)
        _expect(path, f"{field} checksum", crc, zlib.crc32(view.data))
        views.append(view)
        at += size
    _check_bounds(path, views[0], views[1])
    return Segment(path, header, *views)


def _parse(path: Path, mapped: mmap.mmap) -> Header:
    if len(mapped) < HEADER_BYTES:
        raise SegmentCorrupt(f"{path}: length must be at least {HEADER_BYTES}; got {len(mapped)}")
    raw = mapped[:HEADER_BYTES]
    header = Header(*_LAYOUT.unpack(raw))
    _expect(path, "magic", MAGIC, header.magic)
    if header.version > VERSION:
        raise SegmentVersionError(
            f"{path}: version must be at most {VERSION}; got {header.version}"
        )
    _expect(path, "version", VERSION, header.version)
    _expect(path, "header checksum", header.header_crc, zlib.crc32(raw[:-4]))
    _expect(path, "header_bytes", HEADER_BYTES, header.header_bytes)
    _expect(path, "tokens_bytes", 4 * (header.tokens + header.documents), header.tokens_bytes)
    _expect(path, "suffixes_bytes", 4 * header.tokens, header.suffixes_bytes)
    _expect(path, "documents_bytes", 4 * header.documents, header.documents_bytes)
    _expect(path, "length", header.file_bytes, len(mapped))
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


def _expect(path: Path, field: str, wanted: object, got: object) -> None:
    if wanted != got:
        raise SegmentCorrupt(f"{path}: {field} must be {wanted!r}; got {got!r}")
