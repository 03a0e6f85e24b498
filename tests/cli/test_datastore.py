"""`rasd datastore create, delete, status, scale` against a running service."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from rasd.cli import app, datastore
from rasd.datastore import Failure, Scale, StoredDocument
from rasd.errors import Unavailable
from tests.cli.conftest import Place


def fill(place: Place, name: str, *ids: str) -> None:
    place.store.corpora_[name] = {i: StoredDocument(i, [1, 2, 3], None, {}) for i in ids}
    place.store.partitions[name] = 4


def test_create_says_what_there_is(place: Place) -> None:
    made = place.run("create", "docs", "--partitions", "1")
    assert (made.exit_code, made.stdout) == (0, "docs: made, with 1 partition, 0 documents\n")
    fill(place, "full", "a", "b")
    there = "full: is there already, with 4 partitions, 2 documents\n"
    assert place.run("create", "full").stdout == there
    other = place.run("create", "docs", "--partitions", "3")
    assert other.exit_code == 1
    assert "has 1 partitions; got 3 (409)" in other.stderr
    wrong = place.run("create", "no/name")
    assert (wrong.exit_code, "got 'no/name' (400)" in wrong.stderr) == (1, True)
    assert "Traceback" not in wrong.output


def test_documents_are_deleted_by_any_id(place: Place) -> None:
    ids = ["a", "b/c", "../d", "-e", "ünï\x1b[31m", *(f"n{i}" for i in range(2000))]
    fill(place, "docs", "keep", *ids)
    result = place.run("delete", "docs", "missing\x1b[31m", "--", *ids)
    assert result.exit_code == 0, result.output
    assert result.stdout == "2,005 documents deleted\n"
    assert "missing\\x1b[31m: there is no such document" in result.stderr
    assert "\x1b" not in result.output
    assert set(place.store.corpora_["docs"]) == {"keep"}
    gone = place.run("delete", "nowhere", "a")
    assert (gone.exit_code, "no corpus 'nowhere'" in gone.stderr) == (1, True)


def test_a_corpus_is_removed_only_when_that_is_meant(place: Place) -> None:
    fill(place, "docs", "a", "b")
    for arguments in (["docs"], ["docs", "a", "--all"]):
        assert "not both" in place.run("delete", *arguments).stderr
    for answer in ("n\n", "\n", ""):
        asked = place.run("delete", "docs", "--all", input=answer)
        assert asked.exit_code == 1
        assert "Remove 'docs' with 2 documents?" in asked.stderr
        assert "docs" in place.store.corpora_
    assert place.run("delete", "docs", "--all", input="y\n").exit_code == 0
    assert "docs" not in place.store.corpora_
    fill(place, "docs")
    done = place.run("delete", "docs", "--all", "--yes")
    assert done.stdout == "docs: removed, with 0 documents\n"
    assert "no corpus" in place.run("delete", "docs", "--all", "--yes").stderr


def test_status_shows_corpora_and_shards(place: Place) -> None:
    empty = place.run("status").stdout
    assert "no corpora" in empty and "1 shard of 1 replica" in empty
    fill(place, "docs", "a", "b")
    place.store.scaled = Scale(2, 2)
    lines = place.run("status").stdout.splitlines()
    (corpus,) = (line.split() for line in lines if line.startswith("docs"))
    assert corpus == ["docs", "2", "6", "3", "54", "B", "1", "4", "0"]
    shards = [line.split() for line in lines if " 120 MB " in line]
    assert [one[0] for one in shards] == ["0.0", "0.1", "1.0", "1.1"]
    assert shards[0][1:] == ("127.0.0.1:5000 4 1k 120 MB 4.2k 12.5 42 µs 310 µs 0 s".split())
    assert any("2 shards of 2 replicas, set by hand" in line for line in lines)
    assert json.loads(place.run("status", "--json").stdout)["scale"]["shards"] == 2


def test_damage_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(place, "docs", "a")
    made = place.store._info

    def damaged(name: str) -> Any:
        from dataclasses import replace

        return replace(made(name), damaged=["partition-0003/source-000018.seg: checksum"])

    monkeypatch.setattr(place.store, "_info", damaged)
    shown = place.run("status").stdout
    assert "damaged: docs: partition-0003/source-000018.seg: checksum" in shown


def test_what_runs_and_what_failed_is_told(place: Place) -> None:
    shown = place.run("status").stdout
    assert "1 compaction running, 3 waiting" in shown and "failed" not in shown
    place.store.failure = Failure("commit", "docs", "StorageError: docs: No \x1bspace", 200.0)
    lines = place.run("status").stdout.splitlines()
    at = lines.index(
        "failed: 4 compactions, 2 commits; the last one a commit of docs, 3 min 20 s ago"
    )
    assert lines[at + 1] == "StorageError: docs: No \\x1bspace"


def test_watching_survives_a_restart(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = 0

    def pause(seconds: float) -> None:
        nonlocal rounds
        assert seconds == 0.5
        rounds += 1
        place.store.fault = None
        if rounds == 2:
            place.store.fault = fail
        if rounds == 4:
            raise KeyboardInterrupt

    def fail(name: str, arguments: Any) -> None:
        raise Unavailable("the datastore restarts")

    monkeypatch.setattr(datastore, "_pause", pause)
    monkeypatch.setattr(datastore, "PATIENCE_S", 0.0)
    result = place.run("status", "--watch", "0.5")
    assert (result.exit_code, rounds) == (0, 4)
    lines = CliRunner().invoke(app, ["datastore", "status", "--watch", "0"])
    assert lines.exit_code == 2


def test_watching_as_json_gives_a_line_each(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter(range(3))

    def pause(seconds: float) -> None:
        if next(rounds) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(datastore, "_pause", pause)
    result = place.run("status", "--json", "--watch", "1")
    assert len([json.loads(line) for line in result.stdout.splitlines()]) == 3


def test_scale_shows_before_and_after(place: Place) -> None:
    result = place.run("scale", "--shards", "4")
    assert result.exit_code == 0
    before, now, watch = result.stdout.splitlines()
    assert before == "before: 1 shard of 1 replica"
    assert now.startswith("now:    4 shards of 1 replica, set by hand until the next deployment")
    assert "which says 1 shard of 1 replica" in now and "moving" in now
    assert "--watch" in watch
    assert place.run("scale", "--replicas", "2").exit_code == 0
    assert place.asked("scale") == [Scale(4, 1), Scale(4, 2)]
    assert "say how many" in place.run("scale").stderr
    assert place.run("scale", "--shards", "0").exit_code == 2


def test_a_service_that_is_not_there_is_said_at_once(place: Place) -> None:
    place.url = "http://127.0.0.1:1"
    for arguments in (
        ["status"],
        ["create", "x"],
        ["delete", "x", "y"],
        ["scale", "--shards", "2"],
    ):
        result = place.run(*arguments)
        assert result.exit_code == 1
        assert "http://127.0.0.1:1 does not answer" in result.stderr


def test_help_shows_every_command() -> None:
    runner = CliRunner(env={"COLUMNS": "120"})
    shown = runner.invoke(app, ["datastore", "--help"]).stdout
    for command in ("create", "add", "delete", "status", "scale", "verify", "export"):
        assert command in shown
        page = runner.invoke(app, ["datastore", command, "--help"])
        assert (page.exit_code, f"datastore {command}" in page.stdout) == (0, True)
