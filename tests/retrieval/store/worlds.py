"""Documents for the tests of the store."""

from __future__ import annotations

import numpy as np

from rasd.retrieval.store.records import Document

VOCABULARY = 100_000


def document(id_: str, *tokens: int, text: str | None = None, **metadata: object) -> Document:
    return Document(id_, np.asarray(tokens or (1,), np.uint32), text, metadata)


def random_document(
    rng: np.random.Generator, id_: str, *, longest: int = 30, vocabulary: int = VOCABULARY
) -> Document:
    tokens = rng.integers(0, vocabulary, rng.integers(1, longest + 1))
    text = None if rng.random() < 0.5 else "ä" * int(rng.integers(0, longest))
    metadata = {} if rng.random() < 0.5 else {"n": float(rng.random()), "at": [1, None, "x"]}
    return Document(id_, tokens.astype(np.uint32), text, metadata)


def same(one: Document, other: Document) -> bool:
    """Whether all of it is equal, also the types of numbers."""
    return (
        (one.id, one.text, one.metadata) == (other.id, other.text, other.metadata)
        and one.tokens.dtype == other.tokens.dtype == np.uint32
        and one.tokens.tolist() == other.tokens.tolist()
    )
