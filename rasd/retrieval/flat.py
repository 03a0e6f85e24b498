"""Queries and answers of a whole step as a few flat arrays, to cross a socket.

64 sequences ask with 64 small arrays and are answered with 192; most of the time of a message
would go into headers. Packing does not look at values; unpacking checks everything, and what it
returns can be used without further thought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rasd.errors import WireError
from rasd.jit import compiled
from rasd.stages import RetrieveQuery
from rasd.tree import Int32s, UInt8s
from rasd.trie import Continuations, Origins

Int64s = NDArray[np.int64]

_DIGEST: Final = 16
_NO_ORIGINS: Final = Origins(
    np.zeros(0, np.int32), np.zeros((0, _DIGEST), np.uint8), np.zeros(0, np.int32)
)


@dataclass(frozen=True, slots=True)
class PackedQueries:
    """Queries of a step. Sequence numbers stay with who asks.

    Attributes:
        tails: int32[T], one behind the other; ends: int32[Q], where each of them ends.
        readers: each different list of corpora once; reads: int32[Q], which list a query has.
        origins: uint8[Q], 1 where origins are asked for.
    """

    tails: Int32s
    ends: Int32s
    readers: list[tuple[str, ...]]
    reads: Int32s
    origins: UInt8s


@dataclass(frozen=True, slots=True)
class PackedAnswers:
    """Answers in the order of the queries.

    Attributes:
        tokens, parents, counts: int32[N], one answer behind the other; parents count from the
            start of their answer. ends: int32[Q].
        totals: one per query; lengths: int32[Q], the matched suffixes; exact: uint8[Q].
        placed: uint8[Q], 1 for answers with origins; ``origins`` has the nodes of these alone.
    """

    tokens: Int32s
    parents: Int32s
    counts: Int32s
    ends: Int32s
    totals: list[int]
    lengths: Int32s
    exact: UInt8s
    placed: UInt8s
    origins: Origins


def warm_up() -> None:
    """Compiles, or loads what was compiled before; the first answer is then as quick as others."""
    empty = np.zeros(0, np.int32)
    _are_tries(empty, empty, empty, np.zeros(1, np.int64), 1)


def pack_queries(queries: Sequence[RetrieveQuery]) -> PackedQueries:
    """All of them, in order."""
    readers: dict[tuple[str, ...], int] = {}
    reads = [readers.setdefault(query.corpora, len(readers)) for query in queries]
    return PackedQueries(
        _joined([query.tail for query in queries]),
        _ends([query.tail for query in queries]),
        list(readers),
        np.array(reads, np.int32),
        np.array([query.origins for query in queries], np.uint8),
    )


def unpack_queries(packed: PackedQueries) -> list[RetrieveQuery]:
    """The queries; their sequences are numbered from 0.

    Raises:
        WireError: the arrays contradict each other.
    """
    bounds = _bounds(packed.ends, packed.tails.size)
    count = len(bounds) - 1
    if packed.tails.ndim != 1 or packed.reads.shape != (count,) or packed.origins.shape != (count,):
        raise WireError("queries are malformed: not one row each")
    reads = packed.reads.tolist()
    if count and not 0 <= min(reads) <= max(reads) < len(packed.readers):
        raise WireError(f"a query reads a list that is not among {len(packed.readers)}")
    wanted = packed.origins.tolist()
    return [
        RetrieveQuery(i, packed.tails[a:b], packed.readers[reads[i]], bool(wanted[i]))
        for i, (a, b) in enumerate(pairwise(bounds))
    ]


def pack_answers(found: Sequence[Continuations]) -> PackedAnswers:
    """All of them, in order."""
    origins = [answer.origins for answer in found if answer.origins is not None]
    return PackedAnswers(
        _joined([answer.tokens for answer in found]),
        _joined([answer.parents for answer in found]),
        _joined([answer.counts for answer in found]),
        _ends([answer.tokens for answer in found]),
        [answer.total for answer in found],
        np.array([answer.match_length for answer in found], np.int32),
        np.array([answer.exact for answer in found], np.uint8),
        np.array([answer.origins is not None for answer in found], np.uint8),
        _joined_origins(origins) if origins else _NO_ORIGINS,
    )


def unpack_answers(
    packed: PackedAnswers, queries: Sequence[RetrieveQuery], vocabulary: int
) -> list[Continuations]:
    """The answers to ``queries``, each of them a trie of known tokens. They share memory.

    Raises:
        WireError: the arrays contradict each other or the queries, or hold no tries.
    """
    bounds = _bounds(packed.ends, packed.tokens.size)
    table = np.array(bounds, np.int64)
    _check_answers(packed, table, queries, vocabulary)
    origins = _split_origins(packed, table, queries)
    lengths, exact = packed.lengths.tolist(), packed.exact.tolist()
    return [
        Continuations(
            packed.tokens[a:b],
            packed.parents[a:b],
            packed.counts[a:b],
            packed.totals[i],
            lengths[i],
            bool(exact[i]),
            origins[i],
        )
        for i, (a, b) in enumerate(pairwise(bounds))
    ]


def _joined(arrays: list[Int32s]) -> Int32s:
    return np.concatenate(arrays, dtype=np.int32) if arrays else np.zeros(0, np.int32)


def _joined_origins(parts: list[Origins]) -> Origins:
    return Origins(
        np.concatenate([part.corpora for part in parts], dtype=np.int32),
        np.concatenate([part.documents for part in parts], dtype=np.uint8),
        np.concatenate([part.offsets for part in parts], dtype=np.int32),
    )


def _ends(arrays: list[Int32s]) -> Int32s:
    return np.cumsum([len(array) for array in arrays], dtype=np.int32)


def _bounds(ends: Int32s, size: int) -> list[int]:
    """0 and the ends, which must ascend to ``size``."""
    if ends.ndim != 1:
        raise WireError(f"ends have 1 dimension; got {ends.ndim}")
    bounds = [0, *ends.tolist()]
    if bounds[-1] != size or any(a > b for a, b in pairwise(bounds)):
        raise WireError(f"ends do not ascend to {size}")
    return bounds


def _check_answers(
    packed: PackedAnswers, bounds: Int64s, queries: Sequence[RetrieveQuery], vocabulary: int
) -> None:
    count, size = len(queries), packed.tokens.size
    if len(bounds) != count + 1:
        raise WireError(f"{count} queries have {len(bounds) - 1} answers")
    rows = (packed.lengths, packed.exact, packed.placed)
    if any(row.shape != (count,) for row in rows) or len(packed.totals) != count:
        raise WireError("answers are malformed: not one row each")
    if any(row.shape != (size,) for row in (packed.tokens, packed.parents, packed.counts)):
        raise WireError("answers are malformed: not one entry per node")
    sizes = np.diff(bounds)
    asked = np.array([len(query.tail) for query in queries], np.int64)
    totals = np.array([min(max(total, -1), 1) for total in packed.totals], np.int64)
    lengths = packed.lengths
    if ((lengths < 0) | (lengths > asked) | (totals < 0)).any():
        raise WireError("an answer matches more than was asked, or less than nothing")
    if ((sizes > 0) & ((lengths < 1) | (totals < 1))).any():
        raise WireError("an answer has nodes and no match")
    if not _are_tries(packed.tokens, packed.parents, packed.counts, bounds, vocabulary):
        raise WireError("an answer is no trie of known tokens")


@compiled
def _are_tries(
    tokens: Int32s, parents: Int32s, counts: Int32s, bounds: Int64s, vocabulary: int
) -> bool:
    """Whether nodes hang from earlier ones of their answer, siblings differ, and tokens exist."""
    size = 16
    while size < 2 * len(tokens):
        size *= 2
    seen = np.full(size, -1, np.int64)  # open addressing
    for answer in range(len(bounds) - 1):
        start = bounds[answer]
        for node in range(start, bounds[answer + 1]):
            token, parent = np.int64(tokens[node]), np.int64(parents[node])
            if not (0 <= token < vocabulary and -1 <= parent < node - start and counts[node] >= 0):
                return False
            # Below the anchor of an answer: a number of its own that no node has.
            above = start + parent if parent >= 0 else len(tokens) + answer
            mixed = above * 0x9E3779B1 + token * 0x85EBCA77
            at = (mixed ^ (mixed >> 29)) & (size - 1)
            while seen[at] >= 0:
                if seen[at] == above * vocabulary + token:
                    return False
                at = (at + 1) & (size - 1)
            seen[at] = above * vocabulary + token
    return True


def _split_origins(
    packed: PackedAnswers, bounds: Int64s, queries: Sequence[RetrieveQuery]
) -> list[Origins | None]:
    """Per answer, its origins or None."""
    given = packed.origins
    corpora, documents, offsets = given.corpora, given.documents, given.offsets
    size = corpora.size
    placed = np.flatnonzero(packed.placed).tolist()
    sizes = np.diff(bounds)[placed]
    if corpora.shape != (size,) or offsets.shape != (size,) or documents.shape != (size, _DIGEST):
        raise WireError("origins are malformed: not one row per node")
    if sizes.sum() != size:
        raise WireError(f"{size} origins are given; {sizes.sum()} nodes have one")
    named = np.repeat([len(queries[i].corpora) for i in placed], sizes)
    if ((corpora < 0) | (corpora >= named) | (offsets < 0)).any():
        raise WireError("an origin lies outside of the corpora asked for")
    split: list[Origins | None] = [None] * len(queries)
    for i, (a, b) in zip(placed, pairwise([0, *np.cumsum(sizes).tolist()]), strict=True):
        split[i] = Origins(corpora[a:b], documents[a:b], offsets[a:b])
    return split
