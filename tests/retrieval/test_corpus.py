"""Corpora on disk: whole or not there, damaged segments left out, names that stay inside."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from rasd.errors import (
    ConfigError,
    InvalidRequest,
    NotFound,
    SegmentCorrupt,
    SegmentVersionError,
    TokenizerMismatch,
    Unavailable,
)
from rasd.retrieval import (
    build,
    build_corpus,
    documents_of,
    ensure_corpus,
    has_corpus,
    open_corpus,
)
from rasd.retrieval.corpus import Manifest, read_manifest

MAKE: dict[str, Any] = {"partitions": 3, "vocabulary": 50, "tokenizer_hash": "t"}
OPEN: dict[str, Any] = {"vocabulary": 50, "tokenizer_hash": "t"}
DOCUMENTS = [(f"doc-{i}", [i, i + 1, i]) for i in range(20)]


def make(root: Path, name: str = "notes") -> Manifest:
    return build_corpus(root, name, DOCUMENTS, **MAKE)


def visible(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if not path.name.endswith(".lock"))


# --- building ---------------------------------------------------------------------------------


@pytest.mark.parametrize("buffered", [build.BUFFERED_TOKENS, 10])
def test_every_document_is_in_its_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffered: int
) -> None:
    monkeypatch.setattr(build, "BUFFERED_TOKENS", buffered)
    manifest = make(tmp_path)
    assert (manifest.documents, manifest.tokens) == (20, 60)
    assert manifest == read_manifest(tmp_path, "notes")
    segments = sum(len(entries) for entries in manifest.partitions)
    assert segments == 3 if buffered > 10 else segments > 3
    corpus = open_corpus(tmp_path, "notes", **OPEN)
    firsts = {
        partition: sorted(int(s.tokens[at]) for s in segments for at in s.documents)
        for partition, segments in corpus.segments.items()
    }
    assert sorted(token for held in firsts.values() for token in held) == list(range(20))
    assert firsts[1] == [0, 2, 3, 6, 7, 8, 9, 17, 18]  # placement never changes
    assert open_corpus(tmp_path, "notes", **OPEN, partitions=[1, 1]).segments.keys() == {1}
    assert len(open_corpus(tmp_path, "notes", **OPEN, partitions=[1, 1]).segments[1]) == len(
        manifest.partitions[1]
    )


def test_refuses_wrong_documents_and_leaves_nothing(tmp_path: Path) -> None:
    wrong: list[tuple[list[tuple[str, Any]], str]] = [
        ([("a", [1]), ("a", [2])], "'a' comes twice"),
        ([("a", [1]), ("b", [50])], r"\[0, 50\); document 'b' holds 50"),
        ([("a", [-1])], "document 'a' holds -1"),
        ([("a", [0.5])], "must be a list of integers; got float64"),
        ([("a", np.zeros((2, 2), int))], r"\[2, 2\]"),
    ]
    for documents, message in wrong:
        with pytest.raises(InvalidRequest, match=message):
            build_corpus(tmp_path, "notes", documents, **MAKE)
        assert visible(tmp_path) == []
    for partitions in (0, 1025):
        with pytest.raises(InvalidRequest, match=rf"\[1, 1024\]; got {partitions}"):
            build_corpus(tmp_path, "notes", [], **{**MAKE, "partitions": partitions})


def test_exists_once(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    with pytest.raises(InvalidRequest, match="'notes' exists"):
        build_corpus(tmp_path, "notes", [("x", [1])], **MAKE)
    assert read_manifest(tmp_path, "notes") == manifest


def test_two_at_once_make_one(tmp_path: Path) -> None:
    inside, go = threading.Event(), threading.Event()

    def slow() -> Any:
        inside.set()
        go.wait(30)
        yield from DOCUMENTS

    thread = threading.Thread(target=lambda: build_corpus(tmp_path, "notes", slow(), **MAKE))
    thread.start()
    assert inside.wait(30)
    with pytest.raises(Unavailable, match="made elsewhere"):
        make(tmp_path)
    assert not has_corpus(tmp_path, "notes")
    go.set()
    thread.join()
    assert open_corpus(tmp_path, "notes", **OPEN).manifest.documents == 20


@pytest.mark.parametrize("other", ["finishes", "dies"])
def test_a_corpus_made_elsewhere_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    lock = build._locked(tmp_path / ".notes.lock")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            lock.__exit__(None, None, None)
            if other == "finishes":
                make(tmp_path)

    monkeypatch.setattr(build.time, "sleep", pause)
    with lock:
        ensure_corpus(tmp_path, "notes", [("mine", [1])], **MAKE)
    assert len(pauses) == 3
    assert read_manifest(tmp_path, "notes").documents == (20 if other == "finishes" else 1)


def test_the_wait_for_another_maker_ends(tmp_path: Path) -> None:
    with (
        build._locked(tmp_path / ".notes.lock"),
        pytest.raises(Unavailable, match="made elsewhere"),
    ):
        ensure_corpus(tmp_path, "notes", DOCUMENTS, wait_s=0, **MAKE)


def test_a_corpus_finished_meanwhile_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path)
    seen = iter([False, True, True])
    monkeypatch.setattr(build, "has_corpus", lambda root, name: next(seen))
    ensure_corpus(tmp_path, "notes", [], **MAKE)
    assert read_manifest(tmp_path, "notes").documents == 20
    monkeypatch.undo()
    with pytest.raises(InvalidRequest, match="'a' comes twice"):
        ensure_corpus(tmp_path, "other", [("a", [1]), ("a", [2])], **MAKE)


@pytest.mark.parametrize("moment", ["after 15 documents", "before the rename"])
def test_killed_in_the_middle_leaves_nothing_visible(tmp_path: Path, moment: str) -> None:
    script = """
        import os, signal, sys
        from pathlib import Path
        from rasd.retrieval import build
        from tests.retrieval.test_corpus import DOCUMENTS, MAKE

        def die(*_): os.kill(os.getpid(), signal.SIGKILL)

        def documents():
            for i, document in enumerate(DOCUMENTS):
                if i == 15 and sys.argv[2] == "after 15 documents": die()
                yield document

        build.BUFFERED_TOKENS = 10
        Path.rename = die
        build.build_corpus(Path(sys.argv[1]), "notes", documents(), **MAKE)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path), moment]
    assert subprocess.run(command, timeout=60).returncode == -9
    assert visible(tmp_path) == [".notes.building"]
    assert list((tmp_path / ".notes.building").rglob("*.seg"))
    assert not has_corpus(tmp_path, "notes")
    with pytest.raises(NotFound):
        open_corpus(tmp_path, "notes", **OPEN)
    make(tmp_path)
    assert visible(tmp_path) == ["notes"]
    assert open_corpus(tmp_path, "notes", **OPEN).refused == {}


