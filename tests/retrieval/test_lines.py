"""A line of JSON is the same document for everybody who reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rasd.cli.reading import Item, Position, Source
from rasd.datastore import NewDocument
from rasd.retrieval.lines import PassedOver, parse_line
from rasd.retrieval.sources import documents_of

NONE: frozenset[str] = frozenset()


def test_lines_survive_writing_and_reading() -> None:
    given = NewDocument("a", "some\ntext", None, {"x": 1})
    line = json.dumps({"id": given.id, "text": given.text, "metadata": given.metadata})
    assert parse_line(line) == parse_line(line.encode()) == (given, NONE)


def test_other_fields_are_passed_over() -> None:
    line = {"id": 7, "url": {"id": "b"}, "text": "t", "Text": [1], "metadata": None}
    assert parse_line(json.dumps(line)) == (NewDocument("7", "t"), {"url", "Text"})


def test_names_of_fields_are_few() -> None:
    passed_over = PassedOver()
    assert str(passed_over) == ""
    for name in ("url", "date", "url"):
        passed_over.add([name])
    assert str(passed_over) == "date, url"
    for i in range(10_000):
        passed_over.add([f"{i:05}", "x" * 100])
    assert str(passed_over).startswith("00000, 00001, ")
    assert str(passed_over).endswith(" and others") and len(str(passed_over)) < 300
    assert len(passed_over._names) < 30


LINES: list[tuple[dict[str, Any] | bytes, bool]] = [
    ({"id": "a", "text": "t"}, True),
    ({"id": 12, "text": "t"}, True),
    ({"id": "a", "tokens": [1, 2]}, True),
    ({"id": "a", "text": "t", "metadata": {"x": [None]}}, True),
    ({"id": "a", "text": "t", "metadata": None}, True),
    ({"id": "a", "text": "t", "tokens": None}, True),
    ({"id": "a", "text": "t", "url": "u", "title": {"deep": [1]}}, True),
    ({"text": "t", "url": "u"}, False),
    ({"id": 1.5, "text": "t"}, False),
    ({"id": "a", "text": 5}, False),
    ({"id": "a", "text": "t", "metadata": []}, False),
    (b'{"id": "a", "text": "\xff"}', False),
    (b'{"id": "a", "text": "\\ud800"}', False),
    (b'{"id": "a", "text": "t", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", False),
    (b'{"id": "a", "text": "t", "x": nope}', False),
]


def uploaded(path: Path) -> list[Item]:
    return list(Source("x", path, None, follow=True).read(Position(), 10**6))


def configured(path: Path) -> tuple[list[NewDocument], list[str], PassedOver]:
    """Documents, why others are none, and fields that are no part of them."""
    rejected: list[str] = []
    passed_over = PassedOver()
    documents = documents_of(
        str(path),
        max_bytes=10**6,
        reject=lambda _, why: rejected.append(why),
        passed_over=passed_over,
    )
    return list(documents), rejected, passed_over


@pytest.mark.parametrize(("line", "good"), LINES)
def test_what_is_uploaded_and_what_is_configured_are_read_alike(
    tmp_path: Path, line: dict[str, Any] | bytes, good: bool
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(line if isinstance(line, bytes) else json.dumps(line).encode())
    (item,) = uploaded(path)
    found, rejected, passed_over = configured(path)
    assert (item.document is not None) == (len(found) == 1) == good
    assert rejected == ([] if good else [item.reason])
    assert str(passed_over) == ", ".join(sorted(item.passed_over))
    if item.document is not None:
        sent = json.loads(item.document)
        one = found[0]
        wanted = {"id": one.id, "text": one.text, "tokens": one.tokens, "metadata": one.metadata}
        assert sent == {name: value for name, value in wanted.items() if value not in (None, {})}


MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("content", "faults"),
    [
        (b"", 0),
        (b"\n", 0),
        (b" \t\r\n \x0b\x0c", 0),
        (MARK, 0),
        (MARK + b"\r\n", 0),
        (MARK + b" \n\n", 0),
        (b" " + MARK, 1),  # only where the file begins
        (b"\n" + MARK, 1),
        (MARK + MARK, 1),
    ],
)
def test_what_is_blank_is_passed_over_by_both(tmp_path: Path, content: bytes, faults: int) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    reasons = [item.reason for item in uploaded(path)]
    documents, rejected, _ = configured(path)
    assert (documents, rejected) == ([], reasons)
    assert len(reasons) == faults


@pytest.mark.parametrize(
    "text", ["\\ud800", "\\ud800 x", "x\\udfff", "\\ud800\\u0041", 'q\\"\\ud83d']
)
def test_a_lone_surrogate_is_called_one(text: str) -> None:
    line = f'{{"id": "a", "text": "{text}"}}'
    for form in (line, line.encode()):
        with pytest.raises(ValueError, match="a text holds a lone surrogate at"):
            parse_line(form)
    for other in ('{"id": "a", "text": "b', '{"id": "a", "text": "\\ud83d\\ude00"', "{"):
        with pytest.raises(ValueError, match=r"truncated|malformed"):
            parse_line(other)
