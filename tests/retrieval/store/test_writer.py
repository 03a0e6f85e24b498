"""The writer: what it answers, what it keeps, what it refuses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from rasd.config import StoreConfig
from rasd.errors import (
    InvalidRequest,
    NotFound,
    Overloaded,
    SegmentCorrupt,
    StorageError,
    StoreLocked,
    Unavailable,
)
from rasd.retrieval.segment import MAX_TOKENS
from rasd.retrieval.store import upkeep, writer
from rasd.retrieval.store.corpora import drop_corpus, partition_path
from rasd.retrieval.store.manifest import PartitionManifest, docs_path, newest, seg_path
from rasd.retrieval.store.records import Delete, Document, Put, id_digest, partition_of
from rasd.retrieval.store.verify import verify
from rasd.retrieval.store.writer import CorpusWriter

from .worlds import VOCABULARY, Submitter, assert_holds, document, live, make_corpus

SMALL = StoreConfig(flush_tokens=50, max_segments=2, grace_s=0)


@pytest.fixture
def submit() -> Submitter:
    return Submitter()


@pytest.fixture
def store(tmp_path: Path, submit: Submitter) -> Iterator[CorpusWriter]:
    make_corpus(tmp_path, partitions=1)
    opened = CorpusWriter(tmp_path, "c", SMALL, submit)
    yield opened
    opened.close()


def put(*ids: str, tokens: int = 10) -> list[Put]:
    return [Put(document(id_, *[i % 7 for i in range(tokens)], text=id_)) for id_ in ids]


def partition(root: Path, number: int = 0) -> Path:
    return partition_path(root, "c", number)


def shape(manifest: PartitionManifest) -> list[tuple[str, int]]:
    return [(entry.kind, entry.documents) for entry in manifest.sources]


def test_says_what_each_operation_came_to(tmp_path: Path, store: CorpusWriter) -> None:
    a, b = document("a", 1, 2), document("b", 3)
    assert store.write([Put(a), Put(b), Delete("c")]) == ["created", "created", "missing"]
    assert store.write([Put(a), Delete("b"), Delete("c")]) == ["unchanged", "deleted", "missing"]
    assert_holds(tmp_path, {"a": a})
    for changed in (document("a", 1), document("a", 1, text=""), document("a", 1, x=1)):
        assert store.write([Put(changed)]) == ["replaced"]
        assert_holds(tmp_path, {"a": changed})
    assert store.write([]) == []


def test_what_changes_nothing_writes_nothing(tmp_path: Path, store: CorpusWriter) -> None:
    store.write(put("a", "b"))
    before = newest(partition(tmp_path))
    assert store.write([*put("b", "a"), Delete("c")]) == ["unchanged", "unchanged", "missing"]
    store.flush()
    flushed = newest(partition(tmp_path))
    assert flushed.version == before.version + 1
    assert store.write([*put("b", "a"), Delete("c")]) == ["unchanged", "unchanged", "missing"]
    assert newest(partition(tmp_path)) == flushed


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ([*put("a", "b"), Delete("a")], "'a' comes twice"),
        (put("a", "a"), "'a' comes twice"),
        ([Put(document("a", VOCABULARY))], r"'a' holds 100000"),
        ([Put(Document("a", np.zeros(0, np.uint32)))], r"'a' has uint32\[0\]"),
        ([Put(Document("a", np.zeros(1, np.int64)))], r"'a' has int64\[1\]"),  # type: ignore[arg-type]
        ([Put(Document("a", np.zeros((1, 1), np.uint32)))], r"'a' has uint32\[1, 1\]"),
    ],
)
def test_refuses_a_group_as_a_whole(
    tmp_path: Path, store: CorpusWriter, operations: list[Put], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        store.write([*put("z"), *operations])
    assert_holds(tmp_path, {})


def test_no_segment_is_larger_than_the_format_allows(
    tmp_path: Path, store: CorpusWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several sources make none of more than a setting, one alone is not larger than a write."""
    with pytest.raises(ValidationError, match="max_segment_tokens"):
        StoreConfig(max_segment_tokens=MAX_TOKENS)
    monkeypatch.setattr(writer, "MAX_TOKENS", 33)
    with pytest.raises(InvalidRequest, match="a group holds at most 33 tokens; got 34"):
        store.write([*put("a", "b"), *put("c", tokens=11), Delete("d")])
    assert_holds(tmp_path, {})
    assert store.write([*put("a", "b", "c"), Delete("d")]) == [*["created"] * 3, "missing"]


