"""What is damaged is found and named, whatever it is; nothing wrong is ever read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from rasd.config import StoreConfig
from rasd.errors import NotFound, SegmentError
from rasd.retrieval.segment import build_segment, open_segment, write_segment
from rasd.retrieval.store import verify as module
from rasd.retrieval.store.contents import open_source
from rasd.retrieval.store.corpora import partition_path, read_spec
from rasd.retrieval.store.dead import read_dead
from rasd.retrieval.store.manifest import (
    PartitionManifest,
    dead_path,
    docs_path,
    manifest_path,
    newest,
    seg_path,
)
from rasd.retrieval.store.pack import write_documents
from rasd.retrieval.store.records import Delete, Put
from rasd.retrieval.store.sealed import seal
from rasd.retrieval.store.verify import Report, in_order, verify
from rasd.retrieval.store.writer import CorpusWriter

from .worlds import Submitter, document, live, make_corpus, random_document, same

VOCABULARY = 500


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with files of every kind: two segments, dead documents, two logs."""
    root = tmp_path_factory.mktemp("verify")
    rng = np.random.default_rng(5)
    make_corpus(root, partitions=1, vocabulary=VOCABULARY)
    store = CorpusWriter(root, "c", StoreConfig(grace_s=0), Submitter())
    for kind in ("a", "b"):
        puts = [Put(random_document(rng, f"{kind}{i}", vocabulary=VOCABULARY)) for i in range(20)]
        store.write(puts)
        if kind == "b":
            store.write([Delete("a3"), Delete("b3")])
        store.flush()
    store.write([Delete("a4"), Put(document("b4", 1, 2, 3))])
    store.write([Put(document("c", 4, text="x")), Delete("a5")])
    store.tick()
    store.close()
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "root"))


def manifest_of(root: Path) -> tuple[Path, PartitionManifest]:
    path = partition_path(root, "c", 0)
    return path, newest(path)


def damaged(root: Path) -> dict[str, str]:
    return {damage.path.name: damage.reason for damage in verify(root).damaged}


