"""Continuations found elsewhere, as a trie weighted by frequency: build, score, move along.

Pure functions on small arrays; nothing here is modified in place. Knows nothing of corpora or
sequences.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from rasd import kernels
from rasd.tree import Bools, DraftTree, Int32s, UInt8s

DIGEST_BYTES: Final = 16
"""Of the digest that names a document in `Origins`."""


@dataclass(frozen=True, slots=True)
class Origins:
    """Where the nodes of a trie were found; one occurrence each, of those that count.

    Attributes:
        corpora: int32[M]; index into the query's corpora, -1 for the sequence itself.
        documents: uint8[M, 16]; digest of the document's id, zeros for the sequence itself.
        offsets: int32[M]; place of the node's token in its document, or in the sequence.
    """

    corpora: Int32s
    documents: UInt8s
    offsets: Int32s

    def of(self, nodes: Int32s | Bools) -> Origins:
        """Those of some nodes, by index or as a mask."""
        return Origins(self.corpora[nodes], self.documents[nodes], self.offsets[nodes])


@dataclass(frozen=True, slots=True)
class Continuations:
    """What followed the matched suffix elsewhere, as a trie weighted by frequency.

    Attributes:
        tokens: int32[M], parents: int32[M], parents[i] < i; -1 hangs from the anchor, the node
            the query's tail ends in. The anchor itself is not part of the arrays.
        counts: int32[M]; occurrences that pass through the node.
        total: occurrences of the matched suffix.
        match_length: tokens in the matched suffix; 0 when nothing matched.
        exact: false where counts are a lower bound, merged from answers that were cut.
        origins: per node, where the query asked for them.
    """

    tokens: Int32s
    parents: Int32s
    counts: Int32s
    total: int
    match_length: int
    exact: bool = True
    origins: Origins | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def none(cls) -> Continuations:
        """No hit."""
        empty = np.zeros(0, np.int32)
        return cls(empty, empty, empty, 0, 0)


def build_trie(paths: Iterable[Sequence[int]], match_length: int) -> Continuations:
    """Merges continuations by shared prefix; counts how many pass through each node.

    Siblings come in order of first appearance. ``total`` is the number of paths.
    """
    tokens: list[int] = []
    parents: list[int] = []
    counts: list[int] = []
    children: dict[tuple[int, int], int] = {}
    total = 0
    for path in paths:
        total += 1
        node = -1
        for token in path:
            child = children.get((node, token))
            if child is None:
                child = children[node, token] = len(tokens)
                tokens.append(token)
                parents.append(node)
                counts.append(0)
            counts[child] += 1
            node = child
    return Continuations(
        np.asarray(tokens, np.int32),
        np.asarray(parents, np.int32),
        np.asarray(counts, np.int32),
        total,
        match_length,
    )


def score_continuations(
    found: Continuations,
    root: int,
    source: int,
    *,
    doubt: float = 1.0,
    first_row: int | None = None,
) -> DraftTree:
    """Turns counts into a tree below ``root``.

    A node's chance given its parent is its share of the occurrences, times the trust in a match
    of L tokens, L / (L + doubt), where L grows along the path. (Our choice; the paper is silent.)
    With ``first_row`` node i has that row and i as its origin.
    """
    arrays = kernels.below(
        found.tokens,
        found.parents,
        found.counts,
        int(found.total),
        int(found.match_length),
        float(doubt),
        int(root),
        source,
    )
    if first_row is None:
        return DraftTree(*arrays)
    origins = np.arange(first_row - 1, first_row + len(found), dtype=np.int32)
    origins[0] = -1
    return DraftTree(*arrays, origins)


def advance(found: Continuations, tokens: Sequence[int]) -> Continuations:
    """A late answer, moved along ``tokens`` decided since it was asked. Empty if it leaves them."""
    node, total = -1, found.total
    for token in tokens:
        below = np.flatnonzero((found.parents == node) & (found.tokens == token))
        if len(below) == 0:
            return Continuations.none()
        node = int(below[0])
        total = int(found.counts[node])
    kept = _descendants(found.parents, node)
    index = np.full(len(found) + 1, -1, np.int32)  # the last entry serves parent -1
    index[np.flatnonzero(kept)] = np.arange(int(kept.sum()), dtype=np.int32)
    return replace(
        found,
        tokens=found.tokens[kept],
        parents=index[found.parents[kept]],
        counts=found.counts[kept],
        total=total,
        match_length=found.match_length + len(tokens),
        origins=None if found.origins is None else found.origins.of(kept),
    )


def _descendants(parents: Int32s, node: int) -> Bools:
    """Which entries lie strictly below ``node``; all of them if it is -1."""
    below = np.zeros(len(parents), np.bool_)
    for i, parent in enumerate(parents.tolist()):
        below[i] = parent == node or (parent >= 0 and below[parent])
    return below
