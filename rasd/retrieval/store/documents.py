"""Documents of one source, as they lie on disk. Immutable; see `layout`.

A document's ordinal is its row. Only the tables are read when a file is opened, and stay on disk;
a block is read and checked when a document of it is wanted.
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from rasd.errors import SegmentCorrupt
from rasd.retrieval.headers import expect
from rasd.retrieval.segment import IntArray, UInt32s
from rasd.retrieval.store.layout import (
    HEADER_BYTES,
    Header,
    Int64s,
    Record,
    TokensOnly,
    UInt8s,
    UInt64s,
    keys_of,
    parse_header,
    token_type,
)
from rasd.retrieval.store.records import Document, id_digest
from rasd.trie import DIGEST_BYTES

SMALL_BYTES: Final = 64 * 1024

_RECORDS: Final = msgspec.msgpack.Decoder(Record)
_TOKENS: Final = msgspec.msgpack.Decoder(TokensOnly)
_METADATA: Final = msgspec.json.Decoder(dict[str, Any])


class DocumentsFile:
    """An open file of documents. The arrays are read-only views of it and keep it open.

    Reading documents is safe from several threads.

    Attributes:
        deletes: int64[K, 2]; keys: uint64[D]; order: uint32[D]; table: uint64[B, 4];
        places: uint32[D, 4], as in the file.
    """

    def __init__(self, path: Path, header: Header, content: mmap.mmap | bytes) -> None:
        """As `open_documents` does it.

        Raises:
            SegmentCorrupt: the tables do not fit their checksum, or each other.
        """
        self.path = path
        self.header = header
        self.count = header.documents
        self._content = memoryview(content)
        start = HEADER_BYTES + header.blocks_bytes
        expect(path, "tables checksum", header.tables_crc, zlib.crc32(self._content[start:]))
        rows = header.documents
        at = start
        views: list[NDArray[Any]] = []
        for dtype, shape in (
            ("<u8", (header.blocks, 4)),
            ("<u8", (rows,)),
            ("<i8", (header.deletes, 2)),
            ("u1", (rows, DIGEST_BYTES)),
            ("u1", (rows, DIGEST_BYTES)),
            ("<u4", (rows, 4)),
            ("<u4", (rows,)),
        ):
            size = int(np.prod(shape))
            views.append(np.frombuffer(content, dtype, size, at).reshape(shape))
            at += views[-1].nbytes
        self.table: UInt64s
        self.places: UInt32s
        self.table, self.keys, self.deletes, self._ids, self._contents, self.places, self.order = (
            views
        )
        self._last: tuple[int, memoryview] = (-1, memoryview(b""))
        self._check()

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Document]:
        """All documents, in order of their ordinals. Raises as `read`."""
        return map(self.read, range(self.count))

    def digest(self, ordinal: int) -> bytes:
        """Digest of a document's id."""
        return bytes(self._ids[ordinal])

    def digests(self, ordinals: IntArray) -> UInt8s:
        """Digests uint8[M, 16] of the ids of documents int[M]."""
        return self._ids[ordinals]

    def content(self, ordinal: int) -> bytes:
        """Digest of a document's content."""
        return bytes(self._contents[ordinal])

    def contents(self, ordinals: IntArray) -> UInt8s:
        """Digests uint8[M, 16] of the contents of documents int[M]."""
        return self._contents[ordinals]

    def tokens(self, ordinal: int) -> int:
        """How many tokens a document has."""
        return int(self.places[ordinal, 0])

    def find(self, digest: bytes) -> int | None:
        """The ordinal of the document whose id has this digest."""
        key = np.uint64(int.from_bytes(digest[:8], "big"))
        for at in range(int(np.searchsorted(self.keys, key)), self.count):
            if self.keys[at] != key:
                break
            if self.digest(int(self.order[at])) == digest:
                return int(self.order[at])
        return None

    def find_all(self, digests: UInt8s) -> Int64s:
        """The ordinals int64[M] of the documents with digests uint8[M, 16]; -1 where none is."""
        found = np.full(len(digests), -1, np.int64)
        if not self.count or not len(digests):
            return found
        wanted = keys_of(digests)
        at = np.minimum(np.searchsorted(self.keys, wanted), self.count - 1)
        for row in np.flatnonzero(self.keys[at] == wanted):  # several ids may share a key
            ordinal = self.find(bytes(digests[row]))
            found[row] = -1 if ordinal is None else ordinal
        return found

    def after(self, digest: bytes, limit: int) -> Int64s:
        """Up to ``limit`` ordinals int64[M] of the documents behind ``digest``, in order of theirs.

        ``b""`` starts with the first.
        """
        key = np.uint64(int.from_bytes(digest[:8].ljust(8, b"\0"), "big"))
        start = int(np.searchsorted(self.keys, key))
        while (
            digest
            and start < self.count
            and self.keys[start] == key
            and self.digest(int(self.order[start])) <= digest
        ):
            start += 1
        return self.order[start : start + limit].astype(np.int64)

    def read(self, ordinal: int) -> Document:
        """One document, its tokens uint32[n] and checked against the directory.

        Raises:
            SegmentCorrupt: its block is damaged.
        """
        try:
            record = _RECORDS.decode(self.record(ordinal))
            metadata = _METADATA.decode(record.metadata) if record.metadata else {}
            tokens = np.frombuffer(record.tokens, token_type(self.header.vocabulary))
        except (msgspec.DecodeError, ValueError) as error:
            raise SegmentCorrupt(f"{self.path}: document {ordinal}: {error}") from error
        self._expect_of(ordinal, "id digest", self.digest(ordinal), id_digest(record.id))
        self._expect_of(ordinal, "tokens", self.tokens(ordinal), len(tokens))
        return Document(record.id, tokens.astype(np.uint32), record.text, metadata)

    def read_tokens(self, ordinal: int) -> NDArray[np.unsignedinteger[Any]]:
        """A document's tokens alone, `token_type`[n], a view of its block. Raises as `read`."""
        try:
            raw = _TOKENS.decode(self.record(ordinal)).tokens
            tokens = np.frombuffer(raw, token_type(self.header.vocabulary))
        except (msgspec.DecodeError, ValueError) as error:
            raise SegmentCorrupt(f"{self.path}: document {ordinal}: {error}") from error
        self._expect_of(ordinal, "tokens", self.tokens(ordinal), len(tokens))
        return tokens

    def record(self, ordinal: int) -> memoryview:
        """A document as its block holds it. Raises as `read`."""
        _, block, start, size = (int(field) for field in self.places[ordinal])
        return self.block(block)[start : start + size]

    def block(self, number: int) -> memoryview:
        """The records of a block, in turn. Raises as `read`."""
        last, data = self._last
        if last == number:
            return data
        raw = self.stream(number)
        size = int(self.table[number, 2])
        try:
            inflater = zlib.decompressobj()
            data = memoryview(inflater.decompress(raw, size + 1))
        except zlib.error as error:
            raise SegmentCorrupt(f"{self.path}: block {number}: {error}") from error
        expect(self.path, f"block {number}: bytes", size, len(data))
        self._last = (number, data)
        return data

    def stream(self, number: int) -> memoryview:
        """A block as it lies on disk, checked. Raises as `read`."""
        at, size, _, crc = (int(field) for field in self.table[number])
        raw = self._content[HEADER_BYTES + at : HEADER_BYTES + at + size]
        expect(self.path, f"block {number}: checksum", crc, zlib.crc32(raw))
        return raw

    def _expect_of(self, ordinal: int, field: str, wanted: object, got: object) -> None:
        expect(self.path, f"document {ordinal}: {field}", wanted, got)

    def _check(self) -> None:
        """Whatever wrote the tables, no read may leave its section."""
        ends = self.table[:, 0] + self.table[:, 1]
        blocks, inner = self.places[:, 1], self.places[:, 2].astype(np.uint64)
        inside = (
            bool(np.all(self.table[:, :2] <= self.header.blocks_bytes))
            and bool(np.all(ends <= self.header.blocks_bytes))
            and bool(np.all(self.table[:, 2] < 2**32))
            and bool(np.all(blocks < self.header.blocks))
            and bool(np.all(inner + self.places[:, 3] <= self.table[blocks, 2]))
            and bool(np.all(self.order < self.count))
            and bool(np.all(blocks[1:] >= blocks[:-1]))
        )
        expect(self.path, "tables within bounds", True, inside)


def open_documents(path: Path) -> DocumentsFile:
    """Opens a file and checks its header and tables, reading those once; blocks when needed.

    Small files are copied, larger ones mapped, which holds a file descriptor.

    Raises:
        SegmentCorrupt: it cannot be read, or a length, checksum or field is wrong.
        SegmentVersionError: written by a newer version.
        FileNotFoundError: there is no such file.
    """
    try:
        with path.open("rb") as file:
            content: mmap.mmap | bytes
            if os.fstat(file.fileno()).st_size <= SMALL_BYTES:
                content = file.read()
            else:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SegmentCorrupt(f"{path}: cannot be read: {error}") from error
    return DocumentsFile(path, parse_header(path, memoryview(content)), content)
