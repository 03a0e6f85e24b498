"""How often drafted nodes turn out to be right, by what the head gives their path.

A head that learned a whole distribution is timid where the target takes its best token: of paths
that the shipped head gave 0.29, greedy text went along 0.73. So a level's worth is judged by what
the like of its nodes came to.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from rasd.draft import kernels
from rasd.tree import DraftTree, Float32s, Int32s

_EDGES: Final = np.exp(np.array([-7, -5, -4, -3, -2.5, -2, -1.5, -1, -0.6, -0.3, -0.1], np.float32))
"""Of the classes of path probability."""
_BELIEF: Final = 4.0
"""Nodes that the head's own probability counts for, in a class."""
_MEMORY: Final = 512.0
"""Nodes of a class after which what is old counts half."""


class Chances:
    """Learns from trees and the text that followed their roots."""

    def __init__(self) -> None:
        self._right = np.zeros(len(_EDGES) + 1)
        self._seen = np.zeros(len(_EDGES) + 1)

    def learn(self, tree: DraftTree, text: Int32s) -> None:
        """``text`` followed the tree's root. Nodes beyond its end teach nothing."""
        along = kernels.follow(tree.tokens, tree.parents, text)
        told = np.flatnonzero(along[1:] >= 0) + 1
        classes = np.searchsorted(_EDGES, tree.scores[told], side="right")
        size = len(self._seen)
        self._seen += np.bincount(classes, minlength=size)
        self._right += np.bincount(classes, weights=along[told], minlength=size)
        full = self._seen > _MEMORY
        self._right[full] /= 2
        self._seen[full] /= 2

    def of(self, probabilities: Float32s) -> NDArray[np.float64]:
        """Chances of paths that the head gives these probabilities."""
        classes = np.searchsorted(_EDGES, probabilities, side="right")
        right = self._right[classes] + _BELIEF * probabilities
        return right / (self._seen[classes] + _BELIEF)