# --- opening ----------------------------------------------------------------------------------


def test_a_damaged_segment_is_left_out_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = make(tmp_path)
    files = [entries[0].file for entries in manifest.partitions]
    damaged, missing = (tmp_path / "notes" / files[i] for i in (0, 2))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    missing.unlink()
    with caplog.at_level(logging.ERROR):
        corpus = open_corpus(tmp_path, "notes", **OPEN)
    assert corpus.refused.keys() == {files[0], files[2]}
    assert [len(corpus.segments[i]) for i in range(3)] == [0, 1, 0]
    assert str(damaged) in caplog.text and str(missing) in caplog.text


def test_a_segment_of_another_corpus_is_left_out(tmp_path: Path) -> None:
    """A sound file in the wrong place must not make one corpus readable as another."""
    file = make(tmp_path).partitions[0][0].file
    build_corpus(tmp_path, "secret", [("doc-0", [9]), ("doc-2", [9])], **MAKE)
    theirs = next((tmp_path / "secret").rglob("*.seg"))
    (tmp_path / "notes" / file).write_bytes(theirs.read_bytes())
    corpus = open_corpus(tmp_path, "notes", **OPEN)
    assert corpus.refused.keys() == {file}


def test_a_whole_corpus_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(TokenizerMismatch, match=r"\('u', 50\); got \('t', 50\)"):
        open_corpus(tmp_path, "notes", vocabulary=50, tokenizer_hash="u")
    with pytest.raises(TokenizerMismatch, match=r"\('t', 51\); got \('t', 50\)"):
        open_corpus(tmp_path, "notes", vocabulary=51, tokenizer_hash="t")
    with pytest.raises(InvalidRequest, match="3 partitions; got 3"):
        open_corpus(tmp_path, "notes", **OPEN, partitions=[3])
    with pytest.raises(NotFound, match="'other'"):
        open_corpus(tmp_path, "other", **OPEN)


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    path = tmp_path / "notes" / "manifest.json"
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(SegmentCorrupt, match=str(path)):
            open_corpus(tmp_path, "notes", **OPEN)
    for content in (b"\xff" + good, b"[]", b'{"format": 1}', good.replace(b"notes", b"nodes")):
        path.write_bytes(content)
        with pytest.raises(SegmentCorrupt, match=str(path)):
            open_corpus(tmp_path, "notes", **OPEN)
    newer = {**msgspec.to_builtins(manifest), "format": 2, "future": True}
    path.write_bytes(msgspec.json.encode(newer))
    with pytest.raises(SegmentVersionError, match="format must be at most 1; got 2"):
        open_corpus(tmp_path, "notes", **OPEN)


