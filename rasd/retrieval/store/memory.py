"""The part of a partition that has no index on disk yet: its log, indexed in memory.

Small sources are indexed together in *groups*. A group is at least twice as large as the next,
so there are few; one that is indexed again has grown by half, so a token is sorted a number of
times that is logarithmic in the size of the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import compress
from typing import Final

import numpy as np

from rasd.retrieval.live import Live
from rasd.retrieval.search import Part
from rasd.retrieval.segment import UInt32s, build_segment
from rasd.retrieval.store.layout import Int64s, UInt8s
from rasd.retrieval.store.names import among
from rasd.tree import Bools

SMALL: Final = 2**13
"""Groups of fewer tokens are always indexed again with what comes: that takes a millisecond."""
LARGE: Final = 2**22
"""No group grows beyond this many tokens, so that sorting takes less than a second."""


@dataclass(frozen=True, slots=True)
class Group:
    """Documents indexed together.

    Attributes:
        part: their index, and which of them live.
        names: int64[D], see `rasd.retrieval.store.names`; digests: uint8[D, 16], of their ids.
        gone: bool[D], those that died.
    """

    part: Part
    names: Int64s
    digests: UInt8s
    gone: Bools

    @property
    def documents(self) -> int:
        """How many live."""
        live = self.part.live
        return len(self.names) if live is None else live.documents

    @property
    def tokens(self) -> int:
        """How many live."""
        live = self.part.live
        return len(self.part.segment.suffixes) if live is None else live.tokens


@dataclass(frozen=True, slots=True)
class LogDocument:
    """A document on its way into a group; ``tokens`` is uint32[n], ``digest`` uint8[16]."""

    name: int
    digest: UInt8s
    tokens: UInt32s


@dataclass(frozen=True, slots=True)
class Memory:
    """The groups, largest first. Immutable."""

    groups: tuple[Group, ...] = ()

    @property
    def documents(self) -> int:
        """How many live."""
        return sum(group.documents for group in self.groups)

    @property
    def tokens(self) -> int:
        """How many live."""
        return sum(group.tokens for group in self.groups)

    def updated(
        self,
        added: Iterable[LogDocument],
        *,
        sources: Iterable[int],
        dead: Int64s,
        vocabulary: int,
    ) -> Memory:
        """With ``added``, without documents of others than ``sources``, and without the dead.

        Takes time in proportion to what is added, and to groups in which a document died.

        Args:
            sources: those that are in the log now, the added ones among them.
            dead: int64[K], names of all documents that were replaced or deleted, in any order.
            vocabulary: every token id is below it.

        Raises:
            InvalidRequest: one is not.
        """
        kept = np.sort(np.fromiter(sources, np.int64))
        buried = np.sort(dead)
        groups: list[Group] = []
        pool: list[LogDocument] = []
        for group in self.groups:
            gone = among(group.names, buried)
            stays = among(group.names >> 32, kept)
            if stays.all() and 2 * np.count_nonzero(gone) < len(gone):
                groups.append(_without(group, gone))
            else:
                pool.extend(_documents(group, stays & ~gone))
        new = list(added)
        alive = ~among(np.array([document.name for document in new], np.int64), buried)
        pool.extend(compress(new, alive))
        groups.sort(key=_size, reverse=True)
        return Memory(tuple(_combined(groups, pool, vocabulary)))


def _size(group: Group) -> int:
    return len(group.part.segment.suffixes)


def _without(group: Group, gone: Bools) -> Group:
    if np.array_equal(gone, group.gone):
        return group
    live = Live.without(group.part.segment, np.flatnonzero(gone), group.part.live)
    return replace(group, part=Part(group.part.segment, live), gone=gone)


def _documents(group: Group, wanted: Bools) -> Iterator[LogDocument]:
    segment = group.part.segment
    ends = np.append(segment.documents[1:], len(segment.tokens)) - 1  # without the separator
    for row in np.flatnonzero(wanted):
        tokens = segment.tokens[segment.documents[row] : ends[row]]
        yield LogDocument(int(group.names[row]), group.digests[row], tokens)


def _combined(groups: list[Group], pool: list[LogDocument], vocabulary: int) -> list[Group]:
    """All groups, and as few new ones as the rules allow. Takes from ``groups``."""
    if not pool:
        return groups
    size = sum(len(document.tokens) for document in pool)
    while groups:
        last = _size(groups[-1])
        if last >= max(2 * size, SMALL) or last + size > LARGE:
            break
        pool = [*_documents(groups[-1], ~groups[-1].gone), *pool]
        size += groups.pop().tokens
    chunk: list[LogDocument] = []
    room = LARGE
    for document in pool:
        if chunk and len(document.tokens) > room:
            groups.append(_indexed(chunk, vocabulary))
            chunk, room = [], LARGE
        chunk.append(document)
        room -= len(document.tokens)
    groups.append(_indexed(chunk, vocabulary))
    return sorted(groups, key=_size, reverse=True)


def _indexed(documents: list[LogDocument], vocabulary: int) -> Group:
    segment = build_segment([document.tokens for document in documents], vocabulary=vocabulary)
    return Group(
        Part(segment),
        np.array([document.name for document in documents], np.int64),
        np.stack([document.digest for document in documents]),
        np.zeros(len(documents), np.bool_),
    )