def test_documents_go_to_their_partitions(tmp_path: Path, submit: Submitter) -> None:
    make_corpus(tmp_path, partitions=5)
    store = CorpusWriter(tmp_path, "c", StoreConfig(), submit)
    operations = put(*map(str, range(50)))
    assert store.write(operations) == ["created"] * 50
    assert [shape(manifest)[0][0] for manifest in store.manifests] == ["log"] * 5
    assert_holds(tmp_path, {operation.document.id: operation.document for operation in operations})
    store.close()


def test_logs_become_a_segment_when_they_are_large(tmp_path: Path, store: CorpusWriter) -> None:
    for id_ in "abcde":
        store.write(put(id_))
        store.tick()
        manifest = newest(partition(tmp_path))
        assert shape(manifest) == (
            [("segment", 5)] if id_ == "e" else [("log", 1)] * (ord(id_) - 96)
        )
    files = {path.suffix for path in partition(tmp_path).iterdir()}
    assert files == {".json", ".docs", ".seg"}


def test_logs_become_a_segment_when_they_are_many(tmp_path: Path, submit: Submitter) -> None:
    make_corpus(tmp_path, partitions=1)
    store = CorpusWriter(tmp_path, "c", StoreConfig(), submit)
    for i in range(65):
        store.write(put(f"{i}", tokens=1))
        store.tick()
    assert shape(newest(partition(tmp_path))) == [("segment", 65)]
    store.close()


def test_logs_become_a_segment_when_they_are_old(tmp_path: Path, submit: Submitter) -> None:
    make_corpus(tmp_path, partitions=2)
    now = 1000.0
    store = CorpusWriter(tmp_path, "c", StoreConfig(flush_after_s=60), submit, lambda: now)
    assert not store.tick()
    store.write(put("a"))
    assert store.tick()
    now += 59
    store.write(put("b", "c", "d", "e"))
    assert store.tick() and submit.calls == 0
    now += 1
    store.tick()
    partial = [len(manifest.logs) for manifest in store.manifests]
    assert submit.calls == 1 and 0 in partial  # the other partition's are younger
    store.close()
    store = CorpusWriter(tmp_path, "c", StoreConfig(flush_after_s=60), submit, lambda: now)
    assert store.tick()  # of a log of a former writer no more is known than that it is there
    now += 59
    assert store.tick()
    now += 1
    assert not store.tick()
    assert [len(manifest.logs) for manifest in store.manifests] == [0, 0]
    assert sum(len(manifest.segments) for manifest in store.manifests) == 2
    store.close()
    assert len(live(tmp_path)) == 5


def test_segments_are_merged_and_dead_documents_leave_the_disk(
    tmp_path: Path, store: CorpusWriter
) -> None:
    model = {}
    for round_ in range(12):
        operations = put(*(f"{round_}-{i}" for i in range(5)))
        model |= {operation.document.id: operation.document for operation in operations}
        store.write(operations)
        store.tick()
        assert len(newest(partition(tmp_path)).segments) <= 2
    assert_holds(tmp_path, model)
    store.write([Delete(id_) for id_ in model])
    store.flush()
    store.tick()
    manifest = newest(partition(tmp_path))
    assert (manifest.documents, manifest.tokens, manifest.sources) == (0, 0, [])
    assert {path.suffix for path in partition(tmp_path).iterdir()} == {".json"}
    assert len(list(partition(tmp_path).iterdir())) == 3


def test_what_dies_during_a_compaction_stays_dead(
    tmp_path: Path, store: CorpusWriter, submit: Submitter
) -> None:
    submit.hold = True
    store.write(put("a", "b", "c", "d", "e"))
    store.tick()
    store.write([Delete("a"), Put(document("b", 9))])
    store.tick()
    assert submit.calls == 1
    submit.run()
    store.tick()
    manifest = newest(partition(tmp_path))
    assert shape(manifest) == [("log", 1), ("segment", 5)]
    model = {op.document.id: op.document for op in put("c", "d", "e")} | {"b": document("b", 9)}
    assert_holds(tmp_path, model)
    assert store.write([Delete("a"), Put(document("b", 9)), *put("c")]) == [
        "missing",
        "unchanged",
        "unchanged",
    ]


