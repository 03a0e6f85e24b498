"""Compaction: the live documents of its inputs, and no others, as one segment."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from rasd.errors import StorageError
from rasd.retrieval.segment import SEPARATOR, open_segment
from rasd.retrieval.store import compact as module
from rasd.retrieval.store import pack
from rasd.retrieval.store.compact import Job, Outcome, compact
from rasd.retrieval.store.documents import open_documents
from rasd.retrieval.store.manifest import docs_path, seg_path
from rasd.retrieval.store.pack import write_documents
from rasd.retrieval.store.records import Document, content_digest, id_digest

from .worlds import document, random_document, same


def job(path: Path, inputs: dict[int, list[int]], vocabulary: int) -> Job:
    dead = {number: np.asarray(ordinals, np.int64) for number, ordinals in inputs.items()}
    return Job(path, dead, 9, vocabulary, "t")


def check(path: Path, outcome: Outcome, wanted: list[Document], vocabulary: int) -> None:
    documents = open_documents(docs_path(path, 9))
    segment = open_segment(seg_path(path, 9), vocabulary=vocabulary, tokenizer_hash="t")
    assert all(same(*pair) for pair in zip(documents, wanted, strict=True))
    assert segment.tokens.tolist() == [
        token for document in wanted for token in (*document.tokens.tolist(), SEPARATOR)
    ]
    for ordinal, document_ in enumerate(wanted):
        assert documents.find(id_digest(document_.id)) == ordinal
        assert documents.content(ordinal) == content_digest(document_)
    assert outcome == Outcome(
        len(wanted),
        sum(len(document.tokens) for document in wanted),
        docs_path(path, 9).stat().st_size + seg_path(path, 9).stat().st_size,
        documents.header.header_crc,
        segment.header.header_crc,
    )


@pytest.mark.parametrize("vocabulary", [9, 70_000])
@pytest.mark.parametrize("share", [0, 0.02, 0.5])
def test_keeps_what_is_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, share: float, vocabulary: int
) -> None:
    monkeypatch.setattr(pack, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(module, "COPIED_BYTES", 1000)
    rng = np.random.default_rng(seed)
    inputs, wanted = {}, []
    for number in (4, 2, 7):
        documents = [
            random_document(rng, f"{number}-{i}", longest=300, vocabulary=vocabulary)
            for i in range(rng.integers(0, 60))
        ]
        write_documents(docs_path(tmp_path, number), documents, vocabulary=vocabulary)
        dead = np.flatnonzero(rng.random(len(documents)) < share).tolist()
        inputs[number] = dead
        wanted += [document for i, document in enumerate(documents) if i not in dead]
    wanted.append(document("last", 1))
    write_documents(docs_path(tmp_path, 8), wanted[-1:], vocabulary=vocabulary)
    task = job(tmp_path, {**inputs, 8: []}, vocabulary)
    outcome = compact(pickle.loads(pickle.dumps(task)))
    check(tmp_path, outcome, wanted, vocabulary)


def test_small_blocks_are_packed_together(tmp_path: Path) -> None:
    for number in range(1, 9):
        write_documents(docs_path(tmp_path, number), [document(f"{number}")], vocabulary=9)
    compact(job(tmp_path, {number: [] for number in range(1, 9)}, 9))
    assert len(open_documents(docs_path(tmp_path, 9)).table) == 1


def test_nothing_live_makes_no_files(tmp_path: Path) -> None:
    write_documents(docs_path(tmp_path, 1), [document("a"), document("b")], vocabulary=9)
    write_documents(docs_path(tmp_path, 2), [], [(1, 0)], vocabulary=9)
    assert compact(job(tmp_path, {1: [0, 1], 2: []}, 9)) == Outcome()
    assert len(list(tmp_path.iterdir())) == 2


def test_names_a_damaged_input(tmp_path: Path) -> None:
    for number in (1, 2):
        write_documents(docs_path(tmp_path, number), [document(f"{number}")], vocabulary=9)
    file = docs_path(tmp_path, 2)
    good = file.read_bytes()
    for at in (0, 75, len(good) - 1):
        file.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        outcome = compact(job(tmp_path, {1: [], 2: []}, 9))
        assert (outcome.damaged, outcome.documents) == (2, 0)
        assert str(file) in outcome.reason
    file.write_bytes(good)
    assert compact(job(tmp_path, {1: [], 2: []}, 10)).damaged == 1
    file.unlink()
    assert compact(job(tmp_path, {1: [], 2: []}, 9)).damaged == 2
    assert [path.name for path in tmp_path.iterdir()] == ["source-000001.docs"]


def test_a_number_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    write_documents(docs_path(tmp_path, 1), [document("a")], vocabulary=9)
    docs_path(tmp_path, 9).write_text("mine")
    assert compact(job(tmp_path, {1: []}, 9)) == Outcome(taken=True)
    assert docs_path(tmp_path, 9).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_documents(docs_path(tmp_path, 1), [document("a")], vocabulary=9)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_segment", refuse)
    with pytest.raises(StorageError, match=r"source-000009\.docs: No space left"):
        compact(job(tmp_path, {1: []}, 9))
    assert len(list(tmp_path.iterdir())) == 1
