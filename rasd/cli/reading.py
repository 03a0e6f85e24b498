"""Reading documents to upload, a bit at a time, from sources that may hold anything."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from rasd.retrieval.lines import bare, parse_line

MAX_BYTES: Final = 8 * 1024 * 1024
"""Longest line, or file of text, that is read: twice what a service accepts by default."""

_PIECE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Position:
    """How far a source was read: bytes and lines. A file of text is one line."""

    offset: int = 0
    line: int = 0


@dataclass(frozen=True, slots=True)
class Item:
    """A document as JSON, or None and the reason why there is none.

    ``size`` is how many bytes of the source it took, ``after`` where the next one begins.
    ``passed_over`` are fields of its line that are no part of it.
    """

    source: Source
    id: str
    document: bytes | None
    reason: str
    size: int
    after: Position
    passed_over: frozenset[str] = frozenset()

    @property
    def place(self) -> str:
        """For people: the file, and the line where it has several documents."""
        return self.source.name + (f":{self.after.line}" if self.source.lines else "")


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or standard input.

    Attributes:
        name: for people.
        path: None is standard input.
        id: of the document, where the whole file is one; None for lines of JSON.
        size: in bytes; 0 if that cannot be known.
        key: differs once the file has changed; empty where nothing can be found again.
        follow: whether a link or a pipe is read, as one that was named is.
        fault: why it cannot be read.
    """

    name: str
    path: Path | None
    id: str | None
    size: int = 0
    key: str = ""
    follow: bool = False
    fault: str = ""

    @property
    def lines(self) -> bool:
        """Whether each line is a document."""
        return self.id is None

    def read(self, start: Position, limit: int) -> Iterator[Item]:
        """Documents from ``start`` on. What cannot be read is an item with the reason.

        Of a line or file longer than ``limit`` bytes no more than that is held in memory.
        """
        if self.fault:
            yield self._refused(self.fault)
            return
        try:
            with self._open() as file:
                if start.offset:
                    file.seek(start.offset)
                yield from (
                    _lines(self, file, start, limit) if self.lines else [_whole(self, file, limit)]
                )
        except OSError as error:
            yield self._refused(error.strerror or str(error))

    def _refused(self, reason: str) -> Item:
        return Item(self, self.id or "", None, reason, self.size, Position(self.size, 1))

    def _open(self) -> BinaryIO:
        if self.path is None:
            return sys.stdin.buffer
        # Found in a folder, it may have become a link or a pipe that never ends since.
        flags = os.O_RDONLY | os.O_CLOEXEC
        flags |= 0 if self.follow else os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.fdopen(os.open(self.path, flags), "rb")
        if not self.follow and not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise OSError(0, "it is no regular file any more")
        return file


def _lines(source: Source, file: BinaryIO, start: Position, limit: int) -> Iterator[Item]:
    offset, number = start.offset, start.line
    reported = offset
    while piece := file.readline(limit + 2):  # so that a line break fits beside the limit
        length = len(piece)
        while not piece.endswith(b"\n") and (more := file.readline(_PIECE)):
            length += len(more)
            piece = more if more.endswith(b"\n") else b""
        offset, number = offset + length, number + 1
        after = Position(offset, number)
        line = bare(piece, first=offset == length)
        if length > len(piece) or len(line) > limit:
            reason = f"the line has {length} bytes; at most {limit} are read"
            yield Item(source, "", None, reason, offset - reported, after)
        elif line:
            id_, document, reason, fields = _parse(line)
            yield Item(source, id_, document, reason, offset - reported, after, fields)
        else:
            continue
        reported = offset


def _parse(line: bytes) -> tuple[str, bytes | None, str, frozenset[str]]:
    """Id, JSON and fault of a line, and its fields that are passed over."""
    try:
        found, fields = parse_line(line)
    except ValueError as error:
        return "", None, str(error), frozenset()
    if (found.text is None) == (found.tokens is None):
        has = "neither text nor tokens" if found.text is None else "both text and tokens"
        return found.id, None, f"the document has {has}; it needs one of them", fields
    if fault := _fault(found.id, "id") or _fault(found.text or "", "text"):
        return found.id, None, fault, fields
    return found.id, _encode(found.id, found.text, found.tokens, found.metadata), "", fields


def _whole(source: Source, file: BinaryIO, limit: int) -> Item:
    id_, after = source.id or "", Position(source.size, 1)
    content = file.read(limit + 1)
    document, reason = None, ""
    if len(content) > limit:
        size = f"{source.size}" if source.size > limit else f"more than {limit}"
        reason = f"the file has {size} bytes; at most {limit} are read"
    else:
        try:
            text = content.decode()
            if not (reason := _fault(id_, "id") or _fault(text, "text")):
                document = _encode(id_, text, None, {})
        except UnicodeDecodeError as error:
            reason = f"not UTF-8: byte {error.start} is not valid"
    return Item(source, id_, document, reason, source.size or len(content), after)


def _fault(text: str, name: str) -> str:
    # The service would refuse the whole batch for one of these.
    if (at := text.find("\0")) >= 0:
        return f"{name} holds a NUL character at {at}"
    try:
        text.encode()
    except UnicodeEncodeError as error:  # a file name that is no UTF-8
        return f"{name} is not UTF-8: character {error.start} is not valid"
    return ""


def _encode(
    id_: str, text: str | None, tokens: list[int] | None, metadata: dict[str, Any]
) -> bytes:
    document: dict[str, Any] = {"id": id_}
    document |= {"text": text} if text is not None else {"tokens": tokens}
    return msgspec.json.encode(document | ({"metadata": metadata} if metadata else {}))
