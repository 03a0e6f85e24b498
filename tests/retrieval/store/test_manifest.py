"""Manifests: the newest counts, one writer wins, damage is named."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import msgspec
import pytest

from rasd.errors import NotFound, SegmentCorrupt, SegmentVersionError, StorageError, StoreLocked
from rasd.retrieval.store import manifest as module
from rasd.retrieval.store.manifest import (
    PartitionManifest,
    SourceEntry,
    commit,
    manifest_path,
    newest,
    newest_version,
)
from rasd.retrieval.store.sealed import FORMAT, seal


def manifest(version: int, **changes: object) -> PartitionManifest:
    entry = SourceEntry(17, "log", documents=2, tokens=9, bytes=99, docs_checksum=5)
    fields = {
        "format": FORMAT,
        "partition": 3,
        "version": version,
        "epoch": 1,
        "writer": "w",
        "next_source": 18,
        "documents": 2,
        "tokens": 9,
        "written": 1.5,
        "sources": [entry],
    }
    return PartitionManifest(**(fields | changes))  # type: ignore[arg-type]


def test_the_newest_counts(tmp_path: Path) -> None:
    for version in (1, 2, 3, 10):
        commit(tmp_path, manifest(version))
        assert newest(tmp_path) == manifest(version)
        assert newest_version(tmp_path) == version
    assert {path.name for path in tmp_path.iterdir()} == {
        f"manifest-{version:012d}.json" for version in (1, 2, 3, 10)
    }


def test_a_taken_number_fences(tmp_path: Path) -> None:
    commit(tmp_path, manifest(1))
    commit(tmp_path, manifest(2, writer="other"))
    with pytest.raises(StoreLocked, match="another writer has taken over"):
        commit(tmp_path, manifest(2))
    assert newest(tmp_path).writer == "other"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_number_that_was_collected_fences_too(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        commit(tmp_path, manifest(version, writer="other"))
    for version in (1, 2):
        manifest_path(tmp_path, version).unlink()
    with pytest.raises(StoreLocked, match="behind version 3"):
        commit(tmp_path, manifest(2))
    assert newest(tmp_path).writer == "other"


def test_of_writers_at_the_same_time_one_wins(tmp_path: Path) -> None:
    commit(tmp_path, manifest(1))
    barrier = threading.Barrier(4)
    won: list[str] = []

    def run(writer: str) -> None:
        for version in range(2, 22):
            barrier.wait(30)
            try:
                commit(tmp_path, manifest(version, writer=writer))
                won.append(f"{version} {writer}")
            except StoreLocked:
                pass
            barrier.wait(30)
            assert newest(tmp_path).version == version

    threads = [threading.Thread(target=run, args=(str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [int(line.split()[0]) for line in won] == list(range(2, 22))
    assert f"21 {newest(tmp_path).writer}" == won[-1]


def test_a_reader_survives_what_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(tmp_path, manifest(1))
    real, calls = os.listdir, []

    def listdir(path: Path) -> list[str]:
        names = real(path)
        if not calls:  # behind its back
            commit_again()
        calls.append(1)
        return names

    def commit_again() -> None:
        monkeypatch.setattr(module.os, "listdir", real)
        commit(tmp_path, manifest(2))
        manifest_path(tmp_path, 1).unlink()
        monkeypatch.setattr(module.os, "listdir", listdir)

    monkeypatch.setattr(module.os, "listdir", listdir)
    assert newest(tmp_path).version == 2
    assert len(calls) == 2


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    commit(tmp_path, manifest(1))
    commit(tmp_path, manifest(2))
    path = manifest_path(tmp_path, 2)
    good = path.read_bytes()
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :])
        with pytest.raises(SegmentCorrupt, match=str(path)):
            newest(tmp_path)
        path.write_bytes(good[:at])
        with pytest.raises(SegmentCorrupt, match=str(path)):
            newest(tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"format": FORMAT + 1}, SegmentVersionError, "format must be at most"),
        ({"version": 3}, SegmentCorrupt, "version must be 2; got 3"),
        ({"version": 0}, SegmentCorrupt, "version"),
        ({"next_source": 17}, SegmentCorrupt, "below 17"),
        ({"sources": manifest(1).sources * 2}, SegmentCorrupt, "distinct"),
        ({"tokens": -1}, SegmentCorrupt, "tokens"),
        ({"sources": [{"number": 1}]}, SegmentCorrupt, "kind"),
        ({"more": 1}, SegmentCorrupt, "more"),
    ],
)
def test_forged_manifests_are_refused(
    tmp_path: Path, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    fields = msgspec.to_builtins(manifest(2)) | changes
    forged = msgspec.defstruct("Forged", list(fields))(**fields)
    manifest_path(tmp_path, 2).write_bytes(seal(forged))
    with pytest.raises(error, match=message):
        newest(tmp_path)


def test_what_is_no_partition_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no partition"):
        newest(tmp_path / "absent")
    with pytest.raises(SegmentCorrupt, match="has no manifest"):
        newest(tmp_path)
    manifest_path(tmp_path, 1).mkdir()
    with pytest.raises(SegmentCorrupt, match="cannot be read"):
        newest(tmp_path)


@pytest.mark.parametrize("step", ["open", "fsync", "link"])
def test_a_refused_commit_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    commit(tmp_path, manifest(1))

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if step == "open":
            patch.setattr(Path, "open", refuse)
        else:
            patch.setattr(os, step, refuse)
        with pytest.raises(StorageError, match=r"manifest-000000000002\.json: No space left"):
            commit(tmp_path, manifest(2))
    assert [path.name for path in tmp_path.iterdir()] == ["manifest-000000000001.json"]
    commit(tmp_path, manifest(2))
