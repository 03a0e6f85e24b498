"""A reader beside its writer: what it shows, what it refuses, what it does not read again."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from rasd.config import RetrievalConfig, StoreConfig
from rasd.retrieval.search import Index
from rasd.retrieval.store import follow, followers, reader
from rasd.retrieval.store.corpora import drop_corpus, partition_path, read_spec
from rasd.retrieval.store.dead import write_dead
from rasd.retrieval.store.manifest import (
    SourceEntry,
    commit,
    dead_path,
    docs_path,
    manifest_path,
    newest,
    newest_version,
    seg_path,
)
from rasd.retrieval.store.reader import PartitionReader
from rasd.retrieval.store.records import Delete, Put
from rasd.retrieval.store.writer import CorpusWriter

from .worlds import Submitter, document, make_corpus

STORE = StoreConfig(flush_tokens=1000, max_segments=3, max_dead_share=1, grace_s=0)
SETTINGS = RetrievalConfig(suffix_min=1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CorpusWriter]:
    make_corpus(tmp_path, partitions=1)
    opened = CorpusWriter(tmp_path, "c", STORE, Submitter())
    yield opened
    opened.close()


@pytest.fixture
def following(tmp_path: Path, store: CorpusWriter) -> PartitionReader:
    return PartitionReader(tmp_path, read_spec(tmp_path, "c"), 0)


def put(id_: str, *tokens: int) -> Put:
    """A document that follows 7 with some tokens."""
    return Put(document(id_, 7, *tokens))


def followed_by(following: PartitionReader, tail: int = 7) -> dict[int, int]:
    """The counts of what follows a token."""
    found = Index(following.view.parts).search(np.array([tail], np.int32), SETTINGS)
    first = found.parents == -1
    return dict(zip(found.tokens[first].tolist(), found.counts[first].tolist(), strict=True))


def flip(path: Path, at: int = -9) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def test_shows_logs_and_segments_without_the_dead(
    store: CorpusWriter, following: PartitionReader
) -> None:
    assert following.refresh()
    assert (following.view.version, following.view.documents) == (2, 0)
    store.write([put("a", 1), put("b", 2)])
    store.flush()
    store.write([put("a", 3), put("c", 3), put("d", 4)])
    store.write([Delete("d")])
    assert following.refresh()
    assert followed_by(following) == {2: 1, 3: 2}
    view = following.view
    assert (view.documents, view.tokens, view.memory_tokens, view.segments) == (3, 6, 4, 1)
    assert view.version == newest_version(partition_path(store_root(following), "c", 0))
    assert view.bytes == sum(entry.bytes for entry in store.manifests[0].sources)
    assert view.written == store.manifests[0].written
    store.flush()
    assert following.refresh()
    assert followed_by(following) == {2: 1, 3: 2}
    assert following.view.memory_tokens == 0
    # The old view is as it was.
    assert (view.documents, len(view.parts)) == (3, 2)


def store_root(following: PartitionReader) -> Path:
    return following._path.parent.parent


def test_reads_nothing_where_nothing_is_new(
    store: CorpusWriter, following: PartitionReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write([put("a", 1)])
    following.refresh()

    def unexpected(*_: object) -> int:
        raise AssertionError("listed")

    with monkeypatch.context() as patched:
        patched.setattr(follow, "newest_version", unexpected)
        for _ in range(3):
            assert not following.refresh()


def test_opens_each_file_once(
    store: CorpusWriter, following: PartitionReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def counting(call: Callable[..., object]) -> Callable[..., object]:
        def counted(path: Path, *values: object, **named: object) -> object:
            opened.append(path)
            return call(path, *values, **named)

        return counted

    for name in ("open_segment", "open_source", "read_dead"):
        monkeypatch.setattr(reader, name, counting(getattr(reader, name)))
    store.write([put("a", 1), put("b", 2)])
    store.flush()
    following.refresh()
    assert len(opened) == 2
    before = following.view.parts
    store.write([put("c", 3)])
    following.refresh()
    assert len(opened) == 3
    assert following.view.parts[0].segment is before[0].segment
    store.write([Delete("a")])
    following.refresh()
    dead = following.view.parts[0].live
    assert dead is not None
    store.write([put("d", 3)])
    following.refresh()
    assert following.view.parts[0].live is dead
    assert len(opened) == 5


def test_falls_far_behind(store: CorpusWriter, following: PartitionReader) -> None:
    """All that it knew, and the manifest after that, are gone."""
    store.write([put("a", 1)])
    following.refresh()
    for number in range(8):
        store.write([put("a", number + 2)])
        store.flush()
    path = partition_path(store_root(following), "c", 0)
    for version in (following.view.version, following.view.version + 1):
        assert not manifest_path(path, version).exists()
    assert following.refresh()
    assert followed_by(following) == {9: 1}


def test_knows_how_long_it_is_behind(store: CorpusWriter, following: PartitionReader) -> None:
    path = partition_path(store_root(following), "c", 0)
    following.refresh()
    assert following.waiting_s == 0
    for age in (100, 50):
        store.write([put(f"{age}", 1)])
        now = time.time()
        os.utime(manifest_path(path, newest_version(path)), (now - age, now - age))
    assert 100 <= following.waiting_s < 150
    manifest_path(path, newest_version(path) - 1).unlink()
    manifest_path(path, newest_version(path) - 2).unlink(missing_ok=True)
    assert 50 <= following.waiting_s < 100
    following.refresh()
    assert following.waiting_s == 0


def test_starts_over_when_files_vanish(
    store: CorpusWriter, following: PartitionReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer replaces everything just when the reader has read the manifest."""
    store.write([put("a", 1)])
    store.flush()
    reads = 0

    def read(path: Path, version: int) -> object:
        nonlocal reads
        reads += 1
        manifest = read_manifest(path, version)
        if reads <= 3:
            for number in range(4):
                store.write([put("a", 4 * reads + number)])
                store.flush()
        return manifest

    read_manifest = follow.read_manifest
    monkeypatch.setattr(follow, "read_manifest", read)
    following.refresh()
    assert reads == 4
    assert not following.view.refused
    assert followed_by(following) == {15: 1}


