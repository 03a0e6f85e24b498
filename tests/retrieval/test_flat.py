"""Packed queries and answers come back as they went; whatever contradicts itself is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.engine.sound import sound_continuations
from rasd.errors import WireError
from rasd.retrieval.flat import (
    PackedAnswers,
    PackedQueries,
    pack_answers,
    pack_queries,
    unpack_answers,
    unpack_queries,
)
from rasd.stages import RetrieveQuery
from rasd.trie import Continuations, Origins, build_trie

VOCABULARY = 9
CORPORA = st.lists(st.sampled_from("abc"), max_size=2, unique=True).map(tuple)
TAILS = st.lists(st.integers(0, VOCABULARY - 1), max_size=5)
PATHS = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=4), max_size=6)


def int32s(values: list[int]) -> Any:
    return np.array(values, np.int32)


def query(number: int, tail: list[int], corpora: tuple[str, ...], origins: bool) -> RetrieveQuery:
    return RetrieveQuery(number, int32s(tail), corpora, origins)


QUERIES = st.lists(st.tuples(TAILS, CORPORA, st.booleans()), max_size=5).map(
    lambda rows: [query(i, *row) for i, row in enumerate(rows)]
)


@st.composite
def answers(draw: st.DrawFn, asked: RetrieveQuery) -> Continuations:
    """An answer that a sound shard may give."""
    length = draw(st.integers(0, len(asked.tail)))
    paths = draw(PATHS) if length else []
    found = replace(build_trie(paths, length if paths else 0), exact=draw(st.booleans()))
    if not (asked.origins and (asked.corpora or not len(found))):
        return found
    size = len(found)
    corpora = draw(st.lists(st.integers(0, max(len(asked.corpora) - 1, 0)), min_size=size))
    documents = np.arange(16 * size, dtype=np.uint8).reshape(-1, 16)
    offsets = int32s(list(range(size)))
    return replace(found, origins=Origins(int32s(corpora[:size]), documents, offsets))


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[RetrieveQuery], list[Continuations]]:
    queries = draw(QUERIES)
    return queries, [draw(answers(asked)) for asked in queries]


def as_lists(value: Any) -> Any:
    """Arrays of a dataclass as lists with their type, all the way down."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.tolist()
    if isinstance(value, list | tuple):
        return [as_lists(each) for each in value]
    if hasattr(value, "__dataclass_fields__"):
        return [as_lists(getattr(value, field.name)) for field in fields(value)]
    return value


@given(QUERIES)
def test_queries_come_back(queries: list[RetrieveQuery]) -> None:
    assert as_lists(unpack_queries(pack_queries(queries))) == as_lists(queries)


@given(steps())
def test_answers_come_back(step: tuple[list[RetrieveQuery], list[Continuations]]) -> None:
    queries, found = step
    assert as_lists(unpack_answers(pack_answers(found), queries, VOCABULARY)) == as_lists(found)


def damaged(draw: st.DrawFn, packed: Any) -> Any:
    """One field with one value changed, missing, or added; or of another shape."""
    name = draw(st.sampled_from([field.name for field in fields(packed)]))
    value = getattr(packed, name)
    if isinstance(value, Origins):
        return replace(packed, **{name: damaged(draw, value)})
    if isinstance(value, list):
        changed: Any = value[:-1] if draw(st.booleans()) else [draw(st.integers(-3, 3))]
        return replace(packed, **{name: changed}) if name == "totals" else packed
    how = draw(st.sampled_from(["value", "shorter", "longer", "column", "scalar"]))
    if how == "value" and value.size:
        changed = value.copy()
        changed.flat[draw(st.integers(0, value.size - 1))] = draw(
            st.integers(0 if value.dtype == np.uint8 else -3, 12)
        )
    elif how == "longer":
        changed = np.concatenate([value, np.ones((1, *value.shape[1:]), value.dtype)])
    elif how == "column":
        changed = value.reshape(-1, 1)
    else:
        changed = value[:-1] if how == "shorter" else np.zeros((), value.dtype)
    return replace(packed, **{name: changed})


