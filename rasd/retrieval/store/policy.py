"""Which sources of a partition are written together into one segment, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from rasd.config import StoreConfig

MAX_LOGS: Final = 64
"""More log sources than these are flushed, however small."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A source: whether it is a log, its tokens, how many of them are live, its live documents."""

    number: int
    log: bool
    tokens: int
    live: int
    documents: int

    @property
    def size(self) -> int:
        """What lives of it in an index: a document takes a separator beside its tokens."""
        return self.live + self.documents


def flush(
    sources: Sequence[Weight], settings: StoreConfig, *, everything: bool = False
) -> list[int]:
    """The logs that should become one segment now; empty if all is well.

    So they should once they are large or many, with ``everything`` whenever there are any. Where
    they are more than ``max_segment_tokens`` the oldest that fit go first, one of them at least: it
    has no more than the format can hold, as `CorpusWriter.write` sees to it.
    """
    logs = sorted((source for source in sources if source.log), key=lambda log: log.number)
    full = sum(log.tokens for log in logs) >= settings.flush_tokens
    if not (everything or full or len(logs) > MAX_LOGS):
        return []
    sums = accumulate(log.size for log in logs)
    fit = sum(total <= settings.max_segment_tokens for total in sums)
    return [log.number for log in logs[: max(fit, 1)]]


def merge(sources: Sequence[Weight], settings: StoreConfig) -> list[int]:
    """The segments that should become one now; empty if all is well.

    Beyond ``max_segments`` the smallest are merged, and further ones while the next takes at most
    twice what is gathered; so a token is rewritten a number of times that grows with the logarithm
    of the partition. That ends where a segment takes half of ``max_segment_tokens``: it is large,
    and not counted until it has lost enough. So there are never more than ``max_segments`` for
    long, and two for each ``max_segment_tokens`` that live. Else a segment with too many dead
    tokens is written anew, however large: that never makes it larger.
    """
    segments = sorted((s for s in sources if not s.log), key=lambda s: (s.size, s.number))
    small = [segment for segment in segments if 2 * segment.size < settings.max_segment_tokens]
    if len(small) > settings.max_segments:
        return [segment.number for segment in _joined(small, settings)]
    return [
        segment.number
        for segment in segments
        if segment.tokens - segment.live > settings.max_dead_share * segment.tokens
    ][:1]


def _joined(small: Sequence[Weight], settings: StoreConfig) -> list[Weight]:
    """The smallest segments that a merge takes: two at least, as each has less than half."""
    joined: list[Weight] = []
    gathered = 0
    for segment in small:
        fits = gathered + segment.size <= settings.max_segment_tokens
        needed = len(small) - len(joined) + 1 > settings.max_segments
        if not fits or not (needed or segment.size <= 2 * gathered):
            break
        joined.append(segment)
        gathered += segment.size
    return joined
