"""Documents cut into passages that overlap by half and cross no border."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from rasd.retrieval.dense.embed import Spans
from rasd.retrieval.search import Part
from rasd.retrieval.segment import Int64s, Segment, UInt32s
from rasd.tree import Bools

PROMPT_TOKENS: Final = 1024
"""Of a prompt, the newest so many select."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Tokens of a document that a prompt selected.

    Attributes:
        corpus: index into the corpora asked; document: digest of the document's id.
        offset: place of the first token in the document; tokens: uint32[n].
        score: cosine of the angle to the prompt.
    """

    corpus: int
    document: bytes
    offset: int
    score: float
    tokens: UInt32s


@dataclass(frozen=True, slots=True)
class Cut:
    """All passages of a segment, numbered in order. Of the documents, not of what lives.

    Passages are not kept: where they start follows from how many each document has.

    Attributes:
        first: int64[D + 1], number of the first passage of each document, and of all.
    """

    segment: Segment
    width: int
    first: Int64s

    @classmethod
    def of(cls, segment: Segment, width: int) -> Cut:
        """Passages of ``width`` tokens, an even number; the last of a document may be shorter.

        A document without tokens has none.
        """
        stride = width // 2
        sizes = _sizes(segment)
        counts = np.where(sizes > 0, 1 + (np.maximum(sizes - width, 0) + stride - 1) // stride, 0)
        return cls(segment, width, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    def __len__(self) -> int:
        return int(self.first[-1])

    def places(self, rows: Int64s) -> tuple[Int64s, Int64s]:
        """The documents int64[n] of passages, and their offsets there."""
        documents = np.searchsorted(self.first, rows, "right").astype(np.int64) - 1
        return documents, (rows - self.first[documents]) * (self.width // 2)

    def spans(self, rows: Int64s) -> Spans:
        """Where passages are in the segment's tokens."""
        documents, offsets = self.places(rows)
        starts = self.segment.documents[documents] + offsets
        sizes = _sizes(self.segment)[documents]
        ends = starts + np.minimum(sizes - offsets, self.width)
        return Spans(self.segment.tokens, starts, ends)

    def every(self, nth: int) -> Spans:
        """Each ``nth`` passage."""
        return self.spans(np.arange(0, len(self), nth))

    def living(self, part: Part) -> Bools | None:
        """Per passage whether its document lives in ``part``; None if all do."""
        if part.live is None or len(part.live.dead) == 0:
            return None
        alive = np.ones(len(self.first) - 1, np.bool_)
        alive[part.live.dead] = False
        return np.repeat(alive, np.diff(self.first))


def prompt_spans(prompt: UInt32s, width: int, most: int) -> Spans:
    """The newest passages of a prompt uint32[n], at most ``most``, cut as documents are.

    Counted from its end, for that is what is answered.
    """
    stride = width // 2
    ends = np.arange(len(prompt), 0, -stride, dtype=np.int64)[:most]
    starts = np.maximum(ends - width, 0)
    whole = 1 + int(np.argmax(starts == 0)) if (starts == 0).any() else len(starts)
    return Spans(prompt, starts[:whole], ends[:whole])


def _sizes(segment: Segment) -> Int64s:
    """Tokens per document, without its separator."""
    ends = np.append(segment.documents[1:], len(segment.tokens)).astype(np.int64)
    return ends - segment.documents - 1
