"""Notes of an upload: what was acknowledged is found again, whatever else the file holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from rasd.cli.journal import Journal, Outcome, journal_path
from rasd.cli.reading import Item, Position, Source

LINES = Source("a.jsonl", Path("a.jsonl"), None, 100, "lines")
STDIN = Source("standard input", None, None)


def outcome(source: Source, line: int, change: str = "created") -> Outcome:
    return Outcome(Item(source, "", b"", "", 10, Position(10 * line, line)), change)


def file(name: str) -> Source:
    return Source(name, Path(name), name, 10, name)


def test_what_is_noted_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "notes"
    journal = Journal(path)
    assert not journal.resumes
    assert journal.start("lines") == Position()
    journal.note([outcome(file("x"), 1), outcome(LINES, 1), outcome(LINES, 2, "rejected")])
    journal.note([outcome(LINES, 5, "replaced"), outcome(STDIN, 9)])
    journal.close(finished=False)
    again = Journal(path)
    assert again.resumes
    assert (again.start("lines"), again.start("x")) == (Position(50, 5), None)
    assert again.start("y") == Position()
    assert again.counts == {"created": 2, "rejected": 1, "replaced": 1}
    again.close(finished=True)
    assert not path.exists()


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_cut_short_counts_for_nothing(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "notes"
    journal = Journal(path)
    for line in (1, 2):
        journal.note([outcome(LINES, line)])
    journal.close(finished=False)
    content = path.read_bytes()
    assert cut < len(content) // 2 + 20
    path.write_bytes(content[:-cut])
    journal = Journal(path)
    whole = 2 if cut == 1 else content[:-cut].count(b"\n")
    assert journal.start("lines") == Position(10 * whole, whole)
    journal.note([outcome(LINES, 3)])
    journal.close(finished=False)
    journal = Journal(path)
    assert journal.start("lines") == Position(30, 3)
    journal.close(finished=True)


def test_without_a_place_nothing_is_kept() -> None:
    journal = Journal(None)
    journal.note([outcome(LINES, 4)])
    assert journal.counts == {"created": 1}
    journal.close(finished=True)


def test_uploads_that_differ_have_notes_of_their_own(tmp_path: Path) -> None:
    paths = {journal_path(tmp_path, *what) for what in [("a", "b"), ("ab",), ("a", "b", 1)]}
    assert len(paths) == 3
    assert journal_path(tmp_path, "a", "b") in paths
