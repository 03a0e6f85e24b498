"""Documents as one text, the order of its suffixes, and what a search reads of them first.

An *entry* stands for a suffix, in their order. Its lower bits say where the suffix starts, as many
as the last place in the text takes; what is left of the 32 bits is a check of the first
`CHECKED` tokens. So a search knows without the text that most suffixes are not the one it wants.

Every 32nd suffix has a *key*: as many of its first tokens as fit 64 bits, the first in the highest
bits, each in as many bits as the vocabulary takes; the separator counts as the id behind the
last. Keys are sorted as the suffixes are, and one above all ends them. So a search halves the
keys, which lie close together, before it looks at entries.
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
"""Suffixes from one key to the next."""
TOP_EVERY: Final = 16
"""Keys from one top to the next."""
CHECKED: Final = 4
"""Tokens that a check depends on."""
CHECK_FACTOR: Final = 0x9E3779B1

UInt32s = NDArray[np.uint32]
UInt64s = NDArray[np.uint64]
Int64s = NDArray[np.int64]
IntArray = NDArray[np.integer[Any]]


def sort_documents(
    documents: Sequence[IntArray], vocabulary: int
) -> tuple[UInt64s, UInt32s, UInt32s, Int32s]:
    """The sections of a segment: keys, tokens, entries and documents.

    Args:
        documents: token ids int[n] each, in [0, vocabulary).

    Raises:
        InvalidRequest: a token is out of range, there is no document, or there is too much.
    """
    text, starts = _join(documents, vocabulary)
    suffixes = _sort(text, vocabulary, len(documents))
    return _keys(text, suffixes, vocabulary), text, _entries(text, suffixes), starts


def place_bits(tokens: int) -> int:
    """How many bits of an entry say where its suffix starts, in a text of so many tokens."""
    return tokens.bit_length()


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


def tops_of(keys: UInt64s) -> UInt64s:
    """Every 16th key and the last."""
    return np.append(keys[:-1:TOP_EVERY], keys[-1:])


def _entries(text: UInt32s, suffixes: Int32s) -> UInt32s:
    """The suffixes with their checks. What stands behind a separator does not matter."""
    checks = text.copy()
    for i in range(1, CHECKED):
        checks *= np.uint32(CHECK_FACTOR)
        checks[:-i] += text[i:]
    checks ^= checks >> np.uint32(15)
    checks *= np.uint32(CHECK_FACTOR)
    checks &= np.uint32(2**32 - (1 << place_bits(len(text))))
    entries: UInt32s = checks[suffixes]
    entries |= suffixes.view(np.uint32)
    return entries


def agree(keys: UInt64s, text: UInt32s, entries: UInt32s, vocabulary: int) -> bool:
    """Whether keys and checks are those of the text. Takes 12 bytes per token meanwhile."""
    suffixes = (entries & np.uint32((1 << place_bits(len(text))) - 1)).view(np.int32)
    same = np.array_equal(_entries(text, suffixes), entries)
    return same and np.array_equal(_keys(text, suffixes, vocabulary), keys)