def test_a_sound_store_is_sound(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    report = verify(root)
    found = live(root)
    assert report.corpora == ["c"]
    assert (report.damaged, report.leftovers) == ([], [])
    assert report.documents == len(found) == 37
    assert report.tokens == sum(len(document.tokens) for document in found.values())
    assert report.files == 9  # corpus.json, a manifest, 4 .docs, 2 .seg, 1 of dead documents
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert verify(root / "nothing") == Report()
    with pytest.raises(NotFound):
        verify(root, ["d"])


def test_leftovers_are_no_damage(root: Path) -> None:
    path, _ = manifest_of(root)
    names = [path / "source-000999.docs", path / ".source-000999.seg.ab.tmp", root / ".c.1.dropped"]
    for name in names:
        name.touch()
    report = verify(root)
    assert (report.damaged, report.leftovers) == ([], [names[1], names[0], names[2]])


def needed(root: Path) -> list[Path]:
    path, manifest = manifest_of(root)
    old = set(path.glob("manifest-*")) - {manifest_path(path, manifest.version)}
    return sorted(file for file in path.iterdir() if file not in old)


def test_each_missing_file_is_named(made: Path, root: Path) -> None:
    for file in needed(root):
        if "manifest" in file.name:
            continue
        file.rename(root / "away")
        assert list(damaged(root)) == [file.name]
        (root / "away").rename(file)
    shutil.rmtree(partition_path(root, "c", 0))
    assert list(damaged(root)) == ["partition-0000"]


def content(root: Path, file: Path) -> object:
    """What readers make of a file; raises where it is damaged."""
    path, manifest = manifest_of(root)
    if file.suffix == ".json":
        return read_spec(root, "c"), manifest
    entry = next(entry for entry in manifest.sources if f"{entry.number:06d}." in file.name)
    if file.suffix == ".seg":
        segment = open_segment(file, vocabulary=VOCABULARY, tokenizer_hash="t")
        return [a.tolist() for a in (segment.tokens, segment.suffixes, segment.documents)]
    if file.suffix == ".docs":
        documents = open_source(path, entry)
        everything = np.arange(documents.count)
        found = documents.find_all(documents.digests(everything)).tolist()
        shown = [(d.id, d.tokens.tolist(), d.text, d.metadata) for d in documents]
        digests = [documents.content(ordinal) for ordinal in everything]
        return shown, found, digests, documents.deletes.tolist()
    return read_dead(path, entry).tolist()


@pytest.mark.parametrize("trials", [50, pytest.param(2000, marks=pytest.mark.slow)])
def test_flipped_bytes_are_never_read_as_something_else(root: Path, seed: int, trials: int) -> None:
    rng = np.random.default_rng(seed)
    kinds: list[str] = []
    for file in [root / "c" / "corpus.json", *needed(root)]:
        kinds.append(file.suffix[:5])
        wanted = content(root, file)
        good = file.read_bytes()
        for trial in range(trials):
            raw = bytearray(good)
            for at in rng.integers(0, len(raw), int(rng.integers(1, 3))):
                raw[at] ^= int(rng.integers(1, 256))
            if trial % 10 == 9:
                raw = raw[: int(rng.integers(0, len(raw)))]
            file.write_bytes(raw)
            try:
                assert content(root, file) == wanted
            except SegmentError as error:
                assert file.name in str(error)
        file.write_bytes(good)
    assert sorted(kinds) == [".dead", *[".docs"] * 4, *[".json"] * 2, *[".seg"] * 2]


def test_verify_names_flipped_files(root: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for file in [root / "c" / "corpus.json", *needed(root)]:
        good = file.read_bytes()
        raw = bytearray(good)
        raw[int(rng.integers(0, min(len(raw), 72)))] ^= 64
        file.write_bytes(raw)
        (name, reason), *others = damaged(root).items()
        assert others == []
        assert str(file) in reason
        assert name in (file.name, "partition-0000")
        file.write_bytes(good)


def rewrite(root: Path, change: Callable[[PartitionManifest], PartitionManifest]) -> None:
    path, manifest = manifest_of(root)
    manifest_path(path, manifest.version).write_bytes(seal(change(manifest)))


@pytest.mark.parametrize("field", ["documents", "tokens", "partition"])
def test_wrong_counts_are_noticed(root: Path, field: str) -> None:
    rewrite(root, lambda m: msgspec.structs.replace(m, **{field: getattr(m, field) + 1}))
    (reason,) = damaged(root).values()
    assert f"{field} must be" in reason


def test_an_id_that_is_live_twice_is_noticed(root: Path) -> None:
    path, manifest = manifest_of(root)
    entry = next(entry for entry in manifest.sources if entry.dead)
    assert dead_path(path, entry.number, entry.dead).exists()

    def resurrect(manifest: PartitionManifest) -> PartitionManifest:
        sources = [msgspec.structs.replace(entry, dead=0) for entry in manifest.sources]
        logs = [entry for entry in sources if entry.kind == "log"]
        return msgspec.structs.replace(manifest, sources=[*sources[:2], logs[1]])

    rewrite(root, resurrect)
    (reason,) = damaged(root).values()
    assert "documents must be" in reason
    source = manifest.logs[0]
    file = docs_path(path, source.number)
    file.unlink()
    info = write_documents(file, [document("b4", 1, 2, 3)], vocabulary=VOCABULARY)

    def without_pairs(manifest: PartitionManifest) -> PartitionManifest:
        entry = msgspec.structs.replace(
            source, documents=1, tokens=3, docs_checksum=info.checksum, bytes=info.bytes
        )
        return msgspec.structs.replace(manifest, sources=[*manifest.sources[:2], entry])

    rewrite(root, without_pairs)
    (reason,) = damaged(root).values()
    assert "'b4' is live in source" in reason


def test_an_index_of_other_documents_is_noticed(root: Path) -> None:
    path, manifest = manifest_of(root)
    entry = manifest.segments[0]
    spec = read_spec(root, "c")
    documents = [
        np.asarray(document.tokens) for document in live(root).values() if document.id[0] == "a"
    ]
    header = write_segment(
        seg_path(path, entry.number),
        documents,
        vocabulary=spec.vocabulary,
        tokenizer_hash=spec.tokenizer_hash,
    )
    (reason,) = damaged(root).values()
    assert "checksum must be" in reason

    def adopt(manifest: PartitionManifest) -> PartitionManifest:
        first = msgspec.structs.replace(entry, seg_checksum=header.header_crc)
        return msgspec.structs.replace(manifest, sources=[first, *manifest.sources[1:]])

    rewrite(root, adopt)
    (reason,) = damaged(root).values()
    assert "documents must be" in reason or "as in source-" in reason


def test_documents_in_the_wrong_place_are_noticed(root: Path) -> None:
    (root / "c" / "corpus.json").write_bytes(
        seal(msgspec.structs.replace(read_spec(root, "c"), partitions=2))
    )
    shutil.copytree(partition_path(root, "c", 0), partition_path(root, "c", 1))
    reasons = [damage.reason for damage in verify(root).damaged]
    assert any("partition must be 0; got 1" in reason for reason in reasons)
    assert any("partition must be 1; got 0" in reason for reason in reasons)


def test_order_of_suffixes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(15):
        texts = [rng.integers(0, 3, rng.integers(1, 9)) for _ in range(rng.integers(1, 9))]
        segment = build_segment(texts, vocabulary=3)
        assert in_order(segment)
        at = int(rng.integers(0, len(segment.suffixes)))
        shown = segment.tokens.tolist()

        def key(start: int, shown: list[int] = shown) -> list[int]:
            return shown[start : shown.index(2**32 - 1, start) + 1]

        for other in range(len(segment.suffixes)):
            suffixes = segment.suffixes.copy()
            suffixes[[at, other]] = suffixes[[other, at]]
            swapped = replace(segment, suffixes=suffixes)
            if key(segment.suffixes[at]) != key(segment.suffixes[other]):
                assert not in_order(swapped)
        suffixes = segment.suffixes.copy()
        if len(suffixes) > 1:
            suffixes[at] = suffixes[at - 1]
            doubled = replace(segment, suffixes=suffixes)
            assert not in_order(doubled)


def test_beside_a_writer(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CorpusWriter(root, "c", StoreConfig(grace_s=0), Submitter())
    real, moved = module.newest, []

    def move_on(path: Path) -> PartitionManifest:
        manifest = real(path)
        if len(moved) < 3:
            moved.append(1)
            store.write([Put(document("x", len(moved)))])
            store.flush()
            store.tick()
        return manifest

    monkeypatch.setattr(module, "newest", move_on)
    report = verify(root)
    assert len(moved) == 3
    assert report.damaged == []
    assert report.documents == 38
    store.close()
    assert same(live(root)["x"], document("x", 3))
