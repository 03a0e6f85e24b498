"""Documents from outside: checked, tokenised, or refused with a reason. Nothing of disks here.

An id is a name and never becomes a path: separators and ``..`` are characters like others.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from rasd.datastore import Change, NewDocument, Written
from rasd.retrieval.store.corpora import CorpusSpec
from rasd.retrieval.store.records import Document, id_digest, partition_of
from rasd.text import encode_documents, tokenizer_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MAX_ID_BYTES: Final = 512
MAX_METADATA_BYTES: Final = 64 * 1024
MAX_METADATA_DEPTH: Final = 32
BATCH_BYTES: Final = 2**20
"""Text given to the tokenizer at once."""

_SHOWN: Final = 64
_MIN_INT, _MAX_INT = -(2**63), 2**64 - 1
"""Integers that JSON libraries agree on."""


class Intake:
    """What a corpus of one tokenizer accepts. Safe to use from several threads.

    Attributes:
        vocabulary, tokenizer_hash: of the tokenizer, as a corpus is bound to them.
        max_document_bytes: what a text may have; tokens take 4 each.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, max_document_bytes: int) -> None:
        self.vocabulary = len(tokenizer)
        self.tokenizer_hash = tokenizer_hash(tokenizer)
        self.max_document_bytes = max_document_bytes
        self._tokenizer = tokenizer

    def check(self, documents: Sequence[NewDocument]) -> list[Written | None]:
        """Per document None, or its rejection. Cheap: nothing is tokenised.

        Of documents with the same id all but the first are rejected.
        """
        seen: set[str] = set()
        found: list[Written | None] = []
        for document in documents:
            reason = id_fault(document.id)
            if not reason and document.id in seen:
                reason = f"id {quoted(document.id)} comes twice in one call; the first one counts"
            elif not reason:
                seen.add(document.id)
                reason = self._content_fault(document) or metadata_fault(document.metadata)
            found.append(rejected(document.id, reason) if reason else None)
        return found

    def tokenise(self, documents: Sequence[NewDocument]) -> list[Document | Written]:
        """Makes documents that passed `check` into those of the store, in order.

        A text that gives no token is rejected.
        """
        made: list[Document | Written] = []
        for batch in _batches(documents):
            texts = [document.text for document in batch if document.text is not None]
            ids = iter(encode_documents(self._tokenizer, texts))
            for one in batch:
                tokens = np.asarray(next(ids) if one.text is not None else one.tokens, np.uint32)
                if len(tokens):
                    made.append(Document(one.id, tokens, one.text, one.metadata))
                else:
                    made.append(rejected(one.id, "text must give at least 1 token; got 0"))
        return made

    def _content_fault(self, document: NewDocument) -> str:
        if (document.text is None) == (document.tokens is None):
            both = "neither" if document.text is None else "both"
            return f"a document has either text or tokens; got {both}"
        if document.text is not None:
            return text_fault(document.text, self.max_document_bytes)
        return tokens_fault(document.tokens, self.max_document_bytes // 4, self.vocabulary)


def weight(document: NewDocument) -> int:
    """Bytes of a document, about: of its text, or 4 per token. It need not be a good one."""
    text = len(document.text) if isinstance(document.text, str) else 0
    return text + (4 * len(document.tokens) if isinstance(document.tokens, list) else 0)


def rejected(id_: object, reason: str) -> Written:
    """The answer for a document that is refused. An id that is none is shortened to be sent."""
    name = id_ if isinstance(id_, str) and not id_fault(id_) else quoted(id_)
    return Written(name, "rejected", reason)


def written(spec: CorpusSpec, id_: str, change: Change) -> Written:
    """The answer for a document that passed: the writer rejects those of damaged partitions."""
    if change != "rejected":
        return Written(id_, change)
    partition = partition_of(id_digest(id_), spec.partitions)
    return Written(
        id_,
        change,
        f"partition {partition} of corpus {spec.name!r}, where this document belongs, is damaged; "
        "nothing can be written to it",
    )


def quoted(value: object) -> str:
    """A value for a message: printable ASCII or letters, and short."""
    if isinstance(value, str) and len(value) > _SHOWN:
        return f"{value[:_SHOWN]!r}… of {len(value)} characters"
    if isinstance(value, int) and value.bit_length() > _SHOWN:  # Python refuses to print some
        return f"an integer of {value.bit_length()} bits"
    return repr(value) if isinstance(value, str | int | float | None) else type(value).__name__


# --- what is wrong, or "" ---------------------------------------------------------------------


def id_fault(id_: object) -> str:
    """Why this cannot name a document."""
    if not isinstance(id_, str):
        return f"an id must be a string; got {type(id_).__name__}"
    if not 1 <= len(id_) <= MAX_ID_BYTES:
        return f"an id must be 1 to {MAX_ID_BYTES} bytes of UTF-8; got {len(id_)} characters"
    for at, character in enumerate(id_):
        if unicodedata.category(character) in ("Cc", "Cs"):
            kind = "lone surrogates" if "\ud800" <= character <= "\udfff" else "control characters"
            return f"an id must be without {kind}; character {at} of {quoted(id_)} is one"
    size = len(id_.encode())
    if size > MAX_ID_BYTES:
        return f"an id must be 1 to {MAX_ID_BYTES} bytes of UTF-8; got {size}: {quoted(id_)}"
    return ""


def text_fault(text: object, max_bytes: int) -> str:
    """Why this cannot be the text of a document. A text far over the limit is not looked at."""
    if not isinstance(text, str):
        return f"text must be a string; got {type(text).__name__}"
    if not text:
        return "text must have at least 1 character; got 0"
    if len(text) > max_bytes:
        return f"text must be at most {max_bytes} bytes of UTF-8; got {len(text)} characters"
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        return f"text must be without lone surrogates; character {error.start} is one"
    if size > max_bytes:
        return f"text must be at most {max_bytes} bytes of UTF-8; got {size}"
    if (at := text.find("\0")) >= 0:
        return f"text must be without NUL; character {at} is one"
    return ""


def tokens_fault(tokens: Any, max_tokens: int, vocabulary: int) -> str:
    """Why these cannot be the tokens of a document."""
    if not isinstance(tokens, list):
        return f"tokens must be a list of integers; got {type(tokens).__name__}"
    if not 1 <= len(tokens) <= max_tokens:
        return f"tokens must be 1 to {max_tokens} token ids; got {len(tokens)}"
    if others := set(map(type, tokens)) - {int}:  # a truth value is an int, but no token
        return f"tokens must be a list of integers; got a {others.pop().__name__}"
    low, high = min(tokens), max(tokens)
    if low < 0 or high >= vocabulary:
        return f"token ids must be in [0, {vocabulary}); got {quoted(low if low < 0 else high)}"
    return ""


def metadata_fault(metadata: Any) -> str:
    """Why this is no JSON object that every reader reads alike, or too big a one."""
    if not isinstance(metadata, dict):
        return f"metadata must be an object; got {type(metadata).__name__}"
    waiting: list[tuple[Any, int]] = [(metadata, 1)]
    values = 0
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_METADATA_DEPTH:
            return f"metadata must be nested at most {MAX_METADATA_DEPTH} deep"
        if isinstance(value, dict | list):
            values += len(value)
            if values > MAX_METADATA_BYTES:  # each takes a byte: no need to look at all of them
                return f"metadata must be at most {MAX_METADATA_BYTES} bytes; got {values} values"
            inside = value.values() if isinstance(value, dict) else value
            waiting += [(one, depth + 1) for one in inside]
        if fault := _value_fault(value):
            return f"metadata {fault}"
    return _size_fault(metadata)


def _value_fault(value: Any) -> str:
    match value:
        case dict():
            wrong = next((key for key in value if not isinstance(key, str)), None)
            return "" if wrong is None else f"keys must be strings; got {quoted(wrong)}"
        case float() if not math.isfinite(value):
            return f"numbers must be finite; got {value}"
        case int() if not _MIN_INT <= value <= _MAX_INT:
            return f"integers must be in [{_MIN_INT}, {_MAX_INT}]; got {quoted(value)}"
        case str() if len(value) > MAX_METADATA_BYTES:
            return f"must be at most {MAX_METADATA_BYTES} bytes; a text has {len(value)} characters"
        case list() | str() | int() | float() | None:
            return ""
    return f"values must be those of JSON; got {type(value).__name__}"


def _size_fault(metadata: dict[str, Any]) -> str:
    try:
        size = len(msgspec.json.encode(metadata))
    except UnicodeEncodeError:
        return "metadata must be without lone surrogates"
    if size > MAX_METADATA_BYTES:
        return f"metadata must be at most {MAX_METADATA_BYTES} bytes of JSON; got {size}"
    return ""


def _batches(documents: Sequence[NewDocument]) -> Iterator[list[NewDocument]]:
    """In order, together up to `BATCH_BYTES`, and at least one at a time."""
    batch: list[NewDocument] = []
    size = 0
    for document in documents:
        if batch and size + weight(document) > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += weight(document)
    if batch:
        yield batch
