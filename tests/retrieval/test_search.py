"""Segments searched as one, against every document read from end to end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.config import RetrievalConfig
from rasd.retrieval.live import Live
from rasd.retrieval.search import Index, Part
from rasd.retrieval.segment import Segment, build_segment, open_segment, write_segment
from tests.retrieval import brute

SETTINGS = st.builds(
    lambda suffix_min, longer, **rest: RetrievalConfig(
        suffix_min=suffix_min, suffix_max=suffix_min + longer, **rest
    ),
    suffix_min=st.integers(1, 3),
    longer=st.integers(0, 4),
    depth=st.integers(1, 6),
    nodes=st.integers(1, 40),
)


def documents(largest: int) -> st.SearchStrategy[list[list[int]]]:
    """Some short texts; a small ``largest`` id repeats itself much."""
    return st.lists(st.lists(st.integers(0, largest), max_size=40), min_size=1, max_size=6)


def build(path: Path, texts: list[list[int]], vocabulary: int) -> Segment:
    arrays = [np.asarray(text, np.int64) for text in texts]
    write_segment(path, arrays, vocabulary=vocabulary, tokenizer_hash="t")
    return open_segment(path, vocabulary=vocabulary, tokenizer_hash="t")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("segments")


@given(
    parts=st.lists(documents(3), min_size=1, max_size=4),
    tail=st.lists(st.integers(-1, 3), max_size=8),
    settings=SETTINGS,
)
def test_is_exact_over_all_segments(
    path: Path, parts: list[list[list[int]]], tail: list[int], settings: RetrievalConfig
) -> None:
    index = Index(Part(build(path / f"{i}.seg", part, 4)) for i, part in enumerate(parts))
    found = index.search(np.asarray(tail, np.int32), settings)
    wanted = brute.search([text for part in parts for text in part], tail, settings)
    assert brute.as_lists(found) == brute.as_lists(wanted)


@given(
    texts=documents(1),
    at=st.integers(0, 39),
    settings=SETTINGS,
    scale=st.sampled_from([1, 65_536, 2**31 - 3]),
)
def test_large_ids(
    path: Path, texts: list[list[int]], at: int, settings: RetrievalConfig, scale: int
) -> None:
    """Tails out of a document, with ids that do not fit 16 bits, up to the largest there is."""
    texts = [[token * scale for token in text] for text in texts]
    tail = texts[0][: at + 1]
    found = Index([Part(build(path / "large.seg", texts, scale + 1))]).search(
        np.asarray(tail, np.int32), settings
    )
    assert brute.as_lists(found) == brute.as_lists(brute.search(texts, tail, settings))


PARTS = st.lists(
    documents(3).flatmap(
        lambda texts: st.tuples(st.just(texts), st.sets(st.integers(0, len(texts) - 1)))
    ),
    min_size=1,
    max_size=4,
)


def partial(parts: list[tuple[list[list[int]], set[int]]]) -> tuple[Index, list[list[int]]]:
    """An index over parts with dead documents, and the texts that live."""
    held = []
    for texts, dead in parts:
        segment = build_segment([np.asarray(text, np.int64) for text in texts], vocabulary=4)
        held.append(Part(segment, Live.without(segment, np.array(sorted(dead), np.int64))))
    living = [text for texts, dead in parts for i, text in enumerate(texts) if i not in dead]
    return Index(held), living


@given(parts=PARTS, tails=st.lists(st.lists(st.integers(0, 3), max_size=8)), settings=SETTINGS)
def test_dead_documents_are_as_if_never_there(
    parts: list[tuple[list[list[int]], set[int]]], tails: list[list[int]], settings: RetrievalConfig
) -> None:
    index, living = partial(parts)
    asked = [np.asarray(tail, np.int32) for tail in tails]
    for tail, found in zip(asked, index.search_all(asked, settings), strict=True):
        wanted = brute.search(living, tail.tolist(), settings)
        assert brute.as_lists(found) == brute.as_lists(wanted)
        assert brute.as_lists(index.search(tail, settings)) == brute.as_lists(wanted)


@given(parts=PARTS, tail=st.lists(st.integers(0, 3), max_size=8), settings=SETTINGS)
def test_places_are_living_occurrences(
    parts: list[tuple[list[list[int]], set[int]]], tail: list[int], settings: RetrievalConfig
) -> None:
    index, _ = partial(parts)
    found = index.search(np.asarray(tail, np.int32), settings)
    places = index.places(np.asarray(tail, np.int32), found)
    assert places.shape == (len(found), 2)
    for node, (part, at) in enumerate(places.tolist()):
        path, above = [], node
        while above >= 0:
            path.insert(0, int(found.tokens[above]))
            above = int(found.parents[above])
        query = tail[len(tail) - found.match_length :] + path
        texts, dead = parts[part]
        ordinals, offsets = index.parts[part].segment.locate(np.array([at]))
        ordinal, end = int(ordinals[0]), int(offsets[0]) + 1
        assert ordinal not in dead
        assert texts[ordinal][end - len(query) : end] == query
    strange = index.places(np.asarray(tail, np.int32), replace(found, tokens=found.tokens + 4))
    assert (strange == -1).all()


@pytest.mark.parametrize("dead", [[], [1, 4]], ids=["all live", "some dead"])
def test_hits_too_many_to_read(seed: int, dead: list[int]) -> None:
    """Wide gaps are cut before they are read, over several segments; Zipf's law, as in text."""
    rng = np.random.default_rng(seed)
    parts, living = [], []
    for size in (9_000, 600, 3):
        texts = []
        for count in (size, size // 2, 1, 0, size // 3, 2):
            words = np.minimum(rng.zipf(1.3, count), 5_000)
            words[rng.random(count) < 0.2] = 0
            texts.append(np.stack([np.zeros_like(words), words], axis=1).ravel())
        segment = build_segment(texts, vocabulary=5_001)
        live = Live.without(segment, np.array(dead, np.int64)) if dead else None
        parts.append(Part(segment, live))
        living += [text.tolist() for i, text in enumerate(texts) if i not in dead]
    for depth, nodes in ((1, 256), (3, 64), (4, 1)):
        settings = RetrievalConfig(suffix_min=1, suffix_max=1, depth=depth, nodes=nodes)
        found = Index(parts).search(np.zeros(1, np.int32), settings)
        assert found.total > 9_000
        assert brute.same(found, brute.search(living, [0], settings))


def test_no_number_of_segments_is_too_many() -> None:
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 4, rng.integers(1, 40)).tolist() for _ in range(500)]
    index = Index(Part(build_segment([np.asarray(text)], vocabulary=4)) for text in texts)
    for settings in (RetrievalConfig(suffix_min=1), RetrievalConfig(depth=20, nodes=128)):
        for tail in ([0], [3, 1, 2], texts[-1][:16], rng.integers(0, 4, 16).tolist()):
            found = index.search(np.asarray(tail, np.int32), settings)
            assert brute.same(found, brute.search(texts, tail, settings))


def test_does_not_cross_into_the_next_document(path: Path) -> None:
    index = Index([Part(build(path / "border.seg", [[1, 2], [3, 4], [1, 2, 5]], 6))])
    settings = RetrievalConfig(suffix_min=1)
    found = index.search(np.array([1, 2], np.int32), settings)
    assert (found.tokens.tolist(), found.total, found.match_length) == ([5], 2, 2)
    assert len(index.search(np.array([2, 3], np.int32), settings)) == 1  # matches the 3 alone
    assert len(index.search(np.array([4], np.int32), settings)) == 0


def test_nothing_to_search(path: Path) -> None:
    settings = RetrievalConfig()
    tail = np.array([1, 2], np.int32)
    assert len(Index([]).search(tail, settings)) == 0
    assert len(Index([Part(build(path / "empty.seg", [[]], 4))]).search(tail, settings)) == 0
    one = build(path / "one.seg", [[1]], 4)
    assert len(Index([Part(one)]).search(np.zeros(0, np.int32), settings)) == 0
