"""A document as a line of JSON: the one rule for everybody who reads such lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

import msgspec

from rasd.datastore import NewDocument

SUFFIXES: Final = (".jsonl", ".ndjson")
"""Of files that hold them."""

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_NAMED: Final = 20


class PassedOver:
    """Names of fields that are no part of a document, for one note about all lines."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def add(self, names: Iterable[str]) -> None:
        """Remembers them, unless there are many already."""
        if len(self._names) <= _NAMED:
            self._names.update(names)

    def __str__(self) -> str:
        """In the order of the alphabet; empty if there are none."""
        shown = ", ".join(f"{name:.60}" for name in sorted(self._names)[:_NAMED])
        return f"{shown} and others" if len(self._names) > _NAMED else shown


class _Line(msgspec.Struct):
    id: str | int
    text: str | None = None
    tokens: list[int] | None = None
    metadata: dict[str, Any] | None = None


_LINES: Final = msgspec.json.Decoder(_Line)
_NAMES: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def bare(line: bytes, *, first: bool) -> bytes:
    """A line without white space around it; empty if it is to be passed over.

    A byte order mark may stand before the ``first`` one of a file, and is no part of it.
    """
    return (line.removeprefix(_BYTE_ORDER_MARK) if first else line).strip()


def parse_line(line: bytes | str) -> tuple[NewDocument, frozenset[str]]:
    """The document of a JSON object, and the names of fields that are passed over.

    An object has ``id``, a text or a number; ``text`` or ``tokens``; perhaps ``metadata``, where
    null is none. Whatever else public dumps have beside those is no part of the document. Whether
    the content is good is not asked.

    Raises:
        ValueError: it is none; the message says why.
    """
    try:
        found = _LINES.decode(line)
        names = _NAMES.decode(line).keys()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.start} of a text is not valid") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except msgspec.DecodeError as error:
        raise ValueError(lone_surrogate(line) or str(error)) from error
    document = NewDocument(str(found.id), found.text, found.tokens, found.metadata or {})
    return document, frozenset(names).difference(_Line.__struct_fields__)


def lone_surrogate(line: bytes | str) -> str:
    """That a string of a line of JSON holds a lone surrogate, where one does; else empty.

    The parser calls that other things, such as "truncated".
    """
    raw = line.encode(errors="replace") if isinstance(line, str) else line
    for found in _STRING.findall(raw):
        with suppress(ValueError):
            text = json.loads(found)
            try:
                text.encode()
            except UnicodeEncodeError as error:
                return f"a text holds a lone surrogate at {error.start}, which is no character"
    return ""
