"""The passages of one segment, to be found by their vectors.

Few passages are compared one by one, exactly. Many are grouped around centres and kept with a
byte per dimension, of at most 64: 72 bytes per passage with its number, so 112 MB for 100M
tokens in passages of 128.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import faiss as _faiss
import numpy as np

from rasd.retrieval.dense.embed import Embedder, Float32s, Int64s
from rasd.retrieval.dense.passages import Cut
from rasd.retrieval.search import Part
from rasd.retrieval.segment import Segment

faiss: Any = _faiss  # its types know nothing of keyword arguments

FLAT: Final = 2**14
"""Up to so many passages are compared one by one."""
DIMENSION: Final = 64

_CHUNK: Final = 2**14
_SAMPLES_PER_CENTRE: Final = 40
_PROBED: Final = 1 / 16  # of the centres


@dataclass(frozen=True, slots=True)
class PassageIndex:
    """Vectors of all passages of a segment. Immutable; any thread may search.

    Attributes:
        cut: which passages there are; embedder: what made their vectors.
    """

    cut: Cut
    embedder: Embedder
    index: Any

    @classmethod
    def build(cls, segment: Segment, embedder: Embedder, width: int) -> PassageIndex:
        """Embeds passages of ``width`` tokens; memory beside the result is some megabytes."""
        faiss.omp_set_num_threads(1)  # of this thread: more would wait for each other
        cut = Cut.of(segment, width)
        index = _empty(len(cut), embedder.dimension)
        if not index.is_trained:
            samples = _SAMPLES_PER_CENTRE * _centres(len(cut))
            rows = np.linspace(0, len(cut) - 1, min(samples, len(cut))).astype(np.int64)
            index.train(embedder.embed(cut.spans(rows)))
        for start in range(0, len(cut), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(cut)))
            index.add(embedder.embed(cut.spans(rows)))
        return cls(cut, embedder, index)

    @property
    def bytes(self) -> int:
        """Memory of vectors and numbers."""
        each = 4 * self.embedder.dimension
        if len(self.cut) > FLAT:
            each = min(self.embedder.dimension, DIMENSION) + 8
        return each * len(self.cut)

    def search(self, vectors: Float32s, count: int, part: Part) -> tuple[Float32s, Int64s]:
        """The passages nearest to any of ``vectors`` float32[Q, d], of documents that live.

        Args:
            part: this segment, and what lives in it now.

        Returns:
            Scores float32[n] and passages int64[n], the best first, at most ``count``; those
            with equal scores in order. Vectors of zeros find nothing.
        """
        asked = vectors[np.any(vectors != 0, axis=1)]
        if len(asked) == 0 or len(self.cut) == 0:
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        faiss.omp_set_num_threads(1)
        many = min(count, len(self.cut))
        scores, rows = self.index.search(asked, many, params=self._among(part))
        known, places = np.unique(rows[rows >= 0], return_inverse=True)
        best = np.full(len(known), -np.inf, np.float32)
        np.maximum.at(best, places, scores[rows >= 0])
        order = np.argsort(-best, kind="stable")[:count]
        return best[order], known[order].astype(np.int64)

    def _among(self, part: Part) -> Any:
        """What faiss is to look at."""
        living = self.cut.living(part)
        flat = len(self.cut) <= FLAT
        # The bitmap is copied by neither; the selector keeps the array.
        chosen = None
        if living is not None:
            chosen = faiss.IDSelectorBitmap(np.packbits(living, bitorder="little"))
        if flat:
            return None if chosen is None else faiss.SearchParameters(sel=chosen)
        probed = max(int(_centres(len(self.cut)) * _PROBED), 8)
        inner = faiss.SearchParametersIVF(nprobe=probed, sel=chosen)
        if self.embedder.dimension <= DIMENSION:
            return inner
        return faiss.SearchParametersPreTransform(index_params=inner)


def _centres(passages: int) -> int:
    return int(np.sqrt(passages))


def _empty(passages: int, dimension: int) -> Any:
    if passages <= FLAT:
        return faiss.IndexFlatIP(dimension)
    narrow = f"PCA{DIMENSION}," if dimension > DIMENSION else ""
    kind = f"{narrow}IVF{_centres(passages)},SQ8"
    return faiss.index_factory(dimension, kind, faiss.METRIC_INNER_PRODUCT)
