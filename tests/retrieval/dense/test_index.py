"""Passages are found by their vectors as brute force finds them; the dead are not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rasd.config import DenseConfig
from rasd.retrieval import ShardStore
from rasd.retrieval.dense import index as module
from rasd.retrieval.dense.embed import Float32s, Spans
from rasd.retrieval.dense.index import PassageIndex
from rasd.retrieval.dense.passages import Passage
from rasd.retrieval.dense.store import DenseStore
from rasd.retrieval.live import Live
from rasd.retrieval.search import Part
from rasd.retrieval.segment import Segment, build_segment
from rasd.retrieval.store.records import Delete, id_digest
from tests.retrieval.dense.worlds import MADE, VOCABULARY, WIDTH, World, embedder, text

SETTINGS = DenseConfig(passage_tokens=WIDTH)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def segment_of(documents: int, size: int) -> Segment:
    draw = np.random.default_rng(1)
    texts = [draw.integers(0, VOCABULARY, size).astype(np.uint32) for _ in range(documents)]
    return build_segment(texts, vocabulary=VOCABULARY)


def brute(index: PassageIndex, vectors: Any, dead: list[int]) -> tuple[Any, Any]:
    """All scores of living passages, best first."""
    every = index.embedder.embed(index.cut.every(1))
    scores = (every @ vectors.T).max(1)
    rows = np.arange(len(scores))
    rows = rows[~np.isin(index.cut.places(rows)[0], dead)]
    order = np.argsort(-scores[rows], kind="stable")
    return scores[rows][order], rows[order]


@pytest.mark.parametrize("dead", [[], [0, 3, 9], list(range(10))])
def test_few_passages_are_compared_exactly(dead: list[int]) -> None:
    segment = segment_of(10, 100)
    index = PassageIndex.build(segment, embedder(), WIDTH)
    part = Part(segment, Live.without(segment, np.array(dead, np.int64)) if dead else None)
    vectors = index.embedder.embed(index.cut.spans(np.array([5, 60])))
    scores, rows = index.search(vectors, 20, part)
    wanted_scores, wanted_rows = brute(index, vectors, dead)
    assert np.allclose(scores, wanted_scores[:20], atol=1e-5)
    assert set(rows[:15].tolist()) <= set(wanted_rows[:20].tolist())
    assert len(rows) == min(20, len(wanted_rows))


@pytest.mark.parametrize("wide", [False, True])
def test_many_passages_are_mostly_found(monkeypatch: pytest.MonkeyPatch, wide: bool) -> None:
    monkeypatch.setattr(module, "FLAT", 200)
    monkeypatch.setattr(module, "DIMENSION", 32 if wide else 64)
    segment = segment_of(60, 200)
    index = PassageIndex.build(segment, embedder(), WIDTH)
    assert len(index.cut) > 1000
    dead = [1, 2, 3]
    part = Part(segment, Live.without(segment, np.array(dead)))
    hits = 0
    for row in range(200, 1000, 50):  # each is the best answer to itself
        scores, rows = index.search(
            index.embedder.embed(index.cut.spans(np.array([row]))), 10, part
        )
        assert not set(index.cut.places(rows)[0].tolist()) & set(dead)
        assert (np.diff(scores) <= 0).all()
        hits += row in rows[:3].tolist()
    assert hits >= (10 if wide else 13), hits  # two thirds of the dimensions are left


def test_nothing_finds_nothing() -> None:
    segment = segment_of(2, 50)
    index = PassageIndex.build(segment, embedder(), WIDTH)
    assert len(index.search(np.zeros((1, 48), np.float32), 5, Part(segment))[1]) == 0
    empty = build_segment([np.zeros(0, np.uint32)], vocabulary=VOCABULARY)
    index = PassageIndex.build(empty, embedder(), WIDTH)
    assert index.bytes == 0
    assert len(index.search(np.ones((1, 48), np.float32), 5, Part(empty))[1]) == 0


def names(found: list[Passage]) -> set[bytes]:
    return {passage.document for passage in found}


def test_a_prompt_finds_documents_of_its_topic(world: World) -> None:
    for name in ("one", "two"):
        world.create(name)
        world.put(name, **{f"{name}{topic}": text(topic, 90) for topic in range(8)})
    world.writers["two"].flush()  # one is searched in memory, one from a file
    store, dense = world.store(), DenseStore(embedder(), SETTINGS)
    assert dense.search(store, text(3, 20), ("one", "two"), 8) == []
    assert dense.refresh([store]) and not dense.refresh([store])
    found = dense.search(store, text(3, 40, seed=9), ("one", "none", "two"), 8)
    assert names(found) == {id_digest("one3"), id_digest("two3")}
    assert {passage.corpus for passage in found} == {0, 2}
    for passage in found:
        whole = text(3, 90)
        end = passage.offset + len(passage.tokens)
        assert passage.tokens.tolist() == whole[passage.offset : end].tolist()
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)
    assert dense.passages == 2 * 8 * 11 and dense.bytes == dense.passages * 4 * 48


def test_only_what_is_asked_is_read(world: World) -> None:
    for name in ("mine", "other"):
        world.create(name)
        world.put(name, **{f"{name}{topic}": text(topic, 90) for topic in range(4)})
    store, dense = world.store(), DenseStore(embedder(), SETTINGS)
    dense.refresh([store])
    mine = {id_digest(f"mine{topic}") for topic in range(4)}
    assert names(dense.search(store, text(2, 40), ("mine",), 100)) <= mine
    assert dense.search(store, text(2, 40), (), 100) == []
    held = ShardStore(world.root, {"mine": [0]}, beside=store, **MADE)
    first = dense.search(held, text(2, 40), ("mine", "other"), 100)
    assert 0 < len(first) < 44 and {p.corpus for p in first} == {0}


class Unfitted:
    """One embedder for all corpora, that counts what it is asked."""

    name = "unfitted"
    dimension = embedder().dimension

    def __init__(self) -> None:
        self.asked = 0

    def fitted(self, samples: Sequence[Spans]) -> Unfitted:
        return self

    def embed(self, spans: Spans) -> Float32s:
        self.asked += 1
        return embedder().embed(spans)


def test_a_prompt_is_embedded_once_where_corpora_share_the_embedder(world: World) -> None:
    for name in ("one", "two", "three"):
        world.create(name)
        world.put(name, x=text(1, 90))
    shared = Unfitted()
    store, dense = world.store(), DenseStore(shared, SETTINGS)
    dense.refresh([store])
    shared.asked = 0
    found = dense.search(store, text(1, 30, seed=1), ("one", "two", "three"), 9)
    assert {passage.corpus for passage in found} == {0, 1, 2}
    assert shared.asked == 1


def test_a_document_that_is_gone_is_found_no_more(world: World) -> None:
    world.create("c", partitions=1)
    world.put("c", **{f"d{topic}": text(topic, 90) for topic in range(4)})
    world.writers["c"].flush()
    store, dense = world.store(), DenseStore(embedder(), SETTINGS)
    dense.refresh([store])
    world.writers["c"].write([Delete("d1")])
    world.put("c", d2=text(7, 90), new=text(1, 90, seed=1))
    assert names(dense.search(store, text(1, 40), ("c",), 5)) == {id_digest("d1")}
    store.refresh()  # and at once, before anything is indexed anew
    found = names(dense.search(store, text(1, 40), ("c",), 100))
    assert found == {id_digest("d0"), id_digest("d3")}
    assert dense.refresh([store])
    assert names(dense.search(store, text(1, 40), ("c",), 5)) == {id_digest("new")}
    assert id_digest("d1") not in names(dense.search(store, text(1, 40), ("c",), 100))


def test_a_corpus_that_grew_is_fitted_anew_and_one_that_went_is_dropped(world: World) -> None:
    world.create("c", partitions=1)
    world.put("c", a=text(0, 60), b=text(1, 60))
    store, dense = world.store(), DenseStore(embedder(), SETTINGS)
    dense.refresh([store])
    world.put("c", **{f"d{i}": text(i, 90) for i in range(2, 9)})
    store.refresh()
    dense.refresh([store])
    assert names(dense.search(store, text(7, 40), ("c",), 4)) == {id_digest("d7")}
    assert not dense.refresh([])
    assert dense.passages == 0 and dense.search(store, text(7, 40), ("c",), 4) == []
