"""Where documents come from: what is none is named, and reading goes on."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from rasd.datastore import NewDocument
from rasd.errors import ConfigError
from rasd.retrieval import sources
from rasd.retrieval.lines import PassedOver
from rasd.retrieval.sources import documents_of, json_lines

LIMIT = 1000


def read(source: str | Path) -> tuple[list[NewDocument], list[tuple[str, str]]]:
    """Documents and rejections."""
    rejected: list[tuple[str, str]] = []
    documents = documents_of(
        str(source),
        max_bytes=LIMIT,
        reject=lambda place, why: rejected.append((place, why)),
        passed_over=PassedOver(),
    )
    return list(documents), rejected


def texts(source: str | Path) -> dict[str, str | None]:
    documents, rejected = read(source)
    assert not rejected
    return {document.id: document.text for document in documents}


def test_folders_and_files(tmp_path: Path) -> None:
    (tmp_path / "deep" / ".git").mkdir(parents=True)
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "deep" / "a.md").write_text("ä\r\n", "utf-8", newline="")
    (tmp_path / "empty").touch()
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "deep" / ".git" / "config").write_text("no")
    assert texts(tmp_path) == {"b.txt": "b", "deep/a.md": "ä\n", "empty": ""}
    assert texts(tmp_path / "b.txt") == {"b.txt": "b"}


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\xff")
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "c.txt").write_text("x" * (LIMIT + 1))
    (tmp_path / "d.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "e.txt")
    documents, rejected = read(tmp_path)
    assert [one.id for one in documents] == ["b.txt"]
    (first, why_first), (second, why_second) = rejected
    assert (first, second) == (str(tmp_path / "a.png"), str(tmp_path / "c.txt"))
    assert "utf-8" in why_first
    assert why_second == "text must be at most 1000 bytes of UTF-8; got 1001"
    assert read(tmp_path / "a.png") == ([], [(first, why_first)])


def test_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    lines = [
        '{"id": "one", "text": "a", "more": 1}',
        "",
        '{"id": 2, "tokens": [3, 4], "metadata": {"a": [null]}}',
        " \t",
        r'{"id": "\u00e9", "text": "\u0000"}',
    ]
    path.write_text("\n".join(lines))
    assert read(path) == (
        [
            NewDocument("one", "a"),
            NewDocument("2", tokens=[3, 4], metadata={"a": [None]}),
            NewDocument("é", "\0"),  # whether that is a good text is not asked here
        ],
        [],
    )


@pytest.mark.parametrize("name", ["x.jsonl", "x.ndjson"])
def test_a_byte_order_mark_is_no_part_of_a_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'\xef\xbb\xbf{"id": "a", "text": "b"}\r\n')
    assert read(path) == ([NewDocument("a", "b")], [])


def test_fields_that_are_no_part_of_a_document_are_told_once() -> None:
    lines = b"".join(b'{"id": %d, "text": "t", "url": 1, "f%d": 2}\n' % (i, i) for i in range(3))
    passed_over = PassedOver()
    found = json_lines(
        io.BytesIO(lines), name="f", max_bytes=99, reject=print, passed_over=passed_over
    )
    assert list(found) == [NewDocument(f"{i}", "t") for i in range(3)]
    assert str(passed_over) == "f0, f1, f2, url"


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b'{"text": "x"}',
        b'{"id": 1.5, "text": ""}',
        b'{"id": "x", "tokens": [1.5]}',
        b'{"id": "x", "metadata": []}',
        b"[]",
        b'{"id": "x", "text": "\xff"}',
        b'{"id": "x", "text": "\xed\xa0\x80"}',
        rb'{"id": "x", "text": "\ud800"}',
        b'{"id": "x", "metadata": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        b"\0",
    ],
)
def test_a_wrong_line_is_named_and_passed_over(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"id": "a", "text": ""}\n' + line + b'\n{"id": "b", "text": ""}')
    documents, [(place, why)] = read(path)
    assert [one.id for one in documents] == ["a", "b"]
    assert place == f"{path}, line 2"
    assert why


@pytest.mark.parametrize("length", [0, 1, 39, 40, 41, 42, 79, 80, 81, 82, 83, 122, 123])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_lines_over_the_limit_are_never_in_memory(
    monkeypatch: pytest.MonkeyPatch, length: int, end: bytes
) -> None:
    monkeypatch.setattr(sources, "_JSON_SPACE", 0)
    good = b'{"id":"a","text":""}\n'
    rejected: list[str] = []
    file = io.BytesIO(good + b"x" * length + end + (good if end else b""))
    found = list(
        json_lines(
            file,
            name="f",
            max_bytes=7,
            reject=lambda _, why: rejected.append(why),
            passed_over=PassedOver(),
        )
    )
    assert len(found) == 1 + bool(end)
    assert len(rejected) == bool(length)
    assert all(("at most 42 bytes" in why) == (length + len(end) > 42) for why in rejected)
    assert file.closed


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"source must be 'stdlib', a JSONL file, .* got 'nowhere'"
    ):
        read("nowhere")


def test_a_file_that_fails(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(ConfigError, match=r"f: .*Input/output error"):
        list(
            json_lines(Broken(b"{}"), name="f", max_bytes=7, reject=print, passed_over=PassedOver())
        )


def test_the_standard_library_without_what_is_held_out() -> None:
    from rasd.train.text import documents

    ids = set(texts("stdlib"))
    assert len(ids) > 100
    assert not ids & {document.id for document in documents(held_out=True)}
