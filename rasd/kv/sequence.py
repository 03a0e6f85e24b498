"""What the cache knows of one sequence: where its rows lie, and its uncommitted nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rasd.kv.view import Int64s, Item
from rasd.tree import Bools


@dataclass(slots=True)
class SequenceState:
    """Committed rows, then uncommitted nodes. Owned and modified by the cache.

    Attributes:
        home: pages it begins in if they are free, and goes on in; empty if it has no wish.
        pages: its pages in order; slots: int64, where every row they hold lies.
        length: committed rows.
        parents, depths: of the uncommitted nodes; those that hang from the committed rows have
            parent -1 and depth 0.
        ancestors: bit sets over the uncommitted nodes, a node's own bit included.
    """

    home: range = range(0)
    pages: list[int] = field(default_factory=list)
    slots: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    length: int = 0
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ancestors: list[int] = field(default_factory=list)

    @property
    def last_page(self) -> int | None:
        """The page that the next one should follow; None if it does not matter."""
        if self.pages:
            return self.pages[-1]
        return self.home.start - 1 if self.home else None

    def grow(self, parents: Sequence[int]) -> None:
        """Appends nodes; their rows are there already."""
        for parent in parents:
            above = self.ancestors[parent] if parent >= 0 else 0
            self.depths.append(self.depths[parent] + 1 if parent >= 0 else 0)
            self.ancestors.append(above | 1 << len(self.parents))
            self.parents.append(parent)

    def settle(self, kept: int) -> None:
        """The first ``kept`` uncommitted rows are committed, the nodes are gone."""
        self.length += kept
        self.parents, self.depths, self.ancestors = [], [], []

    def is_chain(self, nodes: Sequence[int]) -> bool:
        """Whether each node hangs from the one before, the first from the committed rows."""
        above = -1
        for node in nodes:
            if not 0 <= node < len(self.parents) or self.parents[node] != above:
                return False
            above = node
        return True

    def place(self, start: int, count: int) -> Item:
        """The last ``count`` nodes as rows of a step, from row ``start``."""
        nodes = len(self.parents)
        return Item(
            start=start,
            stop=start + count,
            committed=self.length,
            slots=self.slots[: self.length + nodes],
            positions=self.length + np.asarray(self.depths, np.int64),
            ancestors=_unpack(self.ancestors[nodes - count :], nodes),
        )


def _unpack(bit_sets: list[int], width: int) -> Bools:
    """bool[len(bit_sets), width]"""
    size = (width + 7) // 8
    packed = b"".join(bits.to_bytes(size, "little") for bits in bit_sets)
    octets = np.frombuffer(packed, np.uint8).reshape(len(bit_sets), size)
    return np.unpackbits(octets, axis=1, count=width, bitorder="little").view(np.bool_)
