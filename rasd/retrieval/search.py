"""What followed the longest known suffix of a text, in several segments searched as one.

A range of sorted suffixes that share a prefix holds one run per next token, in the order of the
tokens; so runs are found by halving, a trie grows from the longest run down, and the time does
not follow the number of hits. Counts are exact and no hit is left out (REST reads at most 5,000,
in the order of the tokens, and counts shared prefixes twice).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rasd.config import RetrievalConfig
from rasd.retrieval.kernels import address, expand, longest
from rasd.retrieval.segment import Segment
from rasd.tree import Int32s
from rasd.trie import Continuations


class Index:
    """Several segments searched as one. May be asked from several threads."""

    def __init__(self, segments: Iterable[Segment]) -> None:
        self.segments = tuple(segments)  # keeps the files mapped
        rows = [(address(s.tokens), address(s.suffixes), len(s.suffixes)) for s in self.segments]
        self._table = np.array(rows, np.int64).reshape(-1, 3)

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
