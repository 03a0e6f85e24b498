"""`rasd datastore export`, and that adding what it wrote gives the same corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rasd.cli import client
from rasd.datastore import StoredDocument
from rasd.errors import NotFound, SegmentCorrupt
from tests.cli.conftest import Place

MIXED = [
    StoredDocument("plain", [104, 105], "hi", {}),
    StoredDocument("a/b c?%2F#\u2028.", [1, 2, 999], None, {"n": [1, 2.5, None], "é": {"x": True}}),
    StoredDocument("..", [195, 169], "é", {"k": "\u0001"}),
    *(StoredDocument(f"d{i}", list(f"text {i}".encode()), f"text {i}", {}) for i in range(250)),
]


@pytest.fixture
def full(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(client, "_PAGE", 100)
    place.store.corpora_["docs"] = {one.id: one for one in MIXED}
    place.store.partitions["docs"] = 4
    return place


def test_what_is_exported_can_be_added_again(full: Place, tmp_path: Path) -> None:
    output = tmp_path / "docs.jsonl"
    result = full.run("export", "docs", "-o", str(output))
    assert result.exit_code == 0, result.output
    assert result.stdout == "" and "253 documents" in result.stderr
    lines = [json.loads(line) for line in output.read_text().split("\n") if line]
    assert len(lines) == len(MIXED)
    assert {"id": "plain", "text": "hi"} in lines
    assert full.run("add", "copy", str(output)).exit_code == 0
    assert full.store.corpora_["copy"] == full.store.corpora_["docs"]
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == ["docs.jsonl"]


def test_standard_output_holds_only_documents(full: Place) -> None:
    result = full.run("export", "docs")
    ids = [json.loads(line)["id"] for line in result.stdout.split("\n") if line]
    assert sorted(ids) == sorted(one.id for one in MIXED)


def test_what_was_deleted_meanwhile_is_left_out(full: Place) -> None:
    def vanish(name: str, arguments: Any) -> None:
        if name == "get" and arguments[1] in ("d5", "plain"):
            raise NotFound("gone")

    full.store.fault = vanish
    result = full.run("export", "docs")
    assert result.exit_code == 0
    assert f"{len(MIXED) - 2:,} documents" in result.stderr


def test_a_failure_leaves_no_file(full: Place, tmp_path: Path) -> None:
    def fail(name: str, arguments: Any) -> None:
        if name == "get" and arguments[1] == "d170":
            raise SegmentCorrupt("source-000001.docs: checksum of block 3")

    full.store.fault = fail
    output = tmp_path / "docs.jsonl"
    output.write_text("what was there")
    result = full.run("export", "docs", "-o", str(output))
    assert (result.exit_code, "checksum of block 3" in result.stderr) == (1, True)
    assert output.read_text() == "what was there"
    assert len(full.asked("get")) < len(MIXED)
    assert not list(tmp_path.glob("*.part"))


def test_what_cannot_be_written_or_found_is_said(full: Place) -> None:
    nowhere = full.run("export", "docs", "-o", "/nowhere/at/all")
    assert (nowhere.exit_code, "No such file" in nowhere.stderr) == (1, True)
    missing = full.run("export", "none")
    assert (missing.exit_code, "no corpus 'none'" in missing.stderr) == (1, True)