@given(steps(), st.data())
def test_what_is_unpacked_is_sound_however_it_was_damaged(
    step: tuple[list[RetrieveQuery], list[Continuations]], data: st.DataObject
) -> None:
    queries, found = step
    packed = data.draw(st.composite(damaged)(pack_answers(found)))
    try:
        answers = unpack_answers(packed, queries, VOCABULARY)
    except WireError:
        return
    assert len(answers) == len(queries)
    for asked, answer in zip(queries, answers, strict=True):
        assert answer.match_length <= len(asked.tail)
        assert sound_continuations(answer, VOCABULARY) is not None
        if answer.origins is not None:
            assert all(0 <= i < len(asked.corpora) for i in answer.origins.corpora.tolist())
            assert answer.origins.documents.shape == (len(answer), 16)


@given(QUERIES, st.data())
def test_damaged_queries_are_refused_or_harmless(
    queries: list[RetrieveQuery], data: st.DataObject
) -> None:
    packed = data.draw(st.composite(damaged)(pack_queries(queries)))
    try:
        unpacked = unpack_queries(packed)
    except WireError:
        return
    assert all(asked.tail.ndim == 1 for asked in unpacked)
    assert {asked.corpora for asked in unpacked} <= {asked.corpora for asked in queries}


def one_answer() -> tuple[list[RetrieveQuery], PackedAnswers]:
    """Two nodes below the anchor and one below the first of them."""
    found = Continuations(int32s([1, 2, 1]), int32s([-1, -1, 0]), int32s([3, 2, 1]), 5, 2)
    origins = Origins(int32s([0, 1, 1]), np.zeros((3, 16), np.uint8), int32s([2, 3, 4]))
    return [query(0, [5, 6], ("a", "b"), True)], pack_answers([replace(found, origins=origins)])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: {"parents": int32s([-1, -1, 2])}, "no trie"),
        (lambda p: {"parents": int32s([-1, -2, 0])}, "no trie"),
        (lambda p: {"tokens": int32s([1, 1, 1])}, "no trie"),
        (lambda p: {"tokens": int32s([1, VOCABULARY, 1])}, "no trie"),
        (lambda p: {"tokens": int32s([1, -1, 1])}, "no trie"),
        (lambda p: {"counts": int32s([3, -2, 1])}, "no trie"),
        (lambda p: {"lengths": int32s([3])}, "more than was asked"),
        (lambda p: {"lengths": int32s([0])}, "no match"),
        (lambda p: {"totals": [0]}, "no match"),
        (lambda p: {"totals": [-(2**63)]}, "less than nothing"),
        (lambda p: {"totals": [1, 2]}, "one row each"),
        (lambda p: {"ends": int32s([2])}, "ascend to 3"),
        (lambda p: {"ends": int32s([4, 3])}, "ascend to 3"),
        (lambda p: {"ends": int32s([0, 3])}, "1 queries have 2 answers"),
        (lambda p: {"counts": int32s([1])}, "one entry per node"),
        (lambda p: {"placed": np.zeros(1, np.uint8)}, "3 origins are given; 0 nodes"),
        (lambda p: {"origins": replace(p.origins, corpora=int32s([0, 1, 2]))}, "outside"),
        (lambda p: {"origins": replace(p.origins, offsets=int32s([0, 1, -1]))}, "outside"),
        (lambda p: {"origins": replace(p.origins, offsets=int32s([0]))}, "one row per node"),
    ],
)
def test_contradictions_are_named(
    change: Callable[[PackedAnswers], dict[str, Any]], reason: str
) -> None:
    queries, packed = one_answer()
    unpack_answers(packed, queries, VOCABULARY)
    with pytest.raises(WireError, match=reason):
        unpack_answers(replace(packed, **change(packed)), queries, VOCABULARY)


def test_queries_name_lists_that_are_there() -> None:
    packed = pack_queries([query(0, [1], ("a",), False)])
    for reads in ([1], [-1], [0, 0]):
        with pytest.raises(WireError, match=r"among 1|one row each"):
            unpack_queries(replace(packed, reads=int32s(reads)))


def test_nothing_is_packed_as_nothing() -> None:
    packed = PackedQueries(int32s([]), int32s([]), [], int32s([]), np.zeros(0, np.uint8))
    assert as_lists(pack_queries([])) == as_lists(packed)
    assert unpack_answers(pack_answers([]), [], VOCABULARY) == []
