"""Dead documents: those of the file and those of later logs; what cannot be is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rasd.errors import SegmentCorrupt
from rasd.retrieval.store.dead import dead_of, read_dead, write_dead
from rasd.retrieval.store.documents import open_documents
from rasd.retrieval.store.manifest import PartitionManifest, SourceEntry, dead_path, docs_path
from rasd.retrieval.store.pack import write_documents
from rasd.retrieval.store.sealed import FORMAT


def world(path: Path, pairs: list[tuple[int, int]], dead: list[int]) -> PartitionManifest:
    """A segment 1 of 9 documents, and a log 2 of deletes."""
    checksum = write_dead(dead_path(path, 1, 3), np.asarray(dead, np.int64))
    info = write_documents(docs_path(path, 2), [], pairs, vocabulary=9)
    segment = SourceEntry(1, "segment", 9, 9, 0, 0, dead=3, dead_checksum=checksum)
    log = SourceEntry(2, "log", 0, 0, info.bytes, info.checksum)
    return PartitionManifest(FORMAT, 0, 1, 1, "", 4, 9, 9, 0.0, [segment, log])


def read(path: Path, manifest: PartitionManifest) -> dict[int, list[int]]:
    logs = {entry.number: open_documents(docs_path(path, entry.number)) for entry in manifest.logs}
    return {number: dead.tolist() for number, dead in dead_of(path, manifest, logs).items()}


def test_both_count(tmp_path: Path) -> None:
    manifest = world(tmp_path, [(1, 8), (1, 2), (77, 5)], [0, 2])
    assert read(tmp_path, manifest) == {1: [0, 2, 8], 2: []}


@pytest.mark.parametrize(("pairs", "dead"), [([(1, 9)], []), ([(1, -1)], []), ([], [9])])
def test_a_document_that_never_was_is_refused(
    tmp_path: Path, pairs: list[tuple[int, int]], dead: list[int]
) -> None:
    with pytest.raises(SegmentCorrupt, match=r"source 1 must be in \[0, 9\)"):
        read(tmp_path, world(tmp_path, pairs, dead))


def test_damage_is_named(tmp_path: Path) -> None:
    manifest = world(tmp_path, [], [1, 2, 3])
    entry = manifest.sources[0]
    path = dead_path(tmp_path, 1, 3)
    assert read_dead(tmp_path, entry).tolist() == [1, 2, 3]
    good = path.read_bytes()
    for at in range(len(good)):
        for bad in (good[:at], good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :]):
            path.write_bytes(bad)
            with pytest.raises(SegmentCorrupt, match=str(path)):
                read_dead(tmp_path, entry)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_dead(tmp_path, entry)
