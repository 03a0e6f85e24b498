"""What followed the longest known suffix of a text, in several segments searched as one.

A range of sorted suffixes that share a prefix holds one run per next token, in the order of the
tokens; so runs are found by halving, a trie grows from the longest run down, and the time does
not follow the number of hits. Counts are exact and no hit is left out (REST reads at most 5,000,
in the order of the tokens, and counts shared prefixes twice).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rasd.config import RetrievalConfig
from rasd.retrieval.kernels import COLUMNS, row
from rasd.retrieval.kernels_suffix import longest, occurrences
from rasd.retrieval.kernels_trie import expand
from rasd.retrieval.live import Live
from rasd.retrieval.segment import Int64s, Segment
from rasd.tree import Int32s
from rasd.trie import Continuations


@dataclass(frozen=True, slots=True)
class Part:
    """A segment and what lives in it; all of it if ``live`` is None."""

    segment: Segment
    live: Live | None = None


class Index:
    """Several segments searched as one, over the documents that live. Thread-safe."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self.parts = tuple(parts)  # keeps the files mapped
        rows = [row(part.segment, part.live) for part in self.parts]
        self._table = np.array(rows, np.int64).reshape(-1, COLUMNS)

    def search(self, tail: Int32s, settings: RetrievalConfig) -> Continuations:
        """What followed the longest suffix of ``tail`` that any segment holds.

        A hit is an occurrence with a token behind it: one that only ends documents counts as
        none, and a shorter suffix is tried. Occurrences are counted over all segments. Nodes
        are taken best-first: highest count, then smallest token, then earliest parent. Counts
        stop at 2**31 - 1.

        Args:
            tail: int32[n], the newest token last.
        """
        return self.search_all([tail], settings)[0]

    def search_all(self, tails: Sequence[Int32s], settings: RetrievalConfig) -> list[Continuations]:
        """As `search`, for all sequences of a step. The answers share their memory."""
        if not tails:
            return []
        kept = [tail[-settings.suffix_max :] for tail in tails]
        ends = np.array([len(tail) for tail in kept], np.int64).cumsum()
        # A copy has one layout, and so needs one compilation.
        flat = np.concatenate(kept, dtype=np.int32)
        matched, bounds = longest(self._table, flat, ends, settings.suffix_min)
        found, sizes, totals = expand(self._table, bounds, matched, settings.depth, settings.nodes)
        return [
            Continuations(tokens[:size], parents[:size], counts[:size], total, length)
            if length
            else Continuations.none()
            for tokens, parents, counts, size, total, length in zip(
                *found, sizes.tolist(), totals.tolist(), matched.tolist(), strict=True
            )
        ]

    def places(self, tail: Int32s, found: Continuations) -> Int64s:
        """Where the nodes of an answer occur: one living occurrence of each.

        Args:
            tail: what was asked; found: what `search` answered to it.

        Returns:
            int64[M, 2]: the part, and the place of the node's token in its ``segment.tokens``;
            -1 where this index holds no such text.
        """
        places = np.full((len(found), 2), -1, np.int64)
        parents = found.parents.tolist()
        leaves = np.setdiff1d(np.arange(len(found)), found.parents)
        paths: list[list[int]] = []
        for leaf in leaves.tolist():
            path = [leaf]
            while parents[path[-1]] >= 0:
                path.append(parents[path[-1]])
            paths.append(path[::-1])
        matched = np.array(tail[len(tail) - found.match_length :], np.int32)
        texts = [part for path in paths for part in (matched, found.tokens[path])]
        ends = np.array([len(matched) + len(path) for path in paths], np.int64).cumsum()
        if paths:
            flat = np.concatenate(texts, dtype=np.int32)
            for path, (part, start) in zip(
                paths, occurrences(self._table, flat, ends).tolist(), strict=True
            ):  # what holds a path holds its beginnings
                places[path, 0] = part
                places[path, 1] = start + len(matched) + np.arange(len(path)) if part >= 0 else -1
        return places
