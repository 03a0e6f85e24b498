"""What is written to a corpus, and how it is named."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from rasd.retrieval.segment import UInt32s
from rasd.trie import DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a corpus, checked: ids in range, at least one token, a clean id.

    ``tokens`` is uint32[n]; ``text`` None where it was given as tokens.
    """

    id: str
    tokens: UInt32s
    text: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Put:
    """Adds the document, or replaces the one with its id."""

    document: Document


@dataclass(frozen=True, slots=True)
class Delete:
    """Removes a document; nothing happens if there is none."""

    id: str


Operation = Put | Delete


def id_digest(id_: str) -> bytes:
    """16 bytes that stand for an id: its place, and its name in `rasd.trie.Origins`."""
    return hashlib.blake2b(id_.encode(), digest_size=DIGEST_BYTES).digest()


def partition_of(digest: bytes, partitions: int) -> int:
    """Where a document lives."""
    return int.from_bytes(digest, "little") % partitions


def content_digest(document: Document) -> bytes:
    """16 bytes that differ when anything of the document but its id differs."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    metadata = msgspec.json.encode(document.metadata, order="deterministic")
    text = b"" if document.text is None else b"t" + document.text.encode()
    for part in (np.ascontiguousarray(document.tokens, "<u4").tobytes(), text, metadata):
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()
