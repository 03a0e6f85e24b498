"""Passages as a few flat arrays, to cross a socket. Unpacking checks everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rasd.errors import WireError
from rasd.retrieval.dense.embed import Float32s
from rasd.retrieval.dense.passages import Passage
from rasd.tree import Int32s, UInt8s
from rasd.trie import DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class PackedPassages:
    """Passages in order.

    Attributes:
        tokens: int32[T], one passage behind the other; ends: int32[N], where each ends.
        corpora: int32[N], of those asked; documents: uint8[N, 16]; offsets: int32[N].
        scores: float32[N].
    """

    tokens: Int32s
    ends: Int32s
    corpora: Int32s
    documents: UInt8s
    offsets: Int32s
    scores: Float32s


def pack_passages(found: Sequence[Passage]) -> PackedPassages:
    """All of them, in order."""
    pieces = [passage.tokens for passage in found]
    documents = np.frombuffer(b"".join(passage.document for passage in found), np.uint8)
    return PackedPassages(
        np.concatenate([np.zeros(0, np.uint32), *pieces]).astype(np.int32),
        np.cumsum([len(piece) for piece in pieces], dtype=np.int32),
        np.array([passage.corpus for passage in found], np.int32),
        documents.reshape(-1, DIGEST_BYTES),
        np.array([passage.offset for passage in found], np.int32),
        np.array([passage.score for passage in found], np.float32),
    )


def unpack_passages(packed: PackedPassages, corpora: int, vocabulary: int) -> list[Passage]:
    """The passages, for a question about so many corpora.

    Raises:
        WireError: the arrays contradict each other, or hold what nobody could have found.
    """
    count = len(packed.ends) if packed.ends.ndim == 1 else -1
    rows = (packed.corpora, packed.offsets, packed.scores)
    if any(row.shape != (count,) for row in rows) or packed.tokens.ndim != 1:
        raise WireError("passages are malformed: not one row each")
    if packed.documents.shape != (count, DIGEST_BYTES):
        raise WireError("passages are malformed: not one document each")
    bounds = [0, *packed.ends.tolist()]
    if bounds[-1] != packed.tokens.size or any(a >= b for a, b in pairwise(bounds)):
        raise WireError(f"passages do not fill {packed.tokens.size} tokens")
    if ((packed.corpora < 0) | (packed.corpora >= corpora) | (packed.offsets < 0)).any():
        raise WireError(f"a passage lies outside of the {corpora} corpora asked")
    if ((packed.tokens < 0) | (packed.tokens >= vocabulary)).any():
        raise WireError("a passage holds unknown tokens")
    if not np.isfinite(packed.scores).all():
        raise WireError("a passage has no score")
    tokens = packed.tokens.astype(np.uint32)
    return [
        Passage(
            int(packed.corpora[i]),
            packed.documents[i].tobytes(),
            int(packed.offsets[i]),
            float(packed.scores[i]),
            tokens[a:b],
        )
        for i, (a, b) in enumerate(pairwise(bounds))
    ]
