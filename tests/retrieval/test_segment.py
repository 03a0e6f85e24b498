"""Index files: what is written is read; whatever is not an index file is refused by name."""

from __future__ import annotations

import itertools
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rasd.config import RetrievalConfig
from rasd.errors import (
    InvalidRequest,
    SegmentCorrupt,
    SegmentError,
    SegmentVersionError,
    TokenizerMismatch,
)
from rasd.retrieval.live import Live
from rasd.retrieval.search import Index, Part
from rasd.retrieval.segment import (
    HEADER_BYTES,
    REACH,
    SEPARATOR,
    Header,
    Segment,
    open_segment,
    write_segment,
)

VOCABULARY = 100_000
HEADER = struct.Struct("<8sIIQ64sQQQQQQIIIIII")


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


@pytest.mark.parametrize("vocabulary", [1, 2, 255, 65_535, 65_536, 65_537, 2**31 - 1])
def test_sorts_any_vocabulary(tmp_path: Path, vocabulary: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = [0, vocabulary - 1, vocabulary // 2]
    texts = [rng.choice(ids, rng.integers(0, 99)).tolist() for _ in range(9)] + [[vocabulary - 1]]
    write(tmp_path / "x.seg", *texts, vocabulary=vocabulary)
    segment = open_segment(tmp_path / "x.seg", vocabulary=vocabulary, tokenizer_hash="t")
    text = segment.tokens.tolist()
    wanted = sorted((text[i:], i) for i in range(len(text)) if text[i] != SEPARATOR)
    assert segment.suffixes.tolist() == [i for _, i in wanted]
    bits, keys = vocabulary.bit_length(), []
    for first in segment.suffixes[::32].tolist():
        tokens = [min(token, vocabulary) for token in text[first : first + 64 // bits]]
        tokens += [0] * (64 // bits - len(tokens))
        keys.append(sum(token << (bits * i) for i, token in enumerate(tokens[::-1])))
    assert segment.keys.tolist() == [*keys, 2**64 - 1] == sorted([*keys, 2**64 - 1])


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
        ("version", 3, SegmentVersionError, "version must be at most 2; got 3"),
        ("version", 1, SegmentCorrupt, "version must be 2; got 1"),
        ("tokenizer_hash", b"u", TokenizerMismatch, "tokenizer_hash must be t; got u"),
        ("vocabulary", 9, TokenizerMismatch, "vocabulary must be 100000; got 9"),
        ("header_bytes", 9, SegmentCorrupt, "header_bytes must be 160; got 9"),
        ("key_every", 31, SegmentCorrupt, "key_every must be 32; got 31"),
        ("keys_bytes", 8, SegmentCorrupt, "keys_bytes must be 16; got 8"),
        ("tokens", 2**62, SegmentCorrupt, "keys_bytes"),
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
    suffixes = HEADER_BYTES + sum(reopen(path).header.section_bytes[:2])
    for value in (-1, 8, 2**31 - 1):
        raw[suffixes : suffixes + 4] = struct.pack("<i", value)
        path.write_bytes(raw)
        forge(path, suffixes_crc=zlib.crc32(raw[suffixes : suffixes + 20]))
        with pytest.raises(SegmentCorrupt, match=r"suffixes must be in \[0, 8\)"):
            reopen(path)


def test_a_search_of_wrong_sections_ends_and_stays_inside(tmp_path: Path, seed: int) -> None:
    """A file may say anything with valid checksums: answers are then wrong, and nothing worse."""
    rng = np.random.default_rng(seed)
    path = tmp_path / "x.seg"
    opening: dict[str, Any] = {"vocabulary": 9, "tokenizer_hash": "t"}
    settings = RetrievalConfig(suffix_min=1, suffix_max=64, depth=64, nodes=64)
    write(
        path, *[rng.integers(0, 9, rng.integers(0, 2_000)).tolist() for _ in range(9)], vocabulary=9
    )
    good = path.read_bytes()
    sections = open_segment(path, **opening)
    for wrong in itertools.product([False, True], repeat=3):
        keys, text, suffixes = sections.keys, sections.tokens, sections.suffixes
        if wrong[0]:
            keys = rng.integers(0, 2**64, len(keys), np.uint64)
        if wrong[1]:
            text = rng.choice(np.array([0, 1, 8, 9, 2**31, SEPARATOR], np.uint32), len(text))
            text[-1] = SEPARATOR
        if wrong[2]:
            places = np.array([0, len(text) // 2, len(text) - 1], np.int32)
            suffixes = rng.choice(places, len(suffixes))
        parts = [keys.tobytes(), text.tobytes(), suffixes.tobytes(), sections.documents.tobytes()]
        path.write_bytes(good[:HEADER_BYTES] + b"".join(parts) + bytes(REACH))
        names = ("keys_crc", "tokens_crc", "suffixes_crc")
        forge(path, **{name: zlib.crc32(part) for name, part in zip(names, parts, strict=False)})
        segment = open_segment(path, **opening)
        some = Live.without(segment, np.array([1, 3]))
        for live in (None, some):
            index = Index([Part(segment, live), Part(sections)])
            tails = [rng.integers(0, 9, rng.integers(1, 80)).astype(np.int32) for _ in range(50)]
            for tail, found in zip(tails, index.search_all(tails, settings), strict=True):
                assert (found.parents < np.arange(len(found))).all()
                assert index.places(tail, found).shape == (len(found), 2)
