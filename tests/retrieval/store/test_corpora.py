"""Corpora appear whole and go whole; nothing leaves the root."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from rasd.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    SegmentCorrupt,
    SegmentVersionError,
    StorageError,
    StoreLocked,
)
from rasd.retrieval.store import corpora
from rasd.retrieval.store.corpora import (
    CorpusSpec,
    create_corpus,
    drop_corpus,
    list_corpora,
    partition_path,
    read_spec,
)
from rasd.retrieval.store.lock import WriterLock
from rasd.retrieval.store.manifest import newest


def make(root: Path, name: str = "c", **changes: object) -> CorpusSpec:
    settings = {"partitions": 3, "vocabulary": 500, "tokenizer_hash": "t"} | changes
    return create_corpus(root, name, **settings)  # type: ignore[arg-type]


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_makes_it_once(tmp_path: Path) -> None:
    root = tmp_path / "not" / "yet"
    assert list_corpora(root) == []
    spec = make(root)
    assert read_spec(root, "c") == spec == make(root)
    assert (spec.name, spec.partitions, spec.vocabulary) == ("c", 3, 500)
    make(root, "b")
    assert list_corpora(root) == ["b", "c"]
    assert len(tree(root / "c")) == 7
    for partition in range(3):
        manifest = newest(partition_path(root, "c", partition))
        assert (manifest.version, manifest.partition, manifest.sources) == (1, partition, [])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"partitions": 4}, "partitions 3; asked for 4"),
        ({"vocabulary": 501}, "vocabulary 500; asked for 501"),
        (
            {"partitions": 4, "tokenizer_hash": "u"},
            "partitions 3; asked for 4, and with tokenizer_hash t; asked for u",
        ),
    ],
)
def test_another_one_of_that_name_is_refused(
    tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    make(tmp_path)
    with pytest.raises(Conflict, match=f"^corpus 'c' exists with {told}$"):
        make(tmp_path, **changes)


@pytest.mark.parametrize("name", ["", ".", "..", "../c", "a/b", "/tmp", ".x", "a" * 65, "a\0", "ä"])
def test_no_name_leaves_the_root(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for act in (make, drop_corpus, read_spec):
        with pytest.raises(InvalidRequest, match="corpus name"):
            act(root, name)
    assert tree(tmp_path) == {"root"}


@pytest.mark.parametrize(
    "changes",
    [
        {"partitions": 0},
        {"partitions": 1025},
        {"vocabulary": 0},
        {"vocabulary": 2**31},
        {"tokenizer_hash": ""},
        {"tokenizer_hash": "ä"},
        {"tokenizer_hash": "x" * 65},
    ],
)
def test_refuses_wrong_numbers(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(changes))):
        make(tmp_path, **changes)
    assert not tree(tmp_path)


def test_drops_all_of_it(tmp_path: Path) -> None:
    make(tmp_path)
    make(tmp_path, "d")
    drop_corpus(tmp_path, "c")
    assert list_corpora(tmp_path) == ["d"]
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    for act in (read_spec, drop_corpus):
        with pytest.raises(NotFound, match="no corpus 'c'"):
            act(tmp_path, "c")
    with pytest.raises(NotFound, match="no partition"):
        newest(partition_path(tmp_path, "c", 0))
    make(tmp_path, partitions=9)


def test_what_is_being_written_to_is_not_dropped(tmp_path: Path) -> None:
    make(tmp_path)
    lock = WriterLock(tmp_path / "c" / "writer.lock")
    with pytest.raises(StoreLocked, match=f"writer.lock is held by pid {os.getpid()} on "):
        drop_corpus(tmp_path, "c")
    lock.release()
    drop_corpus(tmp_path, "c")


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".c.0123abcd.dropped").mkdir()
    old, young = tmp_path / ".c.00000001.new", tmp_path / ".c.00000002.new"
    foreign = {
        ".x.dropped",
        ".c.1.dropped",
        ".c d.00000001.dropped",
        ".cache.new",
        ".c.0000000g.new",
    }
    for path in (old, young, *(tmp_path / name for name in foreign)):
        path.mkdir()
        if path != young:
            os.utime(path, (0, 0))
    make(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"c", young.name, *foreign}


def test_one_of_the_old_layout_is_refused_and_can_be_dropped(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "manifest.json").write_text('{"format": 1}')
    for act in (make, read_spec):
        with pytest.raises(SegmentVersionError, match="older version"):
            act(tmp_path, "c")
    assert list_corpora(tmp_path) == []
    drop_corpus(tmp_path, "c")
    make(tmp_path)


def test_other_things_in_the_root_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("mine")
    with pytest.raises(Conflict, match="in the way"):
        make(tmp_path)
    (tmp_path / "d").write_text("a file")
    with pytest.raises(NotFound):
        read_spec(tmp_path, "d")
    with pytest.raises(StorageError, match="d: "):
        make(tmp_path, "d")
    assert tree(tmp_path) == {"c", "c/mine.txt", "d"}


def test_damage_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "c" / "corpus.json"
    good = path.read_bytes()
    for at in range(len(good) - 1):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(SegmentCorrupt, match=str(path)):
            read_spec(tmp_path, "c")
    path.write_bytes(good)
    (tmp_path / "c").rename(tmp_path / "d")
    with pytest.raises(SegmentCorrupt, match="name must be 'd'; got 'c'"):
        read_spec(tmp_path, "d")


def test_several_may_make_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(4)
    real = corpora._make

    def together(root: Path, spec: CorpusSpec) -> None:
        barrier.wait(30)
        real(root, spec)

    monkeypatch.setattr(corpora, "_make", together)
    made: list[CorpusSpec] = []
    threads = [threading.Thread(target=lambda: made.append(make(tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert made == [read_spec(tmp_path, "c")] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
