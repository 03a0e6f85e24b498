"""`rasd datastore add` against a running service."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rasd.cli import upload
from rasd.cli.reading import Item, Position, Source
from rasd.errors import Overloaded, StorageError, Unavailable
from tests.cli.conftest import Place, served


def write_lines(path: Path, *lines: Any) -> Path:
    """Objects as JSON, bytes as they are."""
    made = (one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines)
    path.write_bytes(b"\n".join(made) + b"\n")
    return path


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"id": f"d{i}", "text": f"text {i}"} for i in range(count)]


def texts(place: Place, corpus: str = "docs") -> dict[str, str | None]:
    return {id_: document.text for id_, document in place.store.corpora_[corpus].items()}


def test_lines_become_documents(place: Place, tmp_path: Path) -> None:
    source = write_lines(
        tmp_path / "docs.jsonl",
        {"id": "a", "text": "one"},
        {"id": 7, "tokens": [1, 2], "metadata": {"x": [1, None, "é"]}},
        b"",
        {"id": "b", "text": "two", "metadata": None},
    )
    first = place.run("add", "docs", str(source), "--partitions", "2")
    assert first.exit_code == 0, first.output
    assert "3 added, 0 replaced, 0 unchanged, 0 rejected" in first.stdout
    assert place.store.partitions == {"docs": 2}
    seven = place.store.corpora_["docs"]["7"]
    assert (seven.tokens, seven.text, seven.metadata) == ([1, 2], None, {"x": [1, None, "é"]})
    again = place.run("add", "docs", str(source))
    assert "0 added, 0 replaced, 3 unchanged, 0 rejected" in again.stdout
    assert not list(place.notes.iterdir())


def test_every_bad_line_is_told_and_the_rest_goes_on(place: Place, tmp_path: Path) -> None:
    bad: list[tuple[Any, str]] = [
        (b'{"id": "a", "text": "caf\xe9"}', "not UTF-8"),
        (b"{broken", "JSON is malformed"),
        (b"[1]", "Expected `object`"),
        ({"text": "x"}, "required field `id`"),
        ({"id": "b"}, "neither text nor tokens"),
        ({"id": "b", "text": "x", "tokens": [1]}, "both text and tokens"),
        ({"id": "b", "txt": "x"}, "neither text nor tokens"),
        ({"id": "b", "text": 5}, "$.text"),
        ({"id": "b", "tokens": [1, True]}, "$.tokens"),
        ({"id": True, "text": "x"}, "$.id"),
        ({"id": "b", "text": "x\0y"}, "text holds a NUL character at 1"),
        (b'{"id": "b", "text": "\\ud800 lone"}', "lone surrogate at 0"),
        (b'{"id": "b", "text": "last \\ud800"}', "lone surrogate at 5"),
        (b'{"id": "b", "text": "x", "metadata": {"n": NaN}}', "malformed"),
        ({"id": "b", "text": "x" * 400}, "the line has 424 bytes; at most 300 are read"),
        ({"id": "empty", "text": ""}, "at least 1 token"),
        ({"id": "range", "tokens": [10**9]}, "token ids must be in"),
        ({"id": "nul", "text": "x", "metadata": {"a": "\0"}}, "NUL"),
    ]
    good = numbered(len(bad))
    lines = [one for pair in zip(good, [line for line, _ in bad], strict=True) for one in pair]
    source = write_lines(tmp_path / "docs.jsonl", *lines)
    rejects = tmp_path / "rejects.jsonl"
    result = place.run("add", "docs", str(source), "--rejects", str(rejects), "--max-bytes", "300")
    assert result.exit_code == 1
    assert f"{len(good)} added, 0 replaced, 0 unchanged, {len(bad)} rejected" in result.stdout
    told = [line for line in result.stderr.splitlines() if line.startswith(str(source))]
    written = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert len(told) == len(written) == len(bad)
    for at, (_, reason) in enumerate(bad):
        number = 2 * at + 2
        assert told[at].startswith(f"{source}:{number}") and reason in told[at], told[at]
        assert (written[at]["source"], written[at]["line"]) == (str(source), number)
        assert reason in written[at]["error"]
    assert written[-1]["id"] == "nul"
    assert set(texts(place)) == {one["id"] for one in good}


def test_other_fields_of_lines_are_passed_over_and_named(place: Place, tmp_path: Path) -> None:
    dump = [one | {"url": f"u{i}", "[red]date": i} for i, one in enumerate(numbered(5))]
    source = write_lines(tmp_path / "dump.jsonl", *dump)
    result = place.run("add", "docs", str(source))
    assert result.exit_code == 0, result.output
    assert texts(place) == {one["id"]: one["text"] for one in numbered(5)}
    assert "passed over in lines: the fields [red]date, url" in result.stdout.splitlines()
    plain = write_lines(tmp_path / "plain.jsonl", *numbered(5))
    assert "passed over" not in place.run("add", "docs", str(plain)).output


def test_a_folder_gives_its_files(place: Place, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub" / ".git").mkdir(parents=True)
    (root / "a.txt").write_text("one\r\n")
    (root / "sub" / "ünï.md").write_text("two")
    (root / "sub" / "lines.jsonl").write_text('{"id": "x"}\n')
    (root / "bad.bin").write_bytes(b"\xff\xfe")
    (root / "empty").write_text("")
    (root / ".hidden").write_text("no")
    (root / "sub" / ".git" / "config").write_text("no")
    (tmp_path / "outside").write_text("no")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe")
    result = place.run("add", "docs", str(root), "--prefix", "p/")
    assert result.exit_code == 1
    assert texts(place) == {
        "p/a.txt": "one\r\n",
        "p/sub/ünï.md": "two",
        "p/sub/lines.jsonl": '{"id": "x"}\n',
    }
    assert "3 added, 0 replaced, 0 unchanged, 2 rejected" in result.stdout
    assert "2 hidden, 3 linked or special" in result.stdout
    assert f"{root / 'bad.bin'}: not UTF-8: byte 0" in result.stderr
    assert f"{root / 'empty'}: a document must have" in result.stderr


def test_one_text_and_standard_input(place: Place, tmp_path: Path) -> None:
    lines = "".join(json.dumps(one) + "\n" for one in numbered(3))
    assert "3 added" in place.run("add", "docs", "-", input=lines).stdout
    assert place.run("add", "docs", "-", "--id", "one", input="all\nof it").exit_code == 0
    assert texts(place)["one"] == "all\nof it"
    file = tmp_path / "plain"
    file.write_text("from a file")
    assert place.run("add", "docs", str(file), "--id", "named").exit_code == 0
    assert texts(place)["named"] == "from a file"
    assert place.run("add", "docs", str(file)).exit_code == 0
    assert texts(place)[str(file)] == "from a file"
    assert place.run("add", "docs", str(file), "--format", "jsonl").exit_code == 1


def test_the_later_of_two_with_one_id_counts(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "DOCUMENTS", 3)
    lines = [{"id": f"d{i % 7}", "text": f"version {i}"} for i in range(60)]
    source = write_lines(tmp_path / "docs.jsonl", *lines)
    result = place.run("add", "docs", str(source))
    assert "7 added, 53 replaced" in result.stdout
    assert texts(place) == {f"d{i % 7}": f"version {i}" for i in range(53, 60)}


def test_an_interrupted_run_goes_on(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "DOCUMENTS", 5)
    lines: list[Any] = [*numbered(7), b"broken", *numbered(100)[7:]]
    source = write_lines(tmp_path / "docs.jsonl", *lines)
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i:02}").write_text(f"file {i}")
    arguments = ("add", "docs", str(folder), str(source))
    full = 0

    def fill_up(name: str, given: Any) -> None:
        nonlocal full
        if name == "add":
            full += 1
            if full > 12:
                raise StorageError("no space left on the device")

    place.store.fault = fill_up
    stopped = place.run(*arguments)
    assert stopped.exit_code == 1
    assert "no space left" in stopped.stderr and "goes on from here" in stopped.stderr
    there = len(place.store.corpora_["docs"])
    assert 20 < there < 120
    place.store.fault = None
    place.store.calls.clear()
    went_on = place.run(*arguments)
    noted = int(re.search(r"going on after (\d+)", went_on.stderr)[1])
    counts = [int(number) for number in re.findall(r"(\d+) [aru]", went_on.stdout)]
    # A batch that got in while the one before it failed is sent again, and found unchanged.
    created, replaced, unchanged, rejected = counts
    assert (created + unchanged, replaced, rejected) == (120, 0, 1)
    assert went_on.exit_code == 1  # for the line that an earlier run rejected
    sent = sum(len(documents) for _, documents in place.asked("add"))
    assert sent == 121 - noted and noted > 30 and unchanged <= 3 * 5
    assert len(texts(place)) == 120
    place.store.calls.clear()
    assert "120 unchanged" in place.run(*arguments).stdout


def test_what_changed_meanwhile_is_read_anew(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "DOCUMENTS", 5)
    source = write_lines(tmp_path / "docs.jsonl", *numbered(50))

    def fail_later(name: str, given: Any) -> None:
        if name == "add" and len(place.asked("add")) > 4:
            raise StorageError("full")

    def interrupt() -> None:
        place.store.calls.clear()
        place.store.fault = fail_later
        assert place.run("add", "docs", str(source)).exit_code == 1
        place.store.fault = None
        place.store.calls.clear()

    def sent() -> int:
        return sum(len(documents) for _, documents in place.asked("add"))

    interrupt()
    write_lines(source, *numbered(51))
    place.run("add", "docs", str(source))
    assert sent() == 51
    interrupt()
    place.run("add", "docs", str(source), "--no-resume")
    assert sent() == 51
    interrupt()
    place.run("add", "other", str(source))
    assert sent() == 51


def test_overload_and_restarts_are_waited_for(place: Place, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "docs.jsonl", *numbered(30))
    failures = [
        Overloaded("too much waits", retry_after_s=0.1),
        Unavailable("restarting"),
    ]

    def fail_at_first(name: str, given: Any) -> None:
        if name == "add" and failures:
            raise failures.pop()

    place.store.fault = fail_at_first
    result = place.run("add", "docs", str(source))
    assert result.exit_code == 0, result.output
    assert not failures and "30 added" in result.stdout


def test_a_body_that_is_too_large_is_cut(tmp_path: Path, place: Place) -> None:
    source = write_lines(
        tmp_path / "docs.jsonl",
        *numbered(40),
        {"id": "big", "text": "x" * 5000},
        *numbered(50)[40:],
    )
    with served(place.store, max_body_bytes=1000) as url:
        place.url = url
        result = place.run("add", "docs", str(source))
    assert result.exit_code == 1
    assert "50 added, 0 replaced, 0 unchanged, 1 rejected" in result.stdout
    assert f"{source}:41 (id 'big')" in result.stderr and "at most 1000" in result.stderr


def test_batches_are_bounded(place: Place, tmp_path: Path) -> None:
    lines = [{"id": str(i), "text": "x" * 100_000} for i in range(40)]
    lines += [{"id": f"s{i}", "text": "x"} for i in range(1200)]
    assert place.run("add", "docs", str(write_lines(tmp_path / "a.jsonl", *lines))).exit_code == 0
    sizes = [sum(len(one.text or "") for one in documents) for _, documents in place.asked("add")]
    assert max(sizes) <= upload.BYTES and len(sizes) >= 4
    assert max(len(documents) for _, documents in place.asked("add")) <= upload.DOCUMENTS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere/at/all"], "No such file"),
        (["-", "--format", "text"], "needs --id"),
        (["{file}", "{file}", "--id", "x"], "exactly one source"),
        (["{folder}", "--id", "x"], "is a folder"),
        (["{folder}", "--format", "jsonl"], "is a folder"),
        (["{file}", "--rejects", "/nowhere/at/all"], "--rejects"),
        (["{file}", "--url", "localhost:1"], "must begin with http"),
        (["{file}", "--url", "http://127.0.0.1:1"], "is the service running"),
        (["{file}", "--key", "ünï"], "API key"),
    ],
    ids=lambda x: str(x)[:30],
)
def test_what_cannot_be_begun(
    place: Place, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("text")
    names = {"file": str(tmp_path / "file"), "folder": str(tmp_path / "folder")}
    result = place.run("add", "docs", *(one.format(**names) for one in arguments))
    assert result.exit_code == 1
    assert message in result.stderr
    assert not place.asked("add")


def test_without_the_right_to_change_nothing_is_read(place: Place, tmp_path: Path) -> None:
    from rasd.config import ApiKey

    source = write_lines(tmp_path / "docs.jsonl", *numbered(3))
    keys = [ApiKey(name="reader", sha256=ApiKey.digest("secret"))]
    with served(place.store, api_keys=keys) as url:
        place.url, place.environment = url, {"RASD_API_KEY": "secret"}
        result = place.run("add", "docs", str(source))
    assert (result.exit_code, "manage" in result.stderr) == (1, True)
    assert not place.store.calls


def test_notes_that_cannot_be_kept_are_no_obstacle(place: Place, tmp_path: Path) -> None:
    place.notes.write_text("a file where a folder should be")
    source = write_lines(tmp_path / "docs.jsonl", *numbered(3))
    result = place.run("add", "docs", str(source))
    assert (result.exit_code, "3 added" in result.stdout) == (0, True)
    assert "could not be resumed" in result.stderr


def test_a_keyboard_interrupt_keeps_what_was_acknowledged(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "DOCUMENTS", 5)
    source = write_lines(tmp_path / "docs.jsonl", *numbered(60))
    read = Source.read

    def interrupted(self: Source, start: Position, limit: int) -> Iterator[Item]:
        for number, item in enumerate(read(self, start, limit)):
            if number == 42:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(Source, "read", interrupted)
    stopped = place.run("add", "docs", str(source))
    assert stopped.exit_code == 130
    assert "40 added" in stopped.stdout and "goes on from here" in stopped.stderr
    monkeypatch.setattr(Source, "read", read)
    place.store.calls.clear()
    went_on = place.run("add", "docs", str(source))
    assert (went_on.exit_code, "60 added" in went_on.stdout) == (0, True)
    assert sum(len(documents) for _, documents in place.asked("add")) == 20


@pytest.mark.parametrize("moment", ["find_sources", "Client"])
def test_an_interruption_before_anything_is_sent_is_told(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"rasd.cli.add.{moment}", interrupt)
    result = place.run("add", "docs", str(write_lines(tmp_path / "a.jsonl", *numbered(1))))
    assert (result.exit_code, "the same command" in result.stderr) == (130, True)
    assert not place.store.corpora_