def test_gives_up_for_now_when_files_vanish_again_and_again(
    store: CorpusWriter,
    following: PartitionReader,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store.write([put("a", 1)])
    following.refresh()
    store.write([put("a", 2)])

    def moving(*_: object) -> object:
        raise follow.Moved("gone")

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(following, "_build", moving)
        assert not following.refresh()
    assert "vanished" in caplog.text
    assert followed_by(following) == {1: 1}
    assert following.refresh()
    assert followed_by(following) == {2: 1}


# --- damage -----------------------------------------------------------------------------------


FILES = {
    "seg": lambda path, entry: seg_path(path, entry.number),
    "docs": lambda path, entry: docs_path(path, entry.number),
    "dead": lambda path, entry: dead_path(path, entry.number, entry.dead),
}


@pytest.fixture
def path(store: CorpusWriter, following: PartitionReader) -> Path:
    """A partition of a segment with a file of dead documents, another segment, and a log."""
    store.write([put("a", 1), put("b", 2), put("e", 6)])
    store.flush()
    store.write([put("a", 3)])
    store.flush()
    store.write([put("b", 5), put("d", 4)])
    path = partition_path(store_root(following), "c", 0)
    sources = newest(path).sources
    assert [(source.kind, source.dead > 0) for source in sources] == [
        ("segment", True),
        ("segment", False),
        ("log", False),
    ]
    return path


@pytest.mark.parametrize(
    ("source", "kind", "left"),
    [
        (0, "seg", {3, 4, 5}),
        (0, "docs", {3, 4, 5}),
        (0, "dead", {3, 4, 5}),
        (1, "seg", {4, 5, 6}),
        (2, "docs", set()),  # else what it replaced would be back
    ],
)
def test_what_is_damaged_does_not_serve(
    store: CorpusWriter,
    following: PartitionReader,
    path: Path,
    caplog: pytest.LogCaptureFixture,
    source: int,
    kind: str,
    left: set[int],
) -> None:
    file = FILES[kind](path, newest(path).sources[source])
    good = file.read_bytes()
    flip(file)
    with caplog.at_level(logging.ERROR):
        assert following.refresh()
        store.write([put("f", 8)])  # the writer opened its files before
        assert following.refresh()
    served = {*left, 8} if left else left
    assert followed_by(following) == dict.fromkeys(served, 1)
    assert (following.view.documents, following.view.tokens > 0) == (len(served), bool(served))
    assert (following.view.segments, following.view.bytes > 0) == (2, True)
    (name,) = following.view.refused
    assert name == f"partition-0000/{file.name}"
    assert str(file) in str(following.view.refused[name])
    assert caplog.text.count("refused") == 1
    # It is not tried again, whatever becomes of it.
    file.write_bytes(good)
    store.write([put("f", 9)])
    following.refresh()
    assert name in following.view.refused
    fresh = PartitionReader(store_root(following), store.spec, 0)
    fresh.refresh()
    assert followed_by(fresh) == dict.fromkeys({3, 4, 5, 6, 9}, 1)
    assert not fresh.view.refused


def test_a_rebuilt_segment_serves(
    store: CorpusWriter, following: PartitionReader, path: Path
) -> None:
    source = newest(path).sources[0]
    flip(seg_path(path, source.number))
    following.refresh()
    assert following.view.refused
    store.rebuild(0, source.number)
    following.refresh()
    assert not following.view.refused
    assert followed_by(following) == dict.fromkeys({3, 4, 5, 6}, 1)


def test_another_file_of_the_same_name_is_refused(
    store: CorpusWriter, following: PartitionReader, path: Path
) -> None:
    """Sound by itself, but not what the manifest names."""
    first, second = newest(path).segments
    for kind in ("seg", "docs"):
        FILES[kind](path, second).write_bytes(FILES[kind](path, first).read_bytes())
    following.refresh()
    assert {name[-4:] for name in following.view.refused} == {".seg", "docs"}
    assert followed_by(following) == dict.fromkeys({4, 5, 6}, 1)


@pytest.mark.parametrize("kind", ["seg", "docs", "dead"])
def test_what_is_missing_is_tried_again(
    following: PartitionReader, path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """As what the system would not read; that may pass."""
    file = FILES[kind](path, newest(path).sources[0])
    file.rename(path / "elsewhere")
    following.refresh()
    assert list(following.view.refused) == [f"partition-0000/{file.name}"]
    assert followed_by(following) == dict.fromkeys({3, 4, 5}, 1)
    (path / "elsewhere").rename(file)
    assert not following.refresh()
    monkeypatch.setattr(followers, "RETRY_S", 0.0)
    following._again_at = 0.0
    assert following.refresh()
    assert not following.view.refused
    assert followed_by(following) == dict.fromkeys({3, 4, 5, 6}, 1)
    assert not following.refresh()


def test_a_log_with_a_damaged_file_of_its_dead_comes_back_whole(
    store: CorpusWriter, following: PartitionReader, path: Path
) -> None:
    """It was in memory already, and is needed once more."""
    following.refresh()
    log = newest(path).logs[0]
    number = log.number + 100
    checksum = write_dead(dead_path(path, log.number, number), np.array([1]))
    file = dead_path(path, log.number, number)
    replaced = msgspec.structs.replace(log, dead=number, dead_checksum=checksum)
    flip(file, 0)
    recommit(path, replaced)
    following.refresh()
    assert followed_by(following) == dict.fromkeys({3, 6}, 1)
    flip(file, 0)
    another = dead_path(path, log.number, number + 1)
    file.rename(another)
    recommit(path, msgspec.structs.replace(replaced, dead=number + 1))
    following.refresh()
    assert followed_by(following) == dict.fromkeys({3, 5, 6}, 1)
    assert not following.view.refused


def recommit(path: Path, log: SourceEntry) -> None:
    """A manifest with another last source."""
    manifest = newest(path)
    sources = [*manifest.sources[:-1], log]
    commit(path, msgspec.structs.replace(manifest, version=manifest.version + 1, sources=sources))


def test_a_damaged_manifest_changes_nothing(
    store: CorpusWriter,
    following: PartitionReader,
    path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    following.refresh()
    version = newest_version(path) + 1
    manifest_path(path, version).write_bytes(b"00000000\n{}\n")
    with caplog.at_level(logging.ERROR):
        assert following.refresh()
        assert not following.refresh()
    assert list(following.view.refused) == [f"partition-0000/{manifest_path(path, version).name}"]
    assert caplog.text.count("refused") == 1
    assert followed_by(following) == dict.fromkeys({3, 4, 5, 6}, 1)
    manifest = msgspec.structs.replace(store.manifests[0], version=version + 1)
    commit(path, manifest)
    assert following.refresh()
    assert not following.view.refused


def test_a_partition_that_is_gone_is_empty(
    store: CorpusWriter, following: PartitionReader, path: Path
) -> None:
    following.refresh()
    store.close()
    drop_corpus(store_root(following), "c")
    assert following.refresh()
    assert (following.view.parts, following.view.documents) == ((), 0)
    assert following.view.refused
    assert not following.refresh()


# --- threads ----------------------------------------------------------------------------------


def test_a_view_is_never_half_of_a_write(store: CorpusWriter, following: PartitionReader) -> None:
    """Two documents change together, while threads search and one refreshes."""
    store.write([put("a", 1), put("b", 1)])
    following.refresh()
    wrong: list[dict[int, int]] = []
    stop = threading.Event()

    def search() -> None:
        while not stop.is_set():
            found = followed_by(following)
            if len(found) != 1 or {*found.values()} != {2}:
                wrong.append(found)

    def refresh() -> None:
        while not stop.is_set():
            following.refresh()

    threads = [threading.Thread(target=call) for call in (search, search, refresh)]
    for thread in threads:
        thread.start()
    try:
        for number in range(2, 30):
            store.write([put("a", number), put("b", number)])
            if number % 5 == 0:
                store.flush()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    following.refresh()
    assert followed_by(following) == {29: 2}
