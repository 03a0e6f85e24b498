"""Index files: what is written is read; whatever is not an index file is refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from rasd.errors import (
    InvalidRequest,
    SegmentCorrupt,
    SegmentError,
    SegmentVersionError,
    TokenizerMismatch,
)
from rasd.retrieval.segment import (
    HEADER_BYTES,
    SEPARATOR,
    Header,
    Segment,
    open_segment,
    write_segment,
)

VOCABULARY = 100_000
HEADER = struct.Struct("<8sIIQ64sQQQQQIIII")


def write(path: Path, *texts: list[int], vocabulary: int = VOCABULARY) -> Header:
    return write_segment(
        path, [np.asarray(t, np.int64) for t in texts], vocabulary=vocabulary, tokenizer_hash="t"
    )


def reopen(path: Path) -> Segment:
    return open_segment(path, vocabulary=VOCABULARY, tokenizer_hash="t")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "segment-000001.seg"
    write(path, [7, 99_999, 7], [], [70_000, 7])
    return path


def test_holds_documents_and_their_suffixes_in_order(path: Path) -> None:
    segment = reopen(path)
    end = SEPARATOR
    assert segment.tokens.tolist() == [7, 99_999, 7, end, end, 70_000, 7, end]
    assert segment.suffixes.tolist() == [0, 6, 2, 5, 1]
    assert segment.documents.tolist() == [0, 4, 5]
    assert not segment.tokens.flags.writeable
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("vocabulary", [2, 255, 65_535, 65_536, 65_537, 2**31 - 1])
def test_sorts_any_vocabulary(tmp_path: Path, vocabulary: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = [0, vocabulary - 1, vocabulary // 2]
    texts = [rng.choice(ids, rng.integers(0, 9)).tolist() for _ in range(9)] + [[vocabulary - 1]]
    write(tmp_path / "x.seg", *texts, vocabulary=vocabulary)
    segment = open_segment(tmp_path / "x.seg", vocabulary=vocabulary, tokenizer_hash="t")
    text = segment.tokens.tolist()
    wanted = sorted((text[i:], i) for i in range(len(text)) if text[i] != SEPARATOR)
    assert segment.suffixes.tolist() == [i for _, i in wanted]


def test_takes_at_most_nine_bytes_per_token(tmp_path: Path) -> None:
    header = write(tmp_path / "x.seg", *[list(range(100))] * 50)
    assert header.file_bytes == (tmp_path / "x.seg").stat().st_size <= 9 * header.tokens


@pytest.mark.parametrize("token", [-1, VOCABULARY, SEPARATOR])
def test_refuses_ids_outside_the_vocabulary(tmp_path: Path, token: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"\[0, {VOCABULARY}\); document 1 holds {token}"):
        write(tmp_path / "x.seg", [1], [2, token])
    assert not list(tmp_path.iterdir())


def test_refuses_what_is_no_segment(tmp_path: Path) -> None:
    path = tmp_path / "x.seg"
    with pytest.raises(InvalidRequest, match="at least 1 document; got 0"):
        write(path)
    with pytest.raises(InvalidRequest, match="float64"):
        write_segment(path, [np.ones(2)], vocabulary=9, tokenizer_hash="t")  # type: ignore[list-item]
    for hash_ in ("", "x" * 65, "ä"):
        with pytest.raises(InvalidRequest, match="1 to 64 ASCII"):
            write_segment(path, [np.ones(2, int)], vocabulary=9, tokenizer_hash=hash_)
    for vocabulary in (0, 2**31):
        with pytest.raises(InvalidRequest, match=f"got {vocabulary}"):
            write(path, [1], vocabulary=vocabulary)


def test_every_flipped_bit_is_noticed(path: Path) -> None:
    good = path.read_bytes()
    for at in range(len(good)):
        for bit in range(8):
            path.write_bytes(good[:at] + bytes([good[at] ^ (1 << bit)]) + good[at + 1 :])
            with pytest.raises(SegmentError, match=str(path)):
                reopen(path)


def test_every_truncation_is_noticed(path: Path) -> None:
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(SegmentCorrupt, match=str(path)):
            reopen(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(SegmentCorrupt, match=f"length must be {len(good)}; got {len(good) + 1}"):
        reopen(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 4096, b"\xff" * 4096])
def test_other_files_are_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(SegmentCorrupt, match=str(path)):
        reopen(path)
    path.unlink()
    with pytest.raises(SegmentCorrupt, match="cannot be read"):
        reopen(path)
    path.mkdir()
    with pytest.raises(SegmentCorrupt, match="cannot be read"):
        reopen(path)


def forge(path: Path, **changes: object) -> None:
    """Changes fields and makes the header's checksum fit again."""
    raw = path.read_bytes()
    header = Header._make(HEADER.unpack(raw[:HEADER_BYTES]))._replace(**changes)  # type: ignore[arg-type]
    head = HEADER.pack(*header)[:-4]
    path.write_bytes(head + zlib.crc32(head).to_bytes(4, "little") + raw[HEADER_BYTES:])


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("version", 2, SegmentVersionError, "version must be at most 1; got 2"),
        ("version", 0, SegmentCorrupt, "version must be 1; got 0"),
        ("tokenizer_hash", b"u", TokenizerMismatch, "tokenizer_hash must be t; got u"),
        ("vocabulary", 9, TokenizerMismatch, "vocabulary must be 100000; got 9"),
        ("header_bytes", 9, SegmentCorrupt, "header_bytes must be 144; got 9"),
        ("tokens", 2**62, SegmentCorrupt, "tokens_bytes"),
        ("documents", 2**62, SegmentCorrupt, "tokens_bytes"),
        ("suffixes_bytes", 2**63, SegmentCorrupt, "suffixes_bytes"),
        ("documents_crc", 5, SegmentCorrupt, "documents checksum must be 5"),
    ],
)
def test_each_field_is_checked_by_name(
    path: Path, field: str, value: object, error: type[SegmentError], message: str
) -> None:
    forge(path, **{field: value})
    with pytest.raises(error, match=message):
        reopen(path)


def test_no_address_leaves_the_file(path: Path) -> None:
    """Valid checksums do not make addresses valid: the search would read foreign memory."""
    raw = bytearray(path.read_bytes())
    suffixes = reopen(path).header.tokens_bytes + HEADER_BYTES
    for value in (-1, 8, 2**31 - 1):
        raw[suffixes : suffixes + 4] = struct.pack("<i", value)
        path.write_bytes(raw)
        forge(path, suffixes_crc=zlib.crc32(raw[suffixes : suffixes + 20]))
        with pytest.raises(SegmentCorrupt, match=r"suffixes must be in \[0, 8\)"):
            reopen(path)
