"""Corpora of the configuration are filled once, whatever interrupts it."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import Future
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from rasd.config import CorpusConfig, DatastoreConfig, StoreConfig
from rasd.errors import (
    ConfigError,
    Overloaded,
    SegmentVersionError,
    StorageError,
    StoreLocked,
    TokenizerMismatch,
)
from rasd.retrieval.store import seed
from rasd.retrieval.store.corpora import corpus_path, create_corpus, partition_path, read_spec
from rasd.retrieval.store.documents import open_documents
from rasd.retrieval.store.intake import Intake
from rasd.retrieval.store.manifest import docs_path, newest
from rasd.retrieval.store.prepare import MARKER, is_filled
from rasd.retrieval.store.records import Delete, Put
from rasd.retrieval.store.seed import ensure_seeded
from rasd.retrieval.store.writer import CorpusWriter
from tests.tokenizers import byte_tokenizer, metaspace_tokenizer

INTAKE = Intake(byte_tokenizer(), max_document_bytes=1000)
SETTINGS = DatastoreConfig(partitions=2, store=StoreConfig(flush_tokens=500, grace_s=0))


def inline(call: Any, *values: Any) -> Future[Any]:
    future: Future[Any] = Future()
    try:
        future.set_result(call(*values))
    except Exception as error:
        future.set_exception(error)
    return future


def source_of(place: Path, documents: dict[str, str]) -> CorpusConfig:
    path = place / "source.jsonl"
    path.write_text(
        "\n".join(json.dumps({"id": id_, "text": text}) for id_, text in documents.items())
    )
    return CorpusConfig(name="notes", source=str(path))


def held(root: Path, name: str = "notes") -> dict[str, str | None]:
    """What a corpus holds, from its files. All of it must be in segments."""
    found = {}
    for partition in range(read_spec(root, name).partitions):
        path = partition_path(root, name, partition)
        manifest = newest(path)
        assert not manifest.logs
        documents = [
            document
            for entry in manifest.sources
            for document in open_documents(docs_path(path, entry.number))
        ]
        assert len(documents) == manifest.documents
        found |= {document.id: document.text for document in documents}
    return found


TEXTS = {f"d{i}": "the abc " * (i + 1) for i in range(30)}


def test_a_corpus_is_filled_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    corpus = source_of(tmp_path, TEXTS)
    seen: list[tuple[int, int]] = []
    assert not is_filled(root, "notes")
    ensure_seeded(root, corpus, INTAKE, SETTINGS, progress=lambda *numbers: seen.append(numbers))
    assert held(root) == TEXTS
    assert seen[-1] == (30, sum(len(byte_tokenizer()(t).input_ids) - 1 for t in TEXTS.values()))
    assert json.loads((root / "notes" / MARKER).read_text()) == {
        "source": corpus.source,
        "finished": True,
    }
    before = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    os.unlink(corpus.source)  # no longer needed
    ensure_seeded(root, corpus, INTAKE, SETTINGS)
    assert sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*")) == before


def test_batches_are_bounded_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seed, "BATCH_BYTES", 300)
    monkeypatch.setattr(seed, "BATCH_DOCUMENTS", 4)
    corpus = source_of(tmp_path, TEXTS)
    sizes: list[int] = []
    ensure_seeded(
        tmp_path, corpus, INTAKE, SETTINGS, progress=lambda documents, _: sizes.append(documents)
    )
    assert held(tmp_path) == TEXTS
    steps = [b - a for a, b in zip([0, *sizes], sizes, strict=False)]
    assert max(steps) == 4 and min(steps) == 1


def test_what_is_no_document_is_logged_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [
        '{"id": "a", "text": "first"}',
        "{",
        '{"id": "b\\u0000", "text": "x"}',
        '{"id": "c", "text": ""}',
        f'{{"id": "d", "text": "{"x" * 1001}"}}',
        '{"id": "e", "tokens": [268]}',
        '{"id": "a", "text": "second"}',
        '{"id": "f", "tokens": [5, 6], "metadata": {"k": 1}}',
    ]
    path = tmp_path / "source.jsonl"
    path.write_text("\n".join(lines))
    with caplog.at_level(logging.WARNING):
        ensure_seeded(tmp_path, CorpusConfig(name="notes", source=str(path)), INTAKE, SETTINGS)
    assert held(tmp_path) == {"a": "second", "f": None}
    reasons = ["line 2: ", "'b\\x00'", "got 0", "1001 characters", "got 268", "a later one has"]
    assert len(caplog.records) == len(reasons)
    for record, reason in zip(sorted(caplog.messages), sorted(reasons), strict=True):
        assert any(one in record for one in reasons), reason


def test_the_log_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = source_of(tmp_path, {"good": "x"} | {f"{i}": "" for i in range(500)})
    with caplog.at_level(logging.INFO, logger="rasd"):
        ensure_seeded(tmp_path, corpus, INTAKE, SETTINGS)
    assert len([one for one in caplog.messages if "left out" in one]) == 20
    assert "1 documents, 1 tokens; 500 rejected" in caplog.text


def test_a_source_that_gives_nothing_is_an_error(tmp_path: Path) -> None:
    corpus = source_of(tmp_path, {"a": "", "b": ""})
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"gave no document; 2 were rejected.*'a': text must"):
            ensure_seeded(tmp_path, corpus, INTAKE, SETTINGS)
    corpus = CorpusConfig(name="other", source="nowhere")
    with pytest.raises(ConfigError, match="got 'nowhere'"):
        ensure_seeded(tmp_path, corpus, INTAKE, SETTINGS)
    assert not (tmp_path / "other").exists()


def test_a_corpus_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    made_with = {"vocabulary": INTAKE.vocabulary, "tokenizer_hash": INTAKE.tokenizer_hash}
    create_corpus(tmp_path, "notes", partitions=3, **made_with)  # type: ignore[arg-type]
    assert not is_filled(tmp_path, "notes")
    (mine,) = INTAKE.tokenise([seed.NewDocument("mine", "the abc")])
    with closing(CorpusWriter(tmp_path, "notes", SETTINGS.store, inline)) as writer:
        writer.write([Put(mine)])  # type: ignore[arg-type]
        writer.flush()
    assert is_filled(tmp_path, "notes")
    ensure_seeded(tmp_path, source_of(tmp_path, TEXTS), INTAKE, SETTINGS)
    assert held(tmp_path) == {"mine": "the abc"}
    with closing(CorpusWriter(tmp_path, "notes", SETTINGS.store, inline)) as writer:
        writer.write([Delete("mine")])
    ensure_seeded(tmp_path, source_of(tmp_path, TEXTS), INTAKE, SETTINGS)
    assert held(tmp_path) == TEXTS
    assert read_spec(tmp_path, "notes").partitions == 3


def test_a_corpus_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    made_with: dict[str, Any] = {"vocabulary": 9, "tokenizer_hash": "x"}
    create_corpus(tmp_path, "notes", partitions=3, **made_with)
    with pytest.raises(TokenizerMismatch, match=r"'notes'.*got \('x', 9\)"):
        ensure_seeded(tmp_path, source_of(tmp_path, TEXTS), INTAKE, SETTINGS)
    assert (
        Intake(metaspace_tokenizer(), max_document_bytes=1).tokenizer_hash != INTAKE.tokenizer_hash
    )


def test_one_of_the_old_layout_is_made_anew(tmp_path: Path) -> None:
    old = corpus_path(tmp_path, "notes")
    (old / "partition-0000").mkdir(parents=True)
    (old / "manifest.json").write_text("{}")
    (old / "partition-0000" / "segment-000001.seg").write_text("old")
    ensure_seeded(tmp_path, source_of(tmp_path, TEXTS), INTAKE, SETTINGS)
    assert held(tmp_path) == TEXTS
    assert not (old / "manifest.json").exists()


def test_one_of_a_newer_version_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rasd.retrieval.store import corpora

    corpus = source_of(tmp_path, TEXTS)
    with monkeypatch.context() as patch, suppress(SegmentVersionError):
        patch.setattr(corpora, "FORMAT", 99)
        seed.prepare(tmp_path, "notes", INTAKE, 1)
    with pytest.raises(SegmentVersionError, match="got 99"):
        ensure_seeded(tmp_path, corpus, INTAKE, SETTINGS)
    assert (tmp_path / "notes" / "corpus.json").exists()


# --- interruptions --------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("moment", ["after the corpus", "between batches", "before the end"])
def test_what_was_interrupted_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr(seed, "BATCH_DOCUMENTS", 7)
    corpus = source_of(tmp_path, TEXTS)

    def interrupt(*_: Any, **__: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        if moment == "after the corpus":
            patch.setattr(seed.Seeding, "begin", interrupt)
        if moment == "before the end":
            patch.setattr(seed.Seeding, "finish", interrupt)
        with pytest.raises(Interrupted):
            progress = interrupt if moment == "between batches" else None
            ensure_seeded(tmp_path, corpus, INTAKE, SETTINGS, progress=progress)
    assert not is_filled(tmp_path, "notes")
    ensure_seeded(tmp_path, corpus, INTAKE, SETTINGS)
    assert held(tmp_path) == TEXTS


def test_killed_in_the_middle_it_is_finished(tmp_path: Path) -> None:
    corpus = source_of(tmp_path, TEXTS)
    script = """
        import os, signal, sys
        from pathlib import Path
        from tests.retrieval.store.test_seed import *
        seed.BATCH_DOCUMENTS = 7
        def die(documents, tokens):
            if documents > 7: os.kill(os.getpid(), signal.SIGKILL)
        corpus = CorpusConfig(name="notes", source=sys.argv[2])
        ensure_seeded(Path(sys.argv[1]), corpus, INTAKE, SETTINGS, progress=die)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path), corpus.source]
    assert subprocess.run(command, timeout=120).returncode == -signal.SIGKILL
    assert not is_filled(tmp_path, "notes")
    ensure_seeded(tmp_path, corpus, INTAKE, SETTINGS)
    assert held(tmp_path) == TEXTS


