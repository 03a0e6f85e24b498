"""Names the documents that an answer quotes. Never costs text: what cannot be named is null."""

from __future__ import annotations

import asyncio
import logging
from collections import ChainMap
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from rasd.quotes import Key, Quote, Quotes

log = logging.getLogger("rasd.api")

Resolve = Callable[[str, Sequence[bytes]], Awaitable[list[str | None]]]
"""Ids of a corpus's documents by digest; None for those that are gone."""

RESOLVE_DEADLINE_S: Final = 1.0
"""How long an answer that is complete waits for the names of its documents."""


async def named(quotes: Quotes, resolve: Resolve | None) -> list[Quote]:
    """All quotes, with ids as far as they are found in time."""
    if resolve is None:
        return quotes.named({})
    each = (_names(resolve, corpus, digests) for corpus, digests in quotes.digests.items())
    return quotes.named(dict(ChainMap(*await asyncio.gather(*each))))


async def _names(resolve: Resolve, corpus: str, digests: list[bytes]) -> dict[Key, str | None]:
    try:
        async with asyncio.timeout(RESOLVE_DEADLINE_S):
            ids = await resolve(corpus, digests)
        return {(corpus, digest): id_ for digest, id_ in zip(digests, ids, strict=True)}
    except Exception as error:  # whatever it is, the text is there
        log.warning("documents of corpus %s are not named: %r", corpus, error)
        return {}


def as_json(choice: int, quotes: Iterable[Quote]) -> list[dict[str, Any]]:
    """The entries of one choice in an answer."""
    return [
        {
            "choice": choice,
            "source": quote.source,
            "corpus": quote.corpus,
            "document": quote.document,
            "offset": quote.offset,
            "position": quote.position,
            "tokens": quote.tokens,
        }
        for quote in quotes
    ]
