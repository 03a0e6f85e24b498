"""What passages near a prompt mean for its sequence: whom to ask, and what to copy. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from rasd.retrieval.dense.passages import Passage
from rasd.retrieval.segment import UInt32s
from rasd.stages import RetrieveQuery
from rasd.trie import Continuations

DECIDING: Final = 16
"""The best so many passages say who is worth asking."""

Source = Hashable
"""Somebody who can be asked: a slot, or the store of this process."""


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens uint32[n] of a document, from ``offset`` on: passages that overlap, as one."""

    corpus: int
    document: bytes
    offset: int
    tokens: UInt32s


@dataclass(frozen=True, slots=True)
class Selection:
    """What a prompt selected.

    Attributes:
        reads: of every source that answered, which corpora (by index) are worth asking it.
        runs: what is copied; no token of a document twice.
    """

    reads: Mapping[Source, frozenset[int]]
    runs: tuple[Run, ...]


def select(
    answers: Mapping[Source, Sequence[Passage]], count: int, deciding: int = DECIDING
) -> Selection:
    """Out of what the sources found, each its best first.

    Args:
        count: passages to copy at most. Among equals, earlier sources come first.
    """
    every = [(source, passage) for source, found in answers.items() for passage in found]
    best = heapq.nsmallest(max(count, deciding), every, key=lambda hit: -hit[1].score)
    reads: dict[Source, set[int]] = {source: set() for source in answers}
    for source, passage in best[:deciding]:
        reads[source].add(passage.corpus)
    return Selection(
        {source: frozenset(corpora) for source, corpora in reads.items()},
        tuple(joined(passage for _, passage in best[:count])),
    )


def joined(passages: Iterable[Passage]) -> list[Run]:
    """Passages of a document that overlap or touch become one, so that nothing counts twice."""
    ordered = sorted(passages, key=lambda p: (p.corpus, p.document, p.offset))
    runs: list[tuple[Passage, list[UInt32s], int]] = []  # first, pieces, end
    for passage in ordered:
        end = passage.offset + len(passage.tokens)
        if runs:
            first, pieces, reached = runs[-1]
            same = (first.corpus, first.document) == (passage.corpus, passage.document)
            if same and passage.offset <= reached:
                pieces.append(passage.tokens[reached - passage.offset :])
                runs[-1] = (first, pieces, max(end, reached))
                continue
        runs.append((passage, [passage.tokens], end))
    return [Run(p.corpus, p.document, p.offset, np.concatenate(rest)) for p, rest, _ in runs]


def narrowed(query: RetrieveQuery, corpora: frozenset[int]) -> RetrieveQuery | None:
    """The query for some of its corpora, by index; None if that leaves none."""
    kept = tuple(name for i, name in enumerate(query.corpora) if i in corpora)
    if not kept:
        return None
    return query if len(kept) == len(query.corpora) else replace(query, corpora=kept)


def widened(found: Continuations, asked: RetrieveQuery, query: RetrieveQuery) -> Continuations:
    """An answer to ``asked``, made by `narrowed`, as one to ``query``: origins name its corpora."""
    if found.origins is None or asked.corpora == query.corpora:
        return found
    numbers = np.array([query.corpora.index(name) for name in asked.corpora], np.int32)
    return replace(found, origins=replace(found.origins, corpora=numbers[found.origins.corpora]))


def united(copied: Continuations | None, others: list[Continuations]) -> list[Continuations]:
    """What is to be merged: others' answers, or what was copied where it matches longer.

    It is part of what others hold: counted beside them, its hits would count twice. To prefer
    it where both match as long cost 2 to 8 % of the right tokens (``benchmarks/dense.py``).
    """
    if copied is None or copied.match_length == 0:
        return others
    longest = max((other.match_length for other in others), default=0)
    return [copied] if copied.match_length > longest else others
