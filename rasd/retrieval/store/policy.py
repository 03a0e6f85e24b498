"""Which sources of a partition are written together into one segment, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rasd.config import StoreConfig
from rasd.retrieval.segment import MAX_TOKENS

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


def plan(
    sources: Sequence[Weight], settings: StoreConfig, *, everything: bool = False
) -> list[int]:
    """The sources that should become one segment now; empty if all is well.

    Logs are flushed once they are large or many, with ``everything`` whenever there are any. If
    that, or anything, makes more than ``max_segments``, the smallest segments join, and further
    ones while the next holds at most twice what is gathered; so a token is rewritten a number of
    times that grows with the logarithm of the partition. Else a segment with too many dead
    tokens is written anew.
    """
    logs = [source for source in sources if source.log]
    segments = sorted((s for s in sources if not s.log), key=lambda s: (s.live, s.number))
    full = sum(log.tokens for log in logs) >= settings.flush_tokens
    chosen = logs if everything or full or len(logs) > MAX_LOGS else []
    if len(segments) + bool(chosen) > settings.max_segments:
        chosen = chosen + _joining(chosen, segments, settings.max_segments)
    if len(chosen) == 1 and not chosen[0].log:
        chosen = []  # nothing it may be joined with
    if not chosen:
        chosen = [
            segment
            for segment in segments
            if segment.tokens - segment.live > settings.max_dead_share * segment.tokens
        ][:1]
    return [source.number for source in chosen]


def _joining(chosen: list[Weight], segments: list[Weight], limit: int) -> list[Weight]:
    """The smallest segments that a merge takes in; a segment never grows past its format."""
    gathered = sum(source.live for source in chosen)
    size = gathered + sum(source.documents for source in chosen)
    joining: list[Weight] = []
    for segment in segments:
        fits = size + segment.live + segment.documents <= MAX_TOKENS
        needed = len(segments) - len(joining) + 1 > limit
        if not fits or not (needed or segment.live <= 2 * gathered):
            break
        joining.append(segment)
        gathered += segment.live
        size += segment.live + segment.documents
    return joining