# --- others ---------------------------------------------------------------------------------------


def test_another_process_that_fills_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once, of which one holds the lock until the other has seen it."""
    corpus = source_of(tmp_path, TEXTS)
    seed.prepare(tmp_path, "notes", INTAKE, 2)
    refused = threading.Event()
    monkeypatch.setattr(seed.time, "sleep", lambda _: refused.set())
    filled: list[int] = []

    def progress(documents: int, _: int) -> None:
        assert refused.wait(60)
        filled.append(documents)

    first = threading.Thread(
        target=lambda: ensure_seeded(tmp_path, corpus, INTAKE, SETTINGS, progress=progress)
    )
    first.start()
    while not (tmp_path / "notes" / MARKER).exists():
        refused.wait(0.001)

    def needless(*_: int) -> None:
        raise AssertionError("it is filled twice")

    ensure_seeded(tmp_path, corpus, INTAKE, SETTINGS, progress=needless)
    first.join(60)
    assert filled == [30]
    assert held(tmp_path) == TEXTS


def test_the_wait_for_another_process_ends(tmp_path: Path) -> None:
    corpus = source_of(tmp_path, TEXTS)
    seed.prepare(tmp_path, "notes", INTAKE, 2)
    with (
        closing(CorpusWriter(tmp_path, "notes", SETTINGS.store, inline)),
        pytest.raises(StoreLocked, match=f"pid {os.getpid()}"),
    ):
        ensure_seeded(tmp_path, corpus, INTAKE, SETTINGS, wait_s=0)


def test_a_filled_corpus_needs_no_lock(tmp_path: Path) -> None:
    corpus = source_of(tmp_path, TEXTS)
    ensure_seeded(tmp_path, corpus, INTAKE, SETTINGS)
    with closing(CorpusWriter(tmp_path, "notes", SETTINGS.store, inline)):
        ensure_seeded(tmp_path, corpus, INTAKE, SETTINGS, wait_s=0)


def test_a_damaged_marker_fills_it_again(tmp_path: Path) -> None:
    corpus = source_of(tmp_path, TEXTS)
    ensure_seeded(tmp_path, corpus, INTAKE, SETTINGS)
    (tmp_path / "notes" / MARKER).write_bytes(b"\xff")
    ensure_seeded(tmp_path, corpus, INTAKE, SETTINGS)
    assert held(tmp_path) == TEXTS
    assert is_filled(tmp_path, "notes")


def test_a_compaction_that_does_not_keep_up_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = source_of(tmp_path, TEXTS)
    calls: list[str] = []
    write, flush = CorpusWriter.write, CorpusWriter.flush

    def busy(writer: CorpusWriter, operations: Any) -> Any:
        calls.append("write")
        if calls == ["write"]:
            raise Overloaded("compaction does not keep up")
        return write(writer, operations)

    def flushing(writer: CorpusWriter) -> None:
        calls.append("flush")
        flush(writer)

    monkeypatch.setattr(CorpusWriter, "write", busy)
    monkeypatch.setattr(CorpusWriter, "flush", flushing)
    ensure_seeded(tmp_path, corpus, INTAKE, SETTINGS)
    assert calls == ["write", "flush", "write", "flush"]
    assert held(tmp_path) == TEXTS


def test_a_root_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    corpus = source_of(tmp_path, TEXTS)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        ensure_seeded(tmp_path / "file", corpus, INTAKE, SETTINGS)
