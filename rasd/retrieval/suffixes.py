"""Documents as one text, the order of its suffixes, and keys to find one by.

Every 32nd suffix has a *key*: as many of its first tokens as fit 64 bits, the first in the highest
bits, each in as many bits as the vocabulary takes; the separator counts as the id behind the
last. Keys are sorted as the suffixes are, and one above all ends them. So a search halves the
keys, which lie close together, before it follows a suffix into the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydivsufsort import divsufsort
from pydivsufsort.dll import libdivsufsort

from rasd.errors import InvalidRequest
from rasd.tree import Int32s

SEPARATOR: Final = 2**32 - 1
MAX_VOCABULARY: Final = 2**31 - 1
MAX_TOKENS: Final = 2**31 - 1
"""Tokens and separators of one segment; what is longer goes into several."""
KEY_EVERY: Final = 32

UInt32s = NDArray[np.uint32]
UInt64s = NDArray[np.uint64]
Int64s = NDArray[np.int64]
IntArray = NDArray[np.integer[Any]]


def sort_documents(
    documents: Sequence[IntArray], vocabulary: int
) -> tuple[UInt64s, UInt32s, Int32s, Int32s]:
    """The sections of a segment: keys, tokens, suffixes and documents.

    Args:
        documents: token ids int[n] each, in [0, vocabulary).

    Raises:
        InvalidRequest: a token is out of range, there is no document, or there is too much.
    """
    text, starts = _join(documents, vocabulary)
    suffixes = _sort(text, vocabulary, len(documents))
    return _keys(text, suffixes, vocabulary), text, suffixes, starts


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


def _keys(text: UInt32s, suffixes: Int32s, vocabulary: int) -> UInt64s:
    """The first tokens of every 32nd suffix; zeros stand behind the end of the text."""
    bits, starts = vocabulary.bit_length(), suffixes[::KEY_EVERY].astype(np.int64)
    keys = np.zeros(len(starts) + 1, "<u8")
    for i in range(64 // bits):
        tokens = np.minimum(text[np.minimum(starts + i, len(text) - 1)], np.uint32(vocabulary))
        tokens[starts + i >= len(text)] = 0
        keys[:-1] = (keys[:-1] << np.uint64(bits)) | tokens
    keys[-1] = 2**64 - 1
    return keys
