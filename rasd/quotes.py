"""Which documents an answer's retrieved tokens stand in, put together from the engine's steps.

Pure; knows no tokenizer and asks no datastore.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rasd.engine.api import Origin

Key = tuple[str, bytes]
"""A document: its corpus, and the digest of its id."""


@dataclass(frozen=True, slots=True)
class Quote:
    """Tokens of an answer that stand somewhere, word for word.

    Attributes:
        source: "corpus", or "prompt" for the request's own prompt and the answer so far.
        corpus: its name; None for the prompt.
        document: id of the document; None for the prompt, or if it is gone since.
        digest: of that id; empty for the prompt.
        offset: place of the first token in the document, or in prompt and answer together.
        position: place of the first token in the answer.
        tokens: how many there are.
    """

    source: Literal["corpus", "prompt"]
    corpus: str | None
    document: str | None
    digest: bytes
    offset: int
    position: int
    tokens: int


class Quotes:
    """Collects the origins of one answer, whose corpora are named ``corpora``, step by step."""

    def __init__(self, corpora: Sequence[str]) -> None:
        self._corpora = corpora
        self._quotes: list[Quote] = []
        self._position = 0

    def add(self, origin: Origin | None, tokens: int) -> None:
        """A step brought so many tokens; those that ``origin`` has beyond them do not count.

        Goes on with the last quote where one token lies between in both places: the target's
        own, which stands before the new ones in the document, too.
        """
        start, self._position = self._position, self._position + tokens
        if origin is None or tokens == 0:
            return
        new = self._quote(origin, start, min(origin.tokens, tokens))
        if self._quotes and _goes_on(self._quotes[-1], new):
            last = self._quotes.pop()
            new = replace(last, tokens=new.position + new.tokens - last.position)
        self._quotes.append(new)

    def _quote(self, origin: Origin, position: int, tokens: int) -> Quote:
        if origin.corpus < 0:
            return Quote("prompt", None, None, b"", origin.offset, position, tokens)
        name = self._corpora[origin.corpus]
        return Quote("corpus", name, None, origin.document, origin.offset, position, tokens)

    @property
    def digests(self) -> dict[str, list[bytes]]:
        """Documents to find the ids of, by corpus; each once."""
        asked: dict[str, dict[bytes, None]] = {}
        for quote in self._quotes:
            if quote.corpus is not None:
                asked.setdefault(quote.corpus, {})[quote.digest] = None
        return {corpus: list(digests) for corpus, digests in asked.items()}

    def named(self, ids: Mapping[Key, str | None]) -> list[Quote]:
        """All quotes, in the order of the answer, with the ids of their documents."""
        return [
            quote
            if quote.corpus is None
            else replace(quote, document=ids.get((quote.corpus, quote.digest)))
            for quote in self._quotes
        ]


def _goes_on(last: Quote, new: Quote) -> bool:
    moved = new.position - last.position
    return (
        (last.source, last.corpus, last.digest) == (new.source, new.corpus, new.digest)
        and new.offset - last.offset == moved
        and moved <= last.tokens + 1
    )