def test_a_lost_compaction_is_tried_again(
    tmp_path: Path,
    store: CorpusWriter,
    submit: Submitter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    monkeypatch.setattr(upkeep.time, "monotonic", lambda: now[0])
    submit.hold = True
    store.write(put("a", "b", "c", "d", "e"))
    pauses = []
    for _ in range(10):
        store.tick()
        calls = submit.calls
        submit.lose(RuntimeError("the process was killed"))
        started = now[0]
        while submit.calls == calls:
            store.tick()
            now[0] += 0.25
        pauses.append(now[0] - started)
    assert pauses[:3] == [0.75, 1.25, 2.25]
    assert max(pauses) == 60.25
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.getMessage() for record in warned] == [
        f"{partition(tmp_path)}: flush failed: the process was killed"
    ]
    submit.run()
    store.tick()
    assert shape(newest(partition(tmp_path))) == [("segment", 5)]


def test_a_flush_goes_on_beside_a_merge(
    tmp_path: Path, store: CorpusWriter, submit: Submitter
) -> None:
    model = {}
    for round_ in range(3):
        submit.hold = round_ == 2
        operations = put(*(f"{round_}-{i}" for i in range(6)))
        model |= {operation.document.id: operation.document for operation in operations}
        store.write(operations)
        store.tick()
    submit.run()
    assert store.tick()  # it is not to be closed now
    assert (submit.waiting, submit.calls) == (1, 4)  # of the three segments
    operations = put("1-1", "new", tokens=60)
    model |= {operation.document.id: operation.document for operation in operations}
    store.write([*operations, Delete("0-0")])
    store.tick()
    assert submit.waiting == 2
    submit.run_one(1)
    store.tick()
    assert shape(store.manifests[0]) == [("segment", 6)] * 3 + [("segment", 2)]
    store.write([Delete("new"), Delete("2-2")])
    submit.run_one()
    store.tick()
    assert shape(store.manifests[0]) == [("segment", 2), ("log", 0), ("segment", 18)]
    for gone in ("0-0", "new", "2-2"):
        del model[gone]
    assert_holds(tmp_path, model)


def test_a_segment_is_rebuilt_or_merged_and_never_both(
    tmp_path: Path, store: CorpusWriter, submit: Submitter
) -> None:
    for round_ in range(3):
        submit.hold = round_ == 2
        store.write(put(*(f"{round_}-{i}" for i in range(6))))
        store.tick()
    (upkeep,) = store._upkeeps
    first, _ = (entry.number for entry in store.manifests[0].segments)
    submit.run()  # the third one's flush: a merge is due when that is seen
    upkeep.rebuild(first)
    store.tick()
    assert (submit.waiting, submit.calls) == (1, 4)  # what is built anew is not merged
    submit.run()
    store.tick()
    assert (submit.waiting, submit.calls) == (1, 5)
    upkeep.rebuild(min(entry.number for entry in store.manifests[0].segments))
    store.tick()
    assert submit.waiting == 1  # what is merged is not built anew, also not later
    submit.run()
    store.tick()
    assert submit.calls == 5 and upkeep.error is None
    assert shape(store.manifests[0]) == [("segment", 18)]


def test_a_merge_that_fails_keeps_no_flush(
    tmp_path: Path, submit: Submitter, caplog: pytest.LogCaptureFixture
) -> None:
    make_corpus(tmp_path, partitions=1)
    failures: list[Exception] = []
    store = CorpusWriter(tmp_path, "c", SMALL, submit, report=failures.append)
    submit.hold = True
    for round_ in range(5):
        store.write(put(*(f"{round_}-{i}" for i in range(6))))
        store.tick()
        submit.run_one()
        store.tick()
        submit.lose(MemoryError("a merge"))
        store.tick()
    assert shape(store.manifests[0]) == [("segment", 6)] * 5
    assert [str(error) for error in failures] == ["a merge"]  # and a pause before the next
    assert [message.partition(": ")[2] for message in caplog.messages] == ["merge failed: a merge"]
    assert store._upkeeps[0].error is failures[0]
    submit.hold = False
    store.flush()
    assert store._upkeeps[0].error is None
    assert shape(store.manifests[0]) == [("segment", 30)]
    store.close()


