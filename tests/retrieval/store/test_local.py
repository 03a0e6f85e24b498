"""The catalog in one process: what callers see, whatever others do at the same time."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rasd.config import CorpusConfig, DatastoreConfig, StoreConfig
from rasd.datastore import NewDocument, StoredDocument, Written
from rasd.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    Overloaded,
    StorageError,
    StoreLocked,
    Unavailable,
)
from rasd.retrieval.store import info, room
from rasd.retrieval.store import writer as writers
from rasd.retrieval.store.compact import Job
from rasd.retrieval.store.corpora import partition_path
from rasd.retrieval.store.local import LocalCatalog
from rasd.retrieval.store.manifest import (
    PartitionManifest,
    docs_path,
    manifest_path,
    newest,
    newest_version,
    seg_path,
)
from rasd.retrieval.store.prepare import is_filled
from rasd.retrieval.store.records import id_digest, partition_of
from rasd.retrieval.store.verify import verify
from rasd.retrieval.store.writer import CorpusWriter
from tests.retrieval.store.worlds import Submitter, live, make_corpus
from tests.tokenizers import byte_tokenizer, metaspace_tokenizer

SETTINGS = DatastoreConfig(
    partitions=2,
    store=StoreConfig(flush_tokens=200, refresh_s=0.01, max_document_bytes=10_000),
)


def open_catalog(root: Path, submit: Any = None) -> LocalCatalog:
    return LocalCatalog(root, byte_tokenizer(), SETTINGS, submit or Submitter())


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[LocalCatalog]:
    catalog = open_catalog(tmp_path)
    yield catalog
    await catalog.close()


def new(id_: str, text: str = "the abc", **metadata: Any) -> NewDocument:
    return NewDocument(id_, text, metadata=metadata)


def texts(root: Path, name: str = "c") -> dict[str, str | None]:
    return {id_: document.text for id_, document in live(root, name).items()}


async def until(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


def changes(answers: list[Written]) -> list[str]:
    return [answer.change for answer in answers]


# --- corpora --------------------------------------------------------------------------------------


async def test_corpora_come_and_go(catalog: LocalCatalog, tmp_path: Path) -> None:
    assert await catalog.corpora() == []
    made = await catalog.create("b")
    assert (made.name, made.partitions, made.vocabulary) == ("b", 2, 268)
    assert (made.documents, made.tokens, made.segments, made.bytes) == (0, 0, 0, 0)
    assert made.created == pytest.approx(time.time(), abs=60)
    await catalog.create("a", 3)
    assert await catalog.create("b") == made
    assert (await catalog.create("a")).partitions == 3  # without a number, as it is
    with pytest.raises(Conflict, match="'a' exists with partitions"):
        await catalog.create("a", 2)
    for name, partitions in (("../x", 1), ("x", 0), ("x", 1025)):
        with pytest.raises(InvalidRequest):
            await catalog.create(name, partitions)
    assert [one.name for one in await catalog.corpora()] == ["a", "b"]
    await catalog.add("a", [new("x")])
    await catalog.drop("a")
    assert [one.name for one in await catalog.corpora()] == ["b"]
    for call in (catalog.drop("a"), catalog.add("a", [new("x")]), catalog.delete("a", ["x"])):
        with pytest.raises(NotFound, match="no corpus 'a'"):
            await call
    await catalog.create("a", 2)
    assert texts(tmp_path, "a") == {}


async def test_one_of_many_corpora_is_read_alone(
    catalog: LocalCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for i in range(300):
        make_corpus(tmp_path, f"c{i}")
    read: list[str] = []

    def spied(path: Path) -> PartitionManifest:
        read.append(path.parent.name)
        return newest(path)

    monkeypatch.setattr(info, "newest", spied)
    assert (await catalog.corpus("c7")).name == "c7"
    assert read == ["c7"] * 2  # partitions
    with pytest.raises(NotFound, match="no corpus 'c300'"):
        await catalog.corpus("c300")
    assert read == ["c7"] * 2
    assert len(await catalog.corpora()) == 300 and len(read) == 602


async def test_the_numbers_of_a_corpus(catalog: LocalCatalog) -> None:
    await catalog.create("c")
    await catalog.add("c", [new(f"d{i}") for i in range(5)])
    (info,) = await catalog.corpora()
    tokens = 5 * (len(byte_tokenizer()("the abc").input_ids) - 1)
    assert (info.documents, info.tokens, info.memory_tokens) == (5, tokens, tokens)
    assert info.segments == 0 and info.bytes > 0
    await catalog.flush("c")
    await catalog.delete("c", ["d0"])
    (info,) = await catalog.corpora()
    assert (info.documents, info.tokens, info.memory_tokens) == (4, tokens * 4 // 5, 0)
    assert info.segments == 2 and info.damaged == []


async def test_what_is_damaged_is_named_and_the_rest_counted(
    catalog: LocalCatalog, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        await catalog.create(name)
        await catalog.add(name, [new(f"d{i}") for i in range(9)])
    path = partition_path(tmp_path, "a", 1)
    held = newest(path).documents
    manifest_path(path, newest_version(path)).write_bytes(b"damaged")
    (tmp_path / "b" / "corpus.json").write_bytes(b"damaged")
    one, other = await catalog.corpora()
    assert (one.damaged, one.documents) == (["partition-0001"], 9 - held)
    assert (other.name, other.damaged, other.documents) == ("b", ["corpus.json"], 0)


# --- documents ------------------------------------------------------------------------------------


async def test_each_document_counts_on_its_own(catalog: LocalCatalog, tmp_path: Path) -> None:
    await catalog.create("c")
    found = await catalog.add(
        "c",
        [
            new("a"),
            new("bad\0id"),
            NewDocument("b", tokens=[5, 6]),
            new("c", "bad\0text"),
            NewDocument("d", tokens=[268]),
            new("a", "again"),
            new("e", "x" * 10_001),
        ],
    )
    assert [one.id for one in found] == ["a", r"'bad\x00id'", "b", "c", "d", "a", "e"]
    assert changes(found) == ["created", "rejected", "created", *["rejected"] * 4]
    assert all(bool(one.error) == (one.change == "rejected") for one in found)
    assert texts(tmp_path) == {"a": "the abc", "b": None}
    again = await catalog.add("c", [new("a"), new("a2"), NewDocument("b", tokens=[5])])
    assert changes(again) == ["unchanged", "created", "replaced"]
    gone = await catalog.delete("c", ["a", "nothing", "a", "", "b"])
    assert changes(gone) == ["deleted", "missing", "missing", "rejected", "deleted"]
    assert [one.id for one in gone] == ["a", "nothing", "a", "''", "b"]
    assert texts(tmp_path) == {"a2": "the abc"}
    counters = catalog.counters
    assert (counters.documents, counters.deletes, counters.rejected) == (5, 3, 6)
    assert counters.commits == 3 and counters.commit_seconds > 0 and counters.bytes == 33
    assert await catalog.add("c", []) == await catalog.delete("c", []) == []


async def test_documents_are_read_as_they_were_written(catalog: LocalCatalog) -> None:
    await catalog.create("c")
    await catalog.create("other")
    odd = "../é 🙂/%2e%2e"
    await catalog.add("c", [new(odd, "the abc", n=[1, None]), NewDocument("t", tokens=[7, 0])])
    ids = byte_tokenizer()("the abc").input_ids[1:]
    assert await catalog.get("c", odd) == StoredDocument(odd, ids, "the abc", {"n": [1, None]})
    assert await catalog.get("c", "t") == StoredDocument("t", [7, 0], None, {})
    page = await catalog.page("c", None, 1)
    rest = await catalog.page("c", page.after, 10)
    assert sorted(one.id for one in page.documents + rest.documents) == sorted([odd, "t"])
    assert rest.after is None
    digests = [id_digest(id_) for id_ in ("t", "gone", odd)]
    assert await catalog.resolve("c", digests) == ["t", None, odd]
    for name, id_ in (("c", "gone"), ("c", "\ud800"), ("c", ""), ("other", "t"), ("nowhere", "t")):
        with pytest.raises(NotFound):
            await catalog.get(name, id_)
    with pytest.raises(InvalidRequest, match="after must be an id"):
        await catalog.page("c", "\ud800", 1)


async def test_a_corpus_of_another_tokenizer_takes_nothing(
    catalog: LocalCatalog, tmp_path: Path
) -> None:
    other = LocalCatalog(tmp_path, metaspace_tokenizer(), SETTINGS, Submitter())
    await other.create("c")
    await other.close()
    with pytest.raises(Conflict, match="'c': tokenizer_hash and vocabulary must be"):
        await catalog.add("c", [new("a")])
    with pytest.raises(Conflict, match="tokenizer_hash"):
        await catalog.create("c")
    assert texts(tmp_path) == {}


CALL = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from(["", "x", "the abc"])),
    min_size=1,
    max_size=4,
    unique_by=lambda one: one[0],
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(CALL, max_size=8), st.randoms())
def test_calls_at_the_same_time_are_as_if_in_some_order(
    tmp_path_factory: pytest.TempPathFactory, plan: list[list[tuple[str, str]]], rng: random.Random
) -> None:
    """Every document ends as one of the calls left it, and every answer fits some history."""
    root = tmp_path_factory.mktemp("store")

    async def run() -> list[list[Written]]:
        catalog = open_catalog(root)
        await catalog.create("c")
        calls = [
            catalog.add("c", [new(*one) for one in call])
            if all(text for _, text in call)
            else catalog.delete("c", [id_ for id_, _ in call])
            for call in plan
        ]
        answers = await asyncio.gather(*calls)
        await catalog.close()
        return answers

    answers = asyncio.run(run())
    found = texts(root)
    for id_ in "abcdef":
        created = deleted = 0
        asked: set[str | None] = set()
        for call, answer in zip(plan, answers, strict=True):
            kept = all(text for _, text in call)
            for (one, text), written in zip(call, answer, strict=True):
                if one == id_:
                    asked.add(text if kept else None)
                    created += written.change == "created"
                    deleted += written.change == "deleted"
        assert created - deleted == (id_ in found)
        assert found.get(id_) in (asked or {None})
    assert verify(root, None).damaged == []


async def test_concurrent_calls_share_commits(
    catalog: LocalCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await catalog.create("c")
    go, entered = threading.Event(), threading.Event()
    write = CorpusWriter.write

    def held(writer: CorpusWriter, operations: Any) -> Any:
        entered.set()
        assert go.wait(60)
        return write(writer, operations)

    monkeypatch.setattr(CorpusWriter, "write", held)
    first = asyncio.create_task(catalog.add("c", [new("first")]))
    await until(entered.is_set)
    others = [asyncio.create_task(catalog.add("c", [new(f"d{i}")])) for i in range(20)]
    slot = catalog._writers._slots["c"]
    await until(lambda: len(slot.group._waiting) == 20)
    others[3].cancel()
    first.cancel()  # too late: it is being written
    go.set()
    answers = await asyncio.gather(*others, return_exceptions=True)
    assert isinstance(answers.pop(3), asyncio.CancelledError)
    assert answers == [[Written(f"d{i}", "created")] for i in range(20) if i != 3]
    assert catalog.counters.commits == 2
    assert texts(tmp_path).keys() == {"first", *(f"d{i}" for i in range(20) if i != 3)}


async def test_what_waits_is_bounded(
    catalog: LocalCatalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await catalog.create("c")
    monkeypatch.setattr(room, "MAX_WAITING_BYTES", 200)
    monkeypatch.setattr(room, "MAX_WAITING_DOCUMENTS", 3)
    go = threading.Event()
    tokenise = catalog._intake.tokenise

    def held(documents: Any) -> Any:
        assert go.wait(60)
        return tokenise(documents)

    monkeypatch.setattr(catalog._intake, "tokenise", held)
    large = asyncio.create_task(catalog.add("c", [new("a", "x" * 300)]))  # alone it may
    await until(lambda: catalog._room._documents == 1)
    with pytest.raises(Overloaded, match=r"at most 200 bytes may wait .* got 1 beside 300"):
        await catalog.add("c", [new("b", "x")])
    go.set()
    assert changes(await large) == ["created"]
    go.clear()
    small = asyncio.create_task(catalog.add("c", [new("c", "x"), new("d", "x")]))
    await until(lambda: catalog._room._documents == 2)
    with pytest.raises(Overloaded, match=r"at most 3 documents may wait .* got 2 beside 2"):
        await catalog.delete("c", ["x", "y"])
    large.cancel()
    go.set()
    await small
    assert (catalog._room._documents, catalog._room._bytes) == (0, 0)
    assert texts(tmp_path).keys() == {"a", "c", "d"}


# --- files and writers ----------------------------------------------------------------------------


async def test_compactions_start_and_finish_by_themselves(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        catalog = open_catalog(tmp_path, threads.submit)
        await catalog.create("c", 1)
        await catalog.add("c", [new(f"d{i}", "the abc " * 30) for i in range(20)])
        path = partition_path(tmp_path, "c", 0)
        await until(lambda: not newest(path).logs)
        assert len(newest(path).segments) == 1
        await catalog.close()
    assert len(texts(tmp_path)) == 20


class Held:
    """Does what is urgent at once; keeps merges until they are told to run."""

    def __init__(self) -> None:
        self.flushes, self.merges = Submitter(), Submitter()
        self.merges.hold = True

    def __call__(self, function: Callable[..., Any], job: Job) -> Future[Any]:
        return (self.flushes if job.urgent else self.merges)(function, job)


async def fill(catalog: LocalCatalog, root: Path, name: str, segments: int) -> None:
    """Makes a corpus of so many segments."""
    await catalog.create(name, 1)
    for i in range(segments):
        await catalog.add(name, [new(f"{i}", "the abc " * 200)])
        await until(lambda: not newest(partition_path(root, name, 0)).logs)


async def test_so_many_merges_run_as_may_over_all_corpora(tmp_path: Path) -> None:
    """Until they are done the others wait, and none is left behind."""
    submit = Held()
    settings = SETTINGS.model_copy(update={"compactions": 2})
    catalog = LocalCatalog(tmp_path, byte_tokenizer(), settings, submit)
    names = [f"c{i}" for i in range(6)]
    for name in names:
        await fill(catalog, tmp_path, name, segments=4)
    await until(lambda: catalog._compactions.waiting == 4)
    writer = await catalog.writer()
    assert (writer.compactions, writer.waiting, submit.merges.waiting) == (2, 4, 2)
    await catalog.drop(names.pop())  # what waits is called off
    assert (catalog._compactions.running, catalog._compactions.waiting) == (2, 3)
    await catalog.drop(names.pop(0))  # what runs has its slot until its end
    assert (catalog._compactions.running, catalog._compactions.waiting) == (2, 3)
    for left in range(5, 0, -1):
        assert submit.merges.waiting == min(left, 2)
        submit.merges.run_one()
    paths = [partition_path(tmp_path, name, 0) for name in names]
    await until(lambda: all(len(newest(path).segments) == 1 for path in paths))
    writer = await catalog.writer()
    assert (writer.compactions, writer.waiting, writer.failed_compactions) == (0, 0, 0)
    await catalog.close()


async def test_no_write_is_refused_because_of_a_merge(tmp_path: Path) -> None:
    """However long it runs, in whatever corpus."""
    submit = Held()
    catalog = open_catalog(tmp_path, submit)
    assert SETTINGS.compactions == 1
    for name in ("a", "b"):
        await fill(catalog, tmp_path, name, segments=12)
    await until(lambda: catalog._compactions.waiting == 1)
    writer = await catalog.writer()
    assert (writer.compactions, writer.waiting, submit.merges.waiting) == (1, 1, 1)
    await catalog.close()


async def test_what_fails_is_counted_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = Submitter()
    submit.hold = True
    catalog = open_catalog(tmp_path, submit)
    for name in ("a", "b"):
        await catalog.create(name, 1)
    assert (await catalog.writer()).failure is None
    await catalog.add("a", [new("x", "the abc " * 200)])
    await until(lambda: submit.waiting == 1)
    submit.lose(MemoryError("no room"))
    await until(lambda: bool(catalog.counters.failed))
    writer = await catalog.writer()
    assert (writer.failed_compactions, writer.failed_commits, writer.commits) == (1, 0, 1)
    assert writer.commit_seconds > 0 and writer.failure is not None
    assert (writer.failure.work, writer.failure.corpus) == ("compaction", "a")
    assert writer.failure.error == "MemoryError: no room" and 0 <= writer.failure.age_s < 60
    with closing(CorpusWriter(tmp_path, "b", SETTINGS.store, Submitter())):
        with pytest.raises(StoreLocked):
            await catalog.add("b", [new("x")])
    monkeypatch.setattr(writers, "WAIT_S", 0)
    await catalog.add("a", [new("y", "the abc " * 200)])
    with pytest.raises(Overloaded):  # refused before anything is tried
        await catalog.add("a", [new("z")])
    writer = await catalog.writer()
    assert (writer.failed_compactions, writer.failed_commits) == (1, 1)
    assert writer.failure is not None and writer.failure.corpus == "b"
    assert writer.failure.error.startswith("StoreLocked: ")
    await catalog.close()


async def test_what_a_killed_writer_left_is_taken_up(tmp_path: Path) -> None:
    """Without anybody writing to it again."""
    lazy = Submitter()
    lazy.hold = True
    catalog = open_catalog(tmp_path, lazy)
    for name in ("large", "small", "none", "locked"):
        await catalog.create(name, 1)
    await catalog.add("large", [new(f"d{i}", "the abc " * 30) for i in range(20)])
    await catalog.add("small", [new("x")])
    await catalog.add("locked", [new("x")])
    await catalog.close()
    with closing(CorpusWriter(tmp_path, "locked", SETTINGS.store, Submitter())):
        catalog = open_catalog(tmp_path)
        await catalog.resume()
        paths = {name: partition_path(tmp_path, name, 0) for name in ("large", "small", "none")}
        await until(lambda: not newest(paths["large"]).logs)
        assert len(newest(paths["small"]).logs) == 1
        assert newest(paths["none"]).epoch == 0  # never opened
        await catalog.close()


async def test_idle_writers_make_room_for_others(
    catalog: LocalCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog._writers._max_open = 2
    opened: list[str] = []
    for name in "abc":
        await catalog.create(name)
        await catalog.add(name, [new("x")])
        opened.append(name)
        there = [n for n, slot in catalog._writers._slots.items() if slot.writer is not None]
        assert there == opened[-2:]
    await until(lambda: "a" not in catalog._writers._slots)
    assert changes(await catalog.add("a", [new("x"), new("y")])) == ["unchanged", "created"]

    go, entered = threading.Event(), threading.Semaphore(0)

    def held(writer: CorpusWriter) -> None:
        entered.release()
        assert go.wait(60)

    flushes = []
    monkeypatch.setattr(CorpusWriter, "flush", held)
    for name in "bc":
        flushes.append(asyncio.create_task(catalog.flush(name)))
        assert await asyncio.to_thread(entered.acquire, timeout=60)
    with pytest.raises(Overloaded, match="at most 2 corpora may be written to at once"):
        await catalog.add("a", [new("z")])
    go.set()
    await asyncio.gather(*flushes)
    assert changes(await catalog.add("a", [new("z")])) == ["created"]


async def test_what_idle_writers_hold_is_indexed_in_the_end(
    tmp_path: Path,
) -> None:
    """Also of those that were closed to make room, and of what a killed writer left."""
    store = SETTINGS.store.model_copy(update={"flush_after_s": 0.05})
    names = ("a", "b", "c", "d")
    paths = [partition_path(tmp_path, name, 0) for name in names]
    catalog = open_catalog(tmp_path)
    for name in names:
        await catalog.create(name, 1)
        await catalog.add(name, [new("x")])
    await catalog.close()
    assert all(newest(path).logs for path in paths)
    quick = DatastoreConfig(partitions=2, store=store)
    catalog = LocalCatalog(tmp_path, byte_tokenizer(), quick, Submitter())
    catalog._writers._max_open = 2
    await catalog.resume()
    await until(lambda: not any(newest(path).logs for path in paths))
    for name in names:
        await catalog.add(name, [new("y")])
    await until(lambda: not any(newest(path).logs for path in paths))
    await until(lambda: not catalog._writers._left)
    await catalog.close()
    assert all(texts(tmp_path, name).keys() == {"x", "y"} for name in names)


async def test_a_cancelled_flush_goes_on(
    catalog: LocalCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await catalog.create("c")
    await catalog.add("c", [new("x")])
    go, entered, done = threading.Event(), threading.Event(), threading.Event()
    flush = CorpusWriter.flush

    def held(writer: CorpusWriter) -> None:
        entered.set()
        assert go.wait(60)
        flush(writer)
        done.set()

    monkeypatch.setattr(CorpusWriter, "flush", held)
    task = asyncio.create_task(catalog.flush("c"))
    await until(entered.is_set)
    task.cancel()
    go.set()
    await until(done.is_set)
    assert changes(await catalog.add("c", [new("x"), new("y")])) == ["unchanged", "created"]


async def test_dropping_waits_for_no_one(catalog: LocalCatalog, tmp_path: Path) -> None:
    """Writes that were going on are there no more, or were refused; and the name is free."""
    for _ in range(5):
        await catalog.create("c")
        writes = [asyncio.create_task(catalog.add("c", [new(f"d{i}")])) for i in range(10)]
        await until(lambda: "c" in catalog._writers._slots)
        await catalog.drop("c")
        for answer in await asyncio.gather(*writes, return_exceptions=True):
            assert isinstance(answer, list | NotFound | Unavailable)
        assert not (tmp_path / "c").exists()


async def test_another_process_that_took_over_is_respected(
    catalog: LocalCatalog, tmp_path: Path
) -> None:
    await catalog.create("c", 1)
    await catalog.add("c", [new("x")])
    lock = tmp_path / "c" / "writer.lock"
    lock.unlink()  # as on a shared disk whose locks got lost
    other = open_catalog(tmp_path)
    assert changes(await other.add("c", [new("x"), new("y")])) == ["unchanged", "created"]
    with pytest.raises(StoreLocked, match=r"taken over|dropped"):
        await catalog.add("c", [new("z")])
    with pytest.raises(StoreLocked, match=f"held by pid {os.getpid()}"):
        await catalog.add("c", [new("z")])
    assert changes(await other.add("c", [new("z")])) == ["created"]
    await other.close()
    assert changes(await catalog.add("c", [new("z")])) == ["unchanged"]
    assert verify(tmp_path, None).damaged == []


async def test_closing_answers_everybody(tmp_path: Path) -> None:
    catalog = open_catalog(tmp_path)
    await catalog.create("c")
    writes = [asyncio.create_task(catalog.add("c", [new(f"d{i}")])) for i in range(30)]
    await until(lambda: catalog.counters.commits > 0)
    await catalog.close()
    answers = await asyncio.gather(*writes, return_exceptions=True)
    kept = {f"d{i}" for i, answer in enumerate(answers) if isinstance(answer, list)}
    for answer in answers:
        assert isinstance(answer, list | Unavailable), answer
    assert kept and kept <= texts(tmp_path).keys()
    with pytest.raises(Unavailable, match="closed"):
        await catalog.add("c", [new("late")])
    with closing(CorpusWriter(tmp_path, "c", SETTINGS.store, Submitter())):
        pass  # the lock is free


async def test_a_damaged_segment_is_rebuilt(catalog: LocalCatalog, tmp_path: Path) -> None:
    await catalog.create("c", 1)
    await catalog.add("c", [new("x")])
    await catalog.flush("c")
    path = partition_path(tmp_path, "c", 0)
    (source,) = [entry.number for entry in newest(path).sources]
    seg_path(path, source).write_bytes(b"damaged")
    await catalog.rebuild("c", 0, source)
    assert verify(tmp_path, None).damaged == []
    assert texts(tmp_path) == {"x": "the abc"}
    with pytest.raises(InvalidRequest, match="has 1 partitions; got 1"):
        await catalog.rebuild("c", 1, source)


# --- seeding --------------------------------------------------------------------------------------


async def test_one_damaged_file_harms_its_partition_alone(tmp_path: Path) -> None:
    catalog = open_catalog(tmp_path)
    await catalog.create("c")
    await catalog.add("c", [new(f"d{i}") for i in range(9)])
    await catalog.close()
    path = partition_path(tmp_path, "c", 1)
    file = docs_path(path, newest(path).logs[0].number)
    raw = file.read_bytes()
    file.write_bytes(raw[:40] + bytes([raw[40] ^ 1]) + raw[41:])
    catalog = open_catalog(tmp_path)
    answers = await catalog.add("c", [new(f"e{i}") for i in range(9)])
    answers += await catalog.delete("c", [f"d{i}" for i in range(9)])
    assert {answer.change for answer in answers} == {"created", "deleted", "rejected"}
    for answer in answers:
        spoiled = partition_of(id_digest(answer.id), 2) == 1
        assert (answer.change == "rejected") == spoiled
        assert ("partition 1 of corpus 'c'" in answer.error) == spoiled
    (info,) = await catalog.corpora()
    assert info.damaged == [f"partition-0001/{file.name}"]
    calls = [a.id for a in answers if a.change in ("rejected", "created")]
    for id_, result in zip(
        calls,
        await asyncio.gather(*(catalog.delete("c", [i]) for i in calls), return_exceptions=True),
        strict=True,
    ):
        assert isinstance(result, StorageError) == (partition_of(id_digest(id_), 2) == 1)
    counters, refused = catalog.counters, sum(a.change == "rejected" for a in answers)
    assert counters.rejected == refused
    assert counters.documents + counters.deletes == 18 - refused + sum(
        a.change == "created" for a in answers
    )
    await catalog.close()


async def test_seeding_beside_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rasd.retrieval.store.seed.BATCH_DOCUMENTS", 10)
    (tmp_path / "folder").mkdir()
    for i in range(35):
        (tmp_path / "folder" / f"{i}.txt").write_text("the abc " * (i + 1))
    corpus = CorpusConfig(name="c", source=str(tmp_path / "folder"))
    catalog = open_catalog(tmp_path / "root")
    seen: list[int] = []
    seeding = asyncio.create_task(catalog.seed(corpus, lambda documents, _: seen.append(documents)))
    await until(lambda: bool(seen))
    assert changes(await catalog.add("c", [new("mine")])) == ["created"]
    info = await seeding
    assert seen == [10, 20, 30, 35]
    assert (info.documents, info.memory_tokens) == (36, 0)
    assert texts(tmp_path / "root").keys() == {"mine", *(f"{i}.txt" for i in range(35))}
    assert is_filled(tmp_path / "root", "c")
    (tmp_path / "folder" / "new.txt").write_text("x")
    assert (await catalog.seed(corpus)).documents == 36  # not again
    await catalog.close()
