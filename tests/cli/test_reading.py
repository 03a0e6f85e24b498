"""Reading sources: bounded lines against a slow twin, and files that are not what they were."""

from __future__ import annotations

import json
import os
import subprocess
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.cli.reading import Item, Position, Source
from rasd.cli.sources import find_sources
from rasd.errors import InvalidRequest

LIMIT = 40
BEGINNING = Position()

contents = st.lists(
    st.sampled_from([b"\n", b"\r\n", b" ", b'{"id": "a", "text": "b"}', b"{", b"\xff", b"x" * 39])
    | st.binary(max_size=50),
    max_size=12,
).map(b"".join)


def slowly(content: bytes) -> list[tuple[int, str, bool]]:
    """Line number, id and whether it is a document, for every line that is not blank."""
    found = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        stripped = line.strip()
        try:
            document = json.loads(stripped.decode())
        except ValueError:
            document = None
        good = document == {"id": "a", "text": "b"} and len(line) <= LIMIT
        if stripped:
            found.append((number, "a" if good else "", good))
    return found


def read(source: Source, start: Position = BEGINNING) -> list[Item]:
    return list(source.read(start, LIMIT))


@given(content=contents, data=st.data())
def test_lines_are_those_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    path.write_bytes(content)
    (source,) = find_sources([str(path)]).sources
    items = read(source)
    found = [(item.after.line, item.id, item.document is not None) for item in items]
    assert found == slowly(content)
    for item in items:
        assert (item.document is None) is bool(item.reason)
        assert len(content[: item.after.offset].split(b"\n")) - item.after.line in (0, 1)
    assert sum(item.size for item in items) == (items[-1].after.offset if items else 0)
    if items:
        at = data.draw(st.integers(0, len(items) - 1))
        assert read(source, items[at].after) == items[at + 1 :]


def test_a_byte_order_mark_is_no_part_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a", "text": "b"}\r\n')
    (item,) = read(find_sources([str(path)]).sources[0])
    assert (item.id, item.reason) == ("a", "")


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1])
def test_the_limit_is_exact(tmp_path: Path, size: int) -> None:
    path, text = tmp_path / "a", tmp_path / "b.txt"
    line = '{"id": "a", "text": ""}'
    line = line[:-2] + "x" * (size - len(line)) + line[-2:]
    for end in ("", "\n", "\r\n"):
        path.write_text(line + end)
        (source,) = find_sources([str(path)], kind="jsonl").sources
        (item,) = read(source)
        told = f"the line has {size + len(end)} bytes; at most {LIMIT} are read"
        assert item.reason == ("" if size <= LIMIT else told)
    text.write_text("x" * size)
    (item,) = read(find_sources([str(text)]).sources[0])
    told = f"the file has {size} bytes; at most {LIMIT} are read"
    assert item.reason == ("" if size <= LIMIT else told)


def test_a_line_without_end_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as file:
        file.truncate(10**8)  # NULs without a line break, that take no room
        file.seek(0, os.SEEK_END)
        file.write(b'\n{"id": "a", "text": "b"}\n')
    (source,) = find_sources([str(path)]).sources
    tracemalloc.start()
    try:
        huge, good = read(source)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert huge.reason == f"the line has {10**8 + 1} bytes; at most {LIMIT} are read"
    assert (good.after.line, good.reason) == (2, "")
    assert peak < 10**7


def test_a_file_that_became_something_else_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a", "b", "c", "d"):
        (folder / name).write_text("text")
    sources = {source.id: source for source in find_sources([str(folder)]).sources}
    (folder / "a").unlink()
    (folder / "a").symlink_to("/etc/passwd")
    (folder / "b").unlink()
    os.mkfifo(folder / "b")
    (folder / "c").unlink()
    reasons = {id_: read(source)[0].reason for id_, source in sources.items()}
    assert "symbolic links" in reasons["a"]
    assert "no regular file" in reasons["b"]
    assert "No such file" in reasons["c"]
    assert reasons["d"] == ""


def test_a_folder_nobody_may_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder" / "shut").mkdir(parents=True)
    (tmp_path / "folder" / "a").write_text("text")
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    first, second = find_sources([str(tmp_path / "folder")]).sources
    assert "Permission denied" in read(first if first.fault else second)[0].reason


def test_ids_that_meet_are_told(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same").write_text(name)
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    first, second = find_sources([one, two]).sources
    assert read(first)[0].reason == ""
    assert f"is that of {one}/same, too; use --prefix" in read(second)[0].reason
    assert not any(source.fault for source in find_sources([one, one]).sources)


def test_names_that_are_no_utf8_are_told(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"\xff")
    Path(os.fsdecode(path)).write_text("text")
    (source,) = find_sources([str(tmp_path)]).sources
    (item,) = read(source)
    assert (item.document, "not UTF-8" in item.reason) == (None, True)


def test_a_pipe_that_was_named_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["sh", "-c", f"printf 'some text' > {pipe}"]):
        (source,) = find_sources([str(pipe)], id_="x").sources
        (item,) = read(source)
    assert item.document == b'{"id":"x","text":"some text"}'
    assert source.key == ""


def test_what_is_not_there_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        find_sources([str(tmp_path / "none")])