def test_what_is_larger_than_a_segment_should_be_is_indexed_all_the_same(
    tmp_path: Path, submit: Submitter
) -> None:
    make_corpus(tmp_path, partitions=1)
    settings = SMALL.model_copy(update={"max_segment_tokens": 100})
    store = CorpusWriter(tmp_path, "c", settings, submit)
    model = {}
    for operations in (put("huge", tokens=1000), put("a", "b", "c", tokens=60), put("d", "e")):
        model |= {operation.document.id: operation.document for operation in operations}
        store.write(operations)
    store.flush()
    assert shape(store.manifests[0]) == [("segment", 1), ("segment", 3), ("segment", 2)]
    for i in range(40):
        operations = put(f"{i}", tokens=30)
        model |= {operation.document.id: operation.document for operation in operations}
        store.write(operations)
    store.flush()
    segments = store.manifests[0].segments
    assert 12 <= len(segments) <= 2 + 2 * 2500 // 100
    assert all(one.tokens + one.documents <= 100 for one in segments[3:])
    store.write([Delete("huge")])
    store.flush()
    del model["huge"]
    assert_holds(tmp_path, model)
    assert 1000 not in [one.tokens for one in store.manifests[0].segments]
    store.close()


def test_flush_says_what_went_wrong(store: CorpusWriter, submit: Submitter) -> None:
    store.write(put("a"))

    def refuse(*_: object) -> None:
        raise ValueError("no")

    store._upkeeps[0]._submit = refuse  # type: ignore[assignment]
    with pytest.raises(ValueError, match="no"):
        store.flush()
    store._upkeeps[0]._submit = submit
    store.flush()
    assert shape(store.manifests[0]) == [("segment", 1)]


