"""A tree of everything the sources propose, with what each of them says of every node."""

from __future__ import annotations

from dataclasses import dataclass

from rasd.tree import DraftTree


@dataclass(frozen=True, slots=True)
class FusedTree(DraftTree):
    """All candidates for one sequence in one step; cutting it gives a plain `DraftTree`."""
