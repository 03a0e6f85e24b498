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
from rasd.retrieval.kernels import Int64s, address, expand, longest, occurrence
from rasd.retrieval.live import Live
from rasd.retrieval.segment import Segment
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
        rows = [
            (
                address(part.segment.tokens),
                address(part.segment.suffixes),
                len(part.segment.suffixes),
                0 if part.live is None else address(part.live.blocks),
            )
            for part in self.parts
        ]
        self._table = np.array(rows, np.int64).reshape(-1, 4)

    def search(self, tail: Int32s, settings: RetrievalConfig) -> Continuations:
        """What followed the longest suffix of ``tail`` that any segment holds.

        A hit is an occurrence with a token behind it: one that only ends documents counts as
        none, and a shorter suffix is tried. Occurrences are counted over all segments. Nodes
        are taken best-first: highest count, then smallest token, then earliest parent. Counts
        stop at 2**31 - 1.

        Args:
            tail: int32[n], the newest token last.
        """
        # A copy has one layout, and so needs one compilation.
        newest = np.array(tail[-settings.suffix_max :], np.int32)
        matched, bounds = longest(self._table, newest, settings.suffix_min)
        if matched == 0:
            return Continuations.none()
        found, total = expand(self._table, bounds, matched, settings.depth, settings.nodes)
        return Continuations(found[0], found[1], found[2], total, matched)

    def search_all(self, tails: Sequence[Int32s], settings: RetrievalConfig) -> list[Continuations]:
        """As `search`, for all sequences of a step."""
        return [self.search(tail, settings) for tail in tails]

    def places(self, tail: Int32s, found: Continuations) -> Int64s:
        """Where the nodes of an answer occur: one living occurrence of each.

        Args:
            tail: what was asked; found: what `search` answered to it.

        Returns:
            int64[M, 2]: the part, and the place of the node's token in its ``segment.tokens``;
            -1 where this index holds no such text.
        """
        places = np.full((len(found), 2), -1, np.int64)
        matched = np.array(tail[len(tail) - found.match_length :], np.int32)
        for leaf in range(len(found) - 1, -1, -1):  # what holds a path holds its beginnings
            if places[leaf, 0] >= 0:
                continue
            path = [leaf]
            while found.parents[path[-1]] >= 0:
                path.append(int(found.parents[path[-1]]))
            path.reverse()
            query = np.concatenate([matched, found.tokens[path].astype(np.int32)])
            part, start = occurrence(self._table, query)
            if part >= 0:
                places[path, 0] = part
                places[path, 1] = start + len(matched) + np.arange(len(path))
        return places
