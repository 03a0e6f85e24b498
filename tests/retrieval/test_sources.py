"""Where documents come from: what is none is named, and reading goes on."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from rasd.datastore import NewDocument
from rasd.errors import ConfigError
from rasd.retrieval import sources
from rasd.retrieval.sources import documents_of, json_lines

LIMIT = 1000


def read(source: str | Path) -> tuple[list[NewDocument], list[tuple[str, str]]]:
    """Documents and rejections."""
    rejected: list[tuple[str, str]] = []
    documents = documents_of(
        str(source), max_bytes=LIMIT, reject=lambda place, why: rejected.append((place, why))
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
        json_lines(file, name="f", max_bytes=7, reject=lambda _, why: rejected.append(why))
    )
    assert len(found) == 1 + bool(end)
    assert len(rejected) == bool(length)
    assert all(("at most 42 bytes" in why) == (length + len(end) > 42) for why in rejected)
    assert file.closed


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"source must be 'stdlib', a JSONL file, .* got 'nowhere'"
    ):
        documents_of("nowhere", max_bytes=LIMIT, reject=print)


def test_a_file_that_fails(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(ConfigError, match=r"f: .*Input/output error"):
        list(json_lines(Broken(b"{}"), name="f", max_bytes=7, reject=print))


def test_the_standard_library_without_what_is_held_out() -> None:
    from rasd.train.text import documents

    ids = set(texts("stdlib"))
    assert len(ids) > 100
    assert not ids & {document.id for document in documents(held_out=True)}


def test_lines_survive_writing_and_reading() -> None:
    given = NewDocument("a", "some\ntext", None, {"x": 1})
    line = json.dumps({"id": given.id, "text": given.text, "metadata": given.metadata})
    assert sources.parse_line(line) == given


@pytest.mark.parametrize(
    "text", ["\\ud800", "\\ud800 x", "x\\udfff", "\\ud800\\u0041", 'q\\"\\ud83d']
)
def test_a_lone_surrogate_is_called_one(text: str) -> None:
    line = f'{{"id": "a", "text": "{text}"}}'
    for form in (line, line.encode()):
        with pytest.raises(ValueError, match="a text holds a lone surrogate at"):
            sources.parse_line(form)
    for other in ('{"id": "a", "text": "b', '{"id": "a", "text": "\\ud83d\\ude00"', "{"):
        with pytest.raises(ValueError, match=r"truncated|malformed"):
            sources.parse_line(other)