def test_flush_does_not_chase_what_is_written_meanwhile(
    store: CorpusWriter, submit: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(put("a"))
    real = submit.run

    def run() -> None:
        real()
        store.write(put(f"{submit.calls}"))

    monkeypatch.setattr(submit, "run", run)
    store.flush()
    assert submit.calls == 1
    assert shape(store.manifests[0]) == [("log", 1), ("segment", 1)]


def test_writes_wait_for_compaction_and_are_refused_when_it_does_not_keep_up(
    tmp_path: Path, store: CorpusWriter, submit: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "WAIT_S", 0.05)
    submit.hold = True
    store.write(put("a", tokens=150))
    store.write(put("b", tokens=60))
    with pytest.raises(Overloaded, match="at most 200 tokens may wait for indexing; got 210"):
        store.write(put("c"))
    assert [manifest.documents for manifest in store.manifests] == [2]
    submit.run()
    assert store.write(put("c")) == ["created"]
    monkeypatch.setattr(upkeep, "MAX_WAITING_LOGS", 2)
    store.write(put("d"))
    with pytest.raises(Overloaded, match="at most 2 logs may wait for indexing; got 3"):
        store.write(put("e"))


def test_compactions_run_beside_writes(tmp_path: Path) -> None:
    make_corpus(tmp_path, partitions=3)
    model: dict[str, Document] = {}
    with ThreadPoolExecutor(2) as pool:
        store = CorpusWriter(tmp_path, "c", SMALL, pool.submit)
        for i in range(60):
            operations = put(f"{i % 40}", f"{i}-x", tokens=5 + i)
            store.write(operations)
            model |= {operation.document.id: operation.document for operation in operations}
        store.flush()
        assert all(len(m.segments) <= 2 and not m.logs for m in store.manifests)
        store.close()
    assert_holds(tmp_path, model)


def test_reopens_as_it_was(tmp_path: Path, submit: Submitter) -> None:
    make_corpus(tmp_path)
    first = CorpusWriter(tmp_path, "c", SMALL, submit)
    first.write(put("a", "b", "c"))
    first.flush()
    first.write([*put("d"), Delete("a")])
    first.close()
    first.close()
    for act in (lambda: first.write(put("x")), first.tick, first.flush):
        with pytest.raises(Unavailable, match="closed"):
            act()
    second = CorpusWriter(tmp_path, "c", SMALL, submit)
    assert second.write([*put("a", "b", "d"), Delete("x")]) == [
        "created",
        "unchanged",
        "unchanged",
        "missing",
    ]
    second.close()
    assert_holds(tmp_path, {op.document.id: op.document for op in put("a", "b", "c", "d")})


def test_only_one_writes(tmp_path: Path, store: CorpusWriter, submit: Submitter) -> None:
    with pytest.raises(StoreLocked, match=f"held by pid {os.getpid()} on"):
        CorpusWriter(tmp_path, "c", SMALL, submit)
    with pytest.raises(StoreLocked):
        drop_corpus(tmp_path, "c")
    with pytest.raises(NotFound):
        CorpusWriter(tmp_path, "d", SMALL, submit)
    store.close()
    CorpusWriter(tmp_path, "c", SMALL, submit).close()


@pytest.mark.parametrize("commits", [0, 1, 9])
def test_a_writer_whose_lock_was_stolen_is_fenced(
    tmp_path: Path, store: CorpusWriter, submit: Submitter, commits: int
) -> None:
    store.write(put("a"))
    (tmp_path / "c" / "writer.lock").unlink()
    thief = CorpusWriter(tmp_path, "c", SMALL, submit)
    for i in range(commits):
        thief.write(put(f"thief-{i}"))
        thief.flush()
        thief.tick()  # collects the manifests in between
    thief.write(put("thief"))
    before = {path: path.read_bytes() for path in partition(tmp_path).iterdir()}
    with pytest.raises(StoreLocked, match="another writer has taken over"):
        store.write([*put("b"), Delete("a")])
    for act in (lambda: store.write(put("b")), store.flush):
        with pytest.raises(StoreLocked, match="another writer has taken over"):
            act()
    after = {path: path.read_bytes() for path in partition(tmp_path).iterdir()}
    assert before.items() <= after.items()
    store.close()
    ids = ["a", "thief", *(f"thief-{i}" for i in range(commits))]
    assert_holds(tmp_path, {op.document.id: op.document for op in put(*ids)})
    thief.tick()
    assert verify(tmp_path).leftovers == []
    thief.close()


def test_a_fenced_writer_removes_nothing(
    tmp_path: Path, store: CorpusWriter, submit: Submitter
) -> None:
    store.write(put("a"))
    (tmp_path / "c" / "writer.lock").unlink()
    thief = CorpusWriter(tmp_path, "c", SMALL, submit)
    thief.write(put("thief"))
    with pytest.raises(StoreLocked):
        store.tick()
    thief.close()
    assert_holds(tmp_path, {op.document.id: op.document for op in put("a", "thief")})


def test_files_stay_for_a_while(
    tmp_path: Path, submit: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(upkeep.time, "monotonic", lambda: now[0])
    make_corpus(tmp_path, partitions=1)
    foreign = [partition(tmp_path) / name for name in ("mine.txt", "source-x.docs", ".hidden")]
    leftover = [
        partition(tmp_path) / name
        for name in ("source-000077.docs", ".source-000078.seg.ab.tmp", "source-000001.dead-000099")
    ]
    for path in (*foreign, *leftover):
        path.write_text("?")
    store = CorpusWriter(tmp_path, "c", SMALL.model_copy(update={"grace_s": 40}), submit)
    store.write(put("a"))
    assert store.manifests[0].sources[0].number == 100
    store.tick()
    log = docs_path(partition(tmp_path), 100)
    now[0] = 39
    store.flush()
    assert set(leftover) == set(verify(tmp_path).leftovers) - {*foreign, log}
    assert log.exists()
    now[0] = 49
    store.tick()
    assert set(verify(tmp_path).leftovers) == {*foreign, log}
    now[0] = 99
    store.tick()
    assert set(verify(tmp_path).leftovers) == {*foreign}
    store.close()


def test_of_two_manifests_the_older_one_goes_first(
    store: CorpusWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[str] = []
    monkeypatch.setattr(Path, "unlink", lambda path, **_: gone.append(path.name))
    for i in range(20):
        store.write(put(f"{i}", tokens=1))
    store.tick()
    manifests = [name for name in gone if name.startswith("manifest")]
    assert len(manifests) > 15
    assert manifests == sorted(manifests)


def test_a_damaged_segment_is_built_anew(tmp_path: Path, store: CorpusWriter) -> None:
    operations = put("a", "b", "c")
    store.write(operations)
    store.flush()
    store.write([Delete("a")])
    number = store.manifests[0].segments[0].number
    file = seg_path(partition(tmp_path), number)
    file.write_bytes(file.read_bytes()[:-1])
    assert [damage.path for damage in verify(tmp_path).damaged] == [file]
    store.rebuild(0, number)
    store.rebuild(0, number)
    assert_holds(tmp_path, {op.document.id: op.document for op in operations[1:]})
    with pytest.raises(InvalidRequest, match="1 partitions; got 1"):
        store.rebuild(1, number)


def damage_block(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[80] ^= 1
    path.write_bytes(raw)


def test_damaged_documents_are_named_and_left_out(
    tmp_path: Path, store: CorpusWriter, caplog: pytest.LogCaptureFixture
) -> None:
    store.write(put("a", "b"))
    store.flush()
    number = store.manifests[0].segments[0].number
    damage_block(docs_path(partition(tmp_path), number))
    with pytest.raises(SegmentCorrupt, match=f"source-00000{number}.docs: block 0: checksum"):
        store.rebuild(0, number)
    for i in range(10):
        store.write([*put(f"{i}", tokens=50), Delete("a")])
        store.tick()
    store.flush()
    assert (
        f"source-00000{number}.docs" in store.damaged[f"partition-0000/source-00000{number}.docs"]
    )
    assert sum("documents are damaged" in message for message in caplog.messages) == 1
    assert len(store.manifests[0].segments) <= 1 + SMALL.max_segments
    assert [d.path.name for d in verify(tmp_path).damaged] == [f"source-00000{number}.docs"]
    assert store.write([*put("b", "5"), Delete("a")]) == ["unchanged", "replaced", "missing"]


def test_a_partition_whose_tables_are_damaged_takes_no_writes(
    tmp_path: Path, submit: Submitter
) -> None:
    make_corpus(tmp_path, partitions=1)
    store = CorpusWriter(tmp_path, "c", SMALL, submit)
    store.write(put("a"))
    store.close()
    path = docs_path(partition(tmp_path), store.manifests[0].logs[0].number)
    path.write_bytes(path.read_bytes()[:-1])
    store = CorpusWriter(tmp_path, "c", SMALL, submit)
    with pytest.raises(StorageError, match=f"damaged, nothing can be written: {path}: length"):
        store.write(put("b"))
    path.unlink()
    with pytest.raises(StorageError, match=f"{path}: is missing"):
        store.write(put("b"))
    assert list(store.damaged) == [f"partition-0000/{path.name}"]
    store.tick()
    store.close()


def test_a_damaged_partition_leaves_the_others_to_be_written(
    tmp_path: Path, submit: Submitter
) -> None:
    make_corpus(tmp_path, partitions=2)
    store = CorpusWriter(tmp_path, "c", SMALL, submit)
    store.write(put("a", "b", "c", "d"))
    number = store.manifests[1].logs[0].number
    store.close()
    ids = [f"{i}" for i in range(20)]
    bad = {id_ for id_ in ids if partition_of(id_digest(id_), 2) == 1}
    path = docs_path(partition(tmp_path, 1), number)
    raw = path.read_bytes()
    path.write_bytes(raw[:40] + bytes([raw[40] ^ 1]) + raw[41:])  # in the header
    store = CorpusWriter(tmp_path, "c", SMALL, submit)
    wanted = ["rejected" if id_ in bad else "created" for id_ in ids]
    assert store.write(put(*ids)) == wanted and set(wanted) == {"rejected", "created"}
    assert list(store.damaged) == [f"partition-0001/{path.name}"]
    with pytest.raises(StorageError, match="damaged, nothing can be written"):
        store.write(put(min(bad)))
    path.write_bytes(raw)
    assert store.write(put(*ids)) == ["created" if id_ in bad else "unchanged" for id_ in ids]
    assert store.damaged == {}
    store.close()
