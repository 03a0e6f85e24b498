"""Runs of quoted tokens against the places of single ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rasd.engine.api import Origin
from rasd.quotes import Quote, Quotes

CORPORA = ("laws", "docs")
ONE, OTHER = b"1" * 16, b"2" * 16

origins = st.none() | st.builds(
    Origin,
    corpus=st.integers(-1, 1),
    document=st.sampled_from([ONE, OTHER]),
    offset=st.integers(1, 12),
    tokens=st.integers(1, 4),
)


def collect(*steps: tuple[Origin | None, int]) -> list[Quote]:
    quotes = Quotes(CORPORA)
    for origin, tokens in steps:
        quotes.add(origin, tokens)
    return quotes.named({})


@given(st.lists(st.tuples(origins, st.integers(0, 5)), max_size=12))
def test_quotes_cover_what_was_found_and_nothing_else(
    steps: list[tuple[Origin | None, int]],
) -> None:
    wanted: dict[int, tuple[int, bytes, int]] = {}
    start = 0
    for origin, tokens in steps:
        for i in range(min(origin.tokens, tokens) if origin else 0):
            assert origin is not None
            digest = origin.document if origin.corpus >= 0 else b""
            wanted[start + i] = origin.corpus, digest, origin.offset + i
        start += tokens
    said: dict[int, tuple[int, bytes, int]] = {}
    for quote in collect(*steps):
        corpus = -1 if quote.corpus is None else CORPORA.index(quote.corpus)
        assert (quote.source == "prompt") == (corpus == -1)
        for i in range(quote.tokens):
            assert quote.position + i not in said
            said[quote.position + i] = corpus, quote.digest, quote.offset + i
    assert wanted.items() <= said.items()
    # The others are single tokens that a quote runs through.
    for position in said.keys() - wanted.keys():
        assert {position - 1, position + 1} <= wanted.keys()
    assert list(said) == sorted(said)


def test_a_quote_runs_through_the_targets_own_token() -> None:
    first, second = Origin(0, ONE, 10, 3), Origin(0, ONE, 14, 2)
    whole = Quote("corpus", "laws", None, ONE, 10, 0, 6)
    assert collect((first, 4), (second, 3)) == [whole]
    assert len(collect((first, 4), (None, 1), (second, 3))) == 2
    for other in (
        Origin(0, ONE, 13, 2),
        Origin(0, ONE, 15, 2),
        Origin(0, OTHER, 14, 2),
        Origin(1, ONE, 14, 2),
        Origin(-1, ONE, 14, 2),
    ):
        assert len(collect((first, 4), (other, 3))) == 2


def test_the_prompt_is_one_document() -> None:
    first, second = Origin(-1, ONE, 10, 3), Origin(-1, OTHER, 14, 2)
    assert collect((first, 4), (second, 3)) == [Quote("prompt", None, None, b"", 10, 0, 6)]


def test_tokens_behind_the_end_do_not_count() -> None:
    assert collect((Origin(0, ONE, 10, 4), 2))[0].tokens == 2
    assert collect((Origin(0, ONE, 10, 4), 0)) == []


def test_documents_are_asked_for_once_and_named() -> None:
    quotes = Quotes(CORPORA)
    for origin in (
        Origin(0, ONE, 10, 1),
        Origin(1, ONE, 3, 1),
        Origin(0, ONE, 70, 1),
        Origin(0, OTHER, 5, 1),
        Origin(-1, ONE, 5, 1),
    ):
        quotes.add(origin, 2)
    assert quotes.digests == {"laws": [ONE, OTHER], "docs": [ONE]}
    named = quotes.named({("laws", ONE): "a", ("laws", OTHER): None})
    assert [quote.document for quote in named] == ["a", None, "a", None, None]
