"""Files of documents: what is written is read; what is damaged is refused by name."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.errors import SegmentCorrupt, SegmentError, SegmentVersionError
from rasd.retrieval.files import creating
from rasd.retrieval.store import pack
from rasd.retrieval.store.documents import DocumentsFile, open_documents
from rasd.retrieval.store.layout import HEADER_BYTES, LAYOUT, Header
from rasd.retrieval.store.pack import BLOCK_BYTES, DocumentsWriter, write_documents
from rasd.retrieval.store.records import Document, content_digest, id_digest

from .worlds import VOCABULARY, document, random_document, same


def make(path: Path, documents: list[Document], **settings: int) -> DocumentsFile:
    info = write_documents(path, documents, **({"vocabulary": VOCABULARY} | settings))
    opened = open_documents(path)
    tokens = sum(len(document.tokens) for document in documents)
    assert (info.documents, info.tokens) == (len(documents), tokens)
    assert (info.bytes, info.checksum) == (path.stat().st_size, opened.header.header_crc)
    return opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "source-000001.docs"
    write_documents(
        path,
        [
            document("a", 7, 99_999, 7, text="seven \0", kind={"x": [1, 2**70, None]}),
            document("b/../ä", 70_000),
        ],
        [(3, 5), (1, 2**40)],
        vocabulary=VOCABULARY,
    )
    return path


def test_holds_documents_and_deletes(path: Path) -> None:
    opened = open_documents(path)
    a, b = opened
    assert (a.id, a.tokens.tolist(), a.text) == ("a", [7, 99_999, 7], "seven \0")
    assert a.metadata == {"kind": {"x": [1, 2**70, None]}}
    assert (b.id, b.tokens.tolist(), b.text, b.metadata) == ("b/../ä", [70_000], None, {})
    assert opened.deletes.tolist() == [[3, 5], [1, 2**40]]
    assert [opened.tokens(i) for i in (0, 1)] == [3, 1]
    assert not opened.deletes.flags.writeable
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("vocabulary", [2, 65_536, 65_537, 2**31 - 1])
def test_keeps_every_id_of_any_vocabulary(tmp_path: Path, vocabulary: int) -> None:
    wanted = document("a", 0, vocabulary - 1)
    opened = make(tmp_path / "x", [wanted], vocabulary=vocabulary)
    assert same(opened.read(0), wanted)
    assert opened.read_tokens(0).dtype.itemsize == (2 if vocabulary <= 65_536 else 4)


@given(count=st.integers(0, 200), block=st.sampled_from([1, 100, 2000]), data=st.data())
def test_agrees_with_a_dict(
    tmp_path_factory: pytest.TempPathFactory, count: int, block: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    documents = [random_document(rng, f"{rng.integers(2**60)}") for _ in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "BLOCK_BYTES", block)
        opened = make(tmp_path_factory.mktemp("x") / "x", documents)
    assert len(opened) == count
    for ordinal in rng.permutation(count):
        assert same(opened.read(int(ordinal)), documents[ordinal])
    digests = [id_digest(document.id) for document in documents]
    assert [opened.find(digest) for digest in digests] == list(range(count))
    assert [opened.content(i) for i in range(count)] == [content_digest(d) for d in documents]
    assert opened.find(id_digest("absent")) is None
    wanted = np.frombuffer(b"".join([*digests, id_digest("absent")]), np.uint8).reshape(-1, 16)
    assert opened.find_all(wanted).tolist() == [*range(count), -1]
    assert opened.digests(np.arange(count)).tolist() == wanted[:-1].tolist()
    walked, after = [], b""
    while step := opened.after(after, 7).tolist():
        walked += step
        after = opened.digest(step[-1])
    assert walked == sorted(range(count), key=lambda i: digests[i])
    assert opened.after(bytes(16), 3).tolist() == walked[:3]
    assert opened.after(b"\xff" * 16, 3).tolist() == []


def test_digests_that_begin_alike_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ["c", "a", "d", "b"]
    fake = {id_: b"8 bytes " + id_.encode() * 8 for id_ in ids}
    monkeypatch.setattr(pack, "id_digest", fake.__getitem__)
    opened = make(tmp_path / "x", [document(id_) for id_ in ids])
    assert [opened.find(fake[id_]) for id_ in ids] == [0, 1, 2, 3]
    assert opened.find(b"8 bytes 01234567") is None
    assert opened.after(b"", 9).tolist() == [1, 3, 0, 2]
    assert opened.after(fake["b"], 9).tolist() == [0, 2]
    wanted = np.frombuffer(fake["d"] + b"8 bytes 01234567", np.uint8).reshape(2, 16)
    assert opened.find_all(wanted).tolist() == [2, -1]


def test_blocks_hold_several_documents_and_a_large_one_has_its_own(tmp_path: Path) -> None:
    large = document("large", *range(BLOCK_BYTES))
    small = [document(f"small-{i}", *range(1000)) for i in range(100)]
    opened = make(tmp_path / "x", [*small[:10], large, *small[10:]])
    blocks = opened.places[:, 1].tolist()
    assert blocks[:12] == [0] * 10 + [1, 2]
    assert 4 <= len(opened.table) <= 6
    assert same(opened.read(10), large)


def test_blocks_can_be_copied(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "BLOCK_BYTES", 500)
    rng = np.random.default_rng(seed)
    documents = [random_document(rng, str(i)) for i in range(50)]
    one = make(tmp_path / "one", documents)
    first = document("first", 1, 2, 3)
    with creating(tmp_path / "two") as file:
        writer = DocumentsWriter(file, VOCABULARY)
        record = pack.encode(first, VOCABULARY)
        writer.add(record, 3, id_digest("first"), content_digest(first))
        for block in range(len(one.table)):
            writer.copy(one, block)
        last = record.replace(b"first", b"later")
        writer.add(last, 3, id_digest("later"), content_digest(first))
        info = writer.finish()
    two = open_documents(tmp_path / "two")
    wanted = [first, *documents, document("later", 1, 2, 3)]
    assert info.tokens == sum(len(document.tokens) for document in wanted)
    assert all(same(*pair) for pair in zip(two, wanted, strict=True))
    assert [two.find(id_digest(d.id)) for d in wanted] == list(range(52))


def test_a_file_that_is_there_stays(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        write_documents(path, [], vocabulary=9)
    assert path.read_bytes() == before


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        write_documents(tmp_path / "x", [document("a"), None], vocabulary=9)  # type: ignore[list-item]
    assert not list(tmp_path.iterdir())


def read_all(path: Path) -> list[Document]:
    return list(open_documents(path))


def test_every_flipped_bit_is_noticed(path: Path) -> None:
    good = path.read_bytes()
    padding = -sum(open_documents(path).table[-1, :2].tolist()) % 8
    end = HEADER_BYTES + open_documents(path).header.blocks_bytes
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :])
        if end - padding <= at < end:  # says nothing
            assert len(read_all(path)) == 2
            continue
        with pytest.raises(SegmentError, match=str(path)):
            read_all(path)


def test_every_truncation_is_noticed(path: Path) -> None:
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(SegmentCorrupt, match=str(path)):
            open_documents(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(SegmentCorrupt, match=f"length must be {len(good)}; got {len(good) + 1}"):
        open_documents(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 4096, b"\xff" * 4096])
def test_other_files_are_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(SegmentCorrupt, match=str(path)):
        open_documents(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        open_documents(path)
    path.mkdir()
    with pytest.raises(SegmentCorrupt, match="cannot be read"):
        open_documents(path)


def forge(path: Path, at: int, value: bytes, **changes: object) -> None:
    """Changes bytes of the tables and fields of the header, and makes the checksums fit again."""
    raw = bytearray(path.read_bytes())
    header = Header._make(LAYOUT.unpack(raw[:HEADER_BYTES]))
    start = HEADER_BYTES + header.blocks_bytes
    raw[start + at : start + at + len(value)] = value
    header = header._replace(tables_crc=zlib.crc32(raw[start:]))._replace(**changes)  # type: ignore[arg-type]
    head = LAYOUT.pack(*header)[:-4]
    path.write_bytes(head + zlib.crc32(head).to_bytes(4, "little") + raw[HEADER_BYTES:])


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("version", 2, SegmentVersionError, "version must be at most 1; got 2"),
        ("version", 0, SegmentCorrupt, "version must be 1; got 0"),
        ("header_bytes", 9, SegmentCorrupt, "header_bytes must be 72; got 9"),
        ("documents", 2**62, SegmentCorrupt, "length"),
        ("deletes", 2**63, SegmentCorrupt, "length"),
        ("blocks", 0, SegmentCorrupt, "length"),
        ("blocks_bytes", 3, SegmentCorrupt, "multiple of 8"),
        ("tables_crc", 5, SegmentCorrupt, "tables checksum must be 5"),
        ("vocabulary", 9, SegmentCorrupt, "document 0: tokens must be 3; got 6"),
    ],
)
def test_forged_headers_are_refused(
    path: Path, field: str, value: int, error: type[SegmentError], message: str
) -> None:
    forge(path, 0, b"", **{field: value})
    with pytest.raises(error, match=message):
        read_all(path)


def test_no_forged_table_leads_out_of_the_file(path: Path) -> None:
    good = path.read_bytes()
    tables = open_documents(path).header.tables_bytes
    for at in range(tables - 3):
        for value in (b"\xff\xff\xff\xff", b"\0\0\0\x80"):
            path.write_bytes(good)
            forge(path, at, value)
            try:
                opened = open_documents(path)
                opened.find_all(opened.digests(np.arange(2)))
                opened.after(b"", 9)
                list(opened)
            except SegmentCorrupt as error:
                assert str(path) in str(error)
