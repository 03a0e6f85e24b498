"""Documents one by one: pages, digests, damage, and corpora that go and come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rasd.config import StoreConfig
from rasd.errors import InvalidRequest, NotFound, SegmentCorrupt
from rasd.retrieval.store import browse
from rasd.retrieval.store.browse import Browser, Browsers
from rasd.retrieval.store.corpora import drop_corpus, partition_path
from rasd.retrieval.store.documents import open_documents
from rasd.retrieval.store.manifest import docs_path, newest
from rasd.retrieval.store.records import Delete, Document, Put, id_digest, partition_of
from rasd.retrieval.store.writer import CorpusWriter

from .worlds import Submitter, document, make_corpus, random_document

STORE = StoreConfig(flush_tokens=10_000, max_segments=3, max_dead_share=1, grace_s=0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CorpusWriter]:
    make_corpus(tmp_path)
    opened = CorpusWriter(tmp_path, "c", STORE, Submitter())
    yield opened
    opened.close()


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    return Browser(tmp_path, "c")


def fill(store: CorpusWriter, documents: list[Document]) -> None:
    """Into segments and logs of both partitions."""
    third = len(documents) // 3
    for at in (0, third, 2 * third):
        store.write([Put(each) for each in documents[at : at + third]])
        if at < 2 * third:
            store.flush()


def pages(browser: Browser, limit: int) -> list[str]:
    ids: list[str] = []
    after = None
    while True:
        page = browser.page(after, limit)
        ids += [found.id for found in page.documents]
        if (after := page.after) is None:
            return ids
        assert len(page.documents) == limit and after == ids[-1]


def in_order(ids: list[str]) -> list[str]:
    return sorted(ids, key=lambda id_: (partition_of(id_digest(id_), 2), id_digest(id_)))


def test_everything_of_a_document(store: CorpusWriter, browser: Browser, seed: int) -> None:
    rng = np.random.default_rng(seed)
    documents = [random_document(rng, f"ä/{i}") for i in range(12)]
    fill(store, documents)
    stored = {found.id: found for found in browser.documents()}
    assert len(stored) == 12
    for each in documents:
        found = browser.get(each.id)
        assert found == stored[each.id]
        assert (found.id, found.text, found.metadata) == (each.id, each.text, each.metadata)
        assert found.tokens == each.tokens.tolist()
        assert all(type(token) is int for token in found.tokens)


def test_pages_are_in_an_order_of_their_own(
    store: CorpusWriter, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rasd.retrieval.store.living._CHUNK", 3)
    ids = [str(i) for i in range(60)]
    fill(store, [document(id_) for id_ in ids])
    for limit in (1, 7, 59, 60, 100):
        assert pages(browser, limit) == in_order(ids)
    store.flush()
    assert pages(browser, 7) == in_order(ids)


def test_paging_while_it_changes(store: CorpusWriter, browser: Browser) -> None:
    """What is there all the while comes once; a page may start at a document that is gone."""
    ids = in_order([str(i) for i in range(60)])
    fill(store, [document(id_) for id_ in ids])
    first = browser.page(None, 10)
    store.write([Delete(id_) for id_ in ids[5:12]])
    store.write([Put(document(ids[14], 9, 9))])
    store.flush()
    second = browser.page(first.after, 10)
    assert [found.id for found in first.documents] == ids[:10]
    assert [found.id for found in second.documents] == ids[12:22]
    assert second.documents[2].tokens == 2


def test_nothing_is_a_page_too(store: CorpusWriter, browser: Browser) -> None:
    assert browser.page(None, 5) == browse.Page([], None)
    store.write([Put(document("a"))])
    last = browser.page(None, 1)
    assert last.after is None


@pytest.mark.parametrize("after", ["", "7", "no such id", "A" * 24, "ä/日本", "../../etc"])
def test_a_page_starts_behind_any_id(store: CorpusWriter, browser: Browser, after: str) -> None:
    ids = [str(i) for i in range(30)]
    fill(store, [document(id_) for id_ in ids])
    ordered = in_order([*ids, after])
    behind = [id_ for id_ in ordered[ordered.index(after) :] if id_ != after]
    assert [found.id for found in browser.page(after, 100).documents] == behind


def test_what_is_no_text_is_no_id(store: CorpusWriter, browser: Browser) -> None:
    with pytest.raises(InvalidRequest, match="after must be an id"):
        browser.page("\ud800", 5)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_page_holds_something(store: CorpusWriter, browser: Browser, limit: int) -> None:
    with pytest.raises(InvalidRequest, match=f"at least 1; got {limit}"):
        browser.page(None, limit)


def test_digests(store: CorpusWriter, browser: Browser) -> None:
    store.write([Put(document("a")), Put(document("b"))])
    store.write([Delete("b")])
    wanted = [id_digest("a"), id_digest("b"), bytes(16), b"short"]
    assert browser.resolve(wanted) == ["a", None, None, None]


def test_a_corpus_that_goes_and_comes(
    tmp_path: Path, store: CorpusWriter, browser: Browser
) -> None:
    store.write([Put(document("a", 1))])
    assert browser.get("a").tokens == [1]
    store.close()
    drop_corpus(tmp_path, "c")
    for call in (
        lambda: browser.get("a"),
        lambda: browser.page(None, 1),
        lambda: browser.resolve([]),
        browser.documents,
    ):
        with pytest.raises(NotFound, match="no corpus 'c'"):
            call()
    make_corpus(tmp_path, partitions=1)
    with pytest.raises(NotFound, match="no document 'a'"):
        browser.get("a")
    again = CorpusWriter(tmp_path, "c", STORE, Submitter())
    again.write([Put(document("a", 2))])
    assert browser.get("a").tokens == [2]
    again.close()


# --- damage -----------------------------------------------------------------------------------


def test_a_file_that_is_damaged_is_left_out_and_said(
    tmp_path: Path, store: CorpusWriter, browser: Browser
) -> None:
    """Its tables: nothing of it can be found."""
    ids = in_order([str(i) for i in range(30)])
    fill(store, [document(id_) for id_ in ids])
    path = partition_path(tmp_path, "c", 0)
    number = newest(path).sources[0].number
    lost = [id_ for id_ in ids if id_ in {d.id for d in held(path, number)}]
    flip(docs_path(path, number), -1)
    fresh = Browser(tmp_path, "c")
    assert pages(fresh, 4) == [id_ for id_ in ids if id_ not in lost]
    with pytest.raises(SegmentCorrupt, match="tables checksum"):
        fresh.get(lost[0])
    with pytest.raises(SegmentCorrupt, match="tables checksum"):
        fresh.get(next(f"x{i}" for i in range(99) if partition_of(id_digest(f"x{i}"), 2) == 0))
    with pytest.raises(NotFound):
        fresh.get(next(f"x{i}" for i in range(99) if partition_of(id_digest(f"x{i}"), 2) == 1))
    assert fresh.resolve([id_digest(lost[0])]) == [None]
    assert sorted(readable(fresh)) == sorted(set(ids) - {*lost})
    assert pages(browser, 4) == [id_ for id_ in ids if id_ not in lost]


def test_a_document_that_is_damaged(tmp_path: Path, store: CorpusWriter, browser: Browser) -> None:
    """A block: its documents can be found, not read."""
    ids = in_order([str(i) for i in range(30)])
    fill(store, [document(id_) for id_ in ids])
    path = partition_path(tmp_path, "c", 0)
    number = newest(path).sources[0].number
    lost = [document.id for document in held(path, number)]
    flip(docs_path(path, number), 100)
    with pytest.raises(SegmentCorrupt, match="block 0"):
        browser.get(lost[0])
    with pytest.raises(SegmentCorrupt, match="block 0"):
        browser.page(None, 30)
    assert browser.resolve([id_digest(lost[0])]) == [None]
    assert sorted(readable(browser)) == sorted(set(ids) - {*lost})


def held(path: Path, number: int) -> list[Document]:
    return [*open_documents(docs_path(path, number))]


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def readable(browser: Browser) -> list[str]:
    """What comes before the error."""
    ids: list[str] = []
    with pytest.raises(SegmentCorrupt):
        ids.extend(found.id for found in browser.documents())
    return ids


# --- several ----------------------------------------------------------------------------------


def test_few_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    browsers = Browsers(tmp_path)
    first = browsers.of("c0")
    for number in range(1, browse.MAX_OPEN):
        browsers.of(f"c{number}")
    assert browsers.of("c0") is first
    browsers.of("one-more")
    assert browsers.of("c0") is first  # c1 had to go
    browsers.tidy()
    assert browsers.of("c0") is first
    monkeypatch.setattr(browse, "IDLE_S", -1.0)
    browsers.tidy()
    assert browsers.of("c0") is not first
    with pytest.raises(InvalidRequest):
        browsers.of("../c")