@pytest.mark.parametrize("file", ["../secret/partition-0000/segment-000001.seg", "/etc/passwd"])
def test_a_manifest_cannot_point_elsewhere(tmp_path: Path, file: str) -> None:
    manifest = make(tmp_path)
    make(tmp_path, "secret")
    entry = msgspec.structs.replace(manifest.partitions[0][0], file=file)
    forged = msgspec.structs.replace(manifest, partitions=[[entry]])
    (tmp_path / "notes" / "manifest.json").write_bytes(msgspec.json.encode(forged))
    assert open_corpus(tmp_path, "notes", **OPEN).refused.keys() == {file}


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a\0", ".a", "a\n", "a" * 65])
def test_names_stay_inside_the_root(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    with pytest.raises(InvalidRequest, match="corpus name"):
        build_corpus(root, name, DOCUMENTS, **MAKE)
    with pytest.raises(InvalidRequest, match="corpus name"):
        open_corpus(root, name, **OPEN)
    with pytest.raises(InvalidRequest, match="corpus name"):
        has_corpus(root, name)
    assert list(tmp_path.iterdir()) == []


# --- sources ----------------------------------------------------------------------------------


def codes(text: str) -> list[int]:
    return [ord(char) for char in text]


def test_sources(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.txt").write_text("b")
    (folder / "deep" / "a.md").write_text("ä", "utf-8")
    (folder / "image.png").write_bytes(b"\xff\xfe\x00")
    (folder / ".hidden").write_text("no")
    assert dict(documents_of(str(folder), codes)) == {"b.txt": [98], "deep/a.md": [228]}
    assert "image.png" in caplog.text
    assert dict(documents_of(str(folder / "b.txt"), codes)) == {"b.txt": [98]}
    lines = tmp_path / "x.jsonl"
    lines.write_text('{"id": "one", "text": "a", "more": 1}\n\n{"id": 2, "text": ""}\n')
    assert dict(documents_of(str(lines), codes)) == {"one": [97], "2": []}


@pytest.mark.parametrize("line", ["{", '{"id": "x"}', '{"id": 1.5, "text": ""}', "[]", '"\udc80"'])
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"id": "a", "text": ""}\n' + line.encode(errors="surrogatepass"))
    with pytest.raises(ConfigError, match=r"x\.jsonl, line 2: "):
        list(documents_of(str(path), codes))


def test_other_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"\xff")
    for source, message in ((str(tmp_path / "x.txt"), "utf-8"), ("nowhere", "got 'nowhere'")):
        with pytest.raises(ConfigError, match=message):
            list(documents_of(source, codes))


def test_the_standard_library_without_what_is_held_out() -> None:
    from rasd.train.text import documents

    ids = {id_ for id_, _ in documents_of("stdlib", codes)}
    assert len(ids) > 100
    assert not ids & {document.id for document in documents(held_out=True)}
