"""Writes files of documents; `documents` reads them."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec
import numpy as np

from rasd.errors import InvalidRequest
from rasd.retrieval.files import creating
from rasd.retrieval.store.layout import (
    HEADER_BYTES,
    LAYOUT,
    MAGIC,
    VERSION,
    Header,
    Record,
    keys_of,
    token_type,
)
from rasd.retrieval.store.records import Document, content_digest, id_digest
from rasd.trie import DIGEST_BYTES

if TYPE_CHECKING:
    from rasd.retrieval.store.documents import DocumentsFile

BLOCK_BYTES: Final = 128 * 1024
"""A block is closed when its records reach this; a longer record has one to itself."""
COPIED_BYTES: Final = BLOCK_BYTES // 2
"""Blocks of fewer bytes are packed anew when they are copied."""
MAX_RECORD_BYTES: Final = 2**32 - 1

_LEVEL: Final = 1


@dataclass(frozen=True, slots=True)
class DocumentsInfo:
    """What a file of documents holds. ``checksum`` is that of its header, which holds the rest."""

    documents: int
    tokens: int
    bytes: int
    checksum: int


class DocumentsWriter:
    """Packs documents into an open, empty file, block by block; `finish` completes it."""

    def __init__(self, file: BinaryIO, vocabulary: int) -> None:
        self._file = file
        self._vocabulary = vocabulary
        self._ids, self._contents = bytearray(), bytearray()
        self._places = array("I")
        self._table = array("Q")
        self._tokens = 0
        self._open = bytearray()
        self._end = 0
        file.write(bytes(HEADER_BYTES))

    def add(self, record: bytes | memoryview, tokens: int, id_: bytes, content: bytes) -> None:
        """Appends a document as `encode` made it, with its length and its two digests."""
        if self._open and len(self._open) + len(record) > BLOCK_BYTES:
            self._close_block()
        self._places.extend((tokens, len(self._table) // 4, len(self._open), len(record)))
        self._open += record
        self._ids += id_
        self._contents += content
        self._tokens += tokens

    def copy(self, source: DocumentsFile, number: int) -> None:
        """Appends a block of another file of the same vocabulary as it is, compressed.

        Raises:
            SegmentCorrupt: the block is damaged.
        """
        self._close_block()
        first, last = np.searchsorted(source.places[:, 1], (number, number + 1))
        places = source.places[first:last].astype(np.uint32)
        places[:, 1] = len(self._table) // 4
        ordinals = np.arange(first, last)
        self._places.frombytes(places.tobytes())
        self._ids += source.digests(ordinals).tobytes()
        self._contents += source.contents(ordinals).tobytes()
        self._tokens += int(places[:, 0].sum(dtype=np.int64))
        self._write_block(source.stream(number), int(source.table[number, 2]))

    def finish(self, deletes: Sequence[tuple[int, int]] = ()) -> DocumentsInfo:
        """Writes the tables, and pairs of (source, ordinal); closes nothing."""
        self._close_block()
        padding = -self._end % 8
        ids = np.frombuffer(self._ids, np.uint8).reshape(-1, DIGEST_BYTES)
        keys = keys_of(ids)
        order = np.lexsort((keys_of(ids[:, 8:]), keys))
        tables = [
            np.frombuffer(self._table, np.uint64).astype("<u8"),
            keys[order].astype("<u8"),
            np.asarray(deletes, "<i8"),
            ids,
            np.frombuffer(self._contents, np.uint8),
            np.frombuffer(self._places, np.uint32).astype("<u4"),
            order.astype("<u4"),
        ]
        raw = b"".join(table.tobytes() for table in tables)
        self._file.write(bytes(padding))
        self._file.write(raw)
        header = Header(
            MAGIC,
            VERSION,
            HEADER_BYTES,
            self._vocabulary,
            documents=len(ids),
            tokens=self._tokens,
            deletes=len(deletes),
            blocks=len(self._table) // 4,
            blocks_bytes=self._end + padding,
            tables_crc=zlib.crc32(raw),
            header_crc=0,
        )
        head = LAYOUT.pack(*header)[:-4]
        checksum = zlib.crc32(head)
        self._file.seek(0)
        self._file.write(head + checksum.to_bytes(4, "little"))
        return DocumentsInfo(len(ids), self._tokens, header.file_bytes, checksum)

    def _close_block(self) -> None:
        if self._open:
            self._write_block(zlib.compress(self._open, _LEVEL), len(self._open))
            self._open = bytearray()

    def _write_block(self, stream: bytes | memoryview, holds: int) -> None:
        self._file.write(stream)
        self._table.extend((self._end, len(stream), holds, zlib.crc32(stream)))
        self._end += len(stream)


def encode(document: Document, vocabulary: int) -> bytes:
    """A document as it lies in a block.

    Raises:
        InvalidRequest: it takes more than `MAX_RECORD_BYTES`.
    """
    metadata = msgspec.json.encode(document.metadata) if document.metadata else b""
    tokens = document.tokens.astype(token_type(vocabulary)).data.cast("B")
    size = len(tokens) + len(metadata) + 4 * len(document.text or "")
    if size > MAX_RECORD_BYTES:
        raise InvalidRequest(
            f"a document takes at most {MAX_RECORD_BYTES} bytes; {document.id!r} takes {size}"
        )
    return msgspec.msgpack.encode(Record(tokens, document.id, document.text, metadata))


def write_documents(
    path: Path,
    documents: Iterable[Document],
    deletes: Sequence[tuple[int, int]] = (),
    *,
    vocabulary: int,
) -> DocumentsInfo:
    """Writes a new file of documents with distinct ids, and syncs it, but not its name.

    Takes memory for one block and 60 bytes per document.

    Args:
        documents: token ids uint32[n] below ``vocabulary``.
        deletes: pairs of (source, ordinal).

    Raises:
        FileExistsError: the file is there already.
        OSError: the system refuses it; nothing is left of it.
    """
    with creating(path) as file:
        writer = DocumentsWriter(file, vocabulary)
        for document in documents:
            record = encode(document, vocabulary)
            writer.add(
                record, len(document.tokens), id_digest(document.id), content_digest(document)
            )
        return writer.finish(deletes)
