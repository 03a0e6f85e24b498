"""`rasd datastore verify` over a storage root."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from rasd.cli import app
from rasd.config import StoreConfig
from rasd.retrieval.store.records import Put
from rasd.retrieval.store.writer import CorpusWriter
from tests.retrieval.store.worlds import document, make_corpus


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, ["datastore", "verify", *arguments])


def inline(work: Callable[..., Any], *arguments: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(work(*arguments))
    return future


def fill(root: Path, name: str) -> None:
    make_corpus(root, name)
    writer = CorpusWriter(root, name, StoreConfig(), inline)
    writer.write([Put(document(f"d{i}", *range(1, i + 2))) for i in range(20)])
    writer.flush()
    writer.close()


def test_a_sound_root_and_a_damaged_one(tmp_path: Path) -> None:
    assert "no corpora" in run(str(tmp_path)).stdout
    fill(tmp_path, "docs")
    fill(tmp_path, "laws")
    sound = run(str(tmp_path))
    assert sound.exit_code == 0, sound.output
    rows = [line.split() for line in sound.stdout.splitlines()]
    assert ["docs", "20", "210"] in [row[:3] for row in rows]
    assert all(row[-1] == "0" for row in rows if row[:1] in (["docs"], ["laws"]))
    victim = next((tmp_path / "docs").rglob("*.seg"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    damaged = run(str(tmp_path))
    assert damaged.exit_code == 1
    assert str(victim) in damaged.stdout
    assert run(str(tmp_path), "laws").exit_code == 0


def test_roots_and_corpora_that_are_not_there(tmp_path: Path) -> None:
    fill(tmp_path, "docs")
    nowhere = run(str(tmp_path / "none"))
    assert (nowhere.exit_code, "is no folder" in nowhere.stderr) == (1, True)
    missing = run(str(tmp_path), "none")
    assert (missing.exit_code, "none" in missing.stderr) == (1, True)
    outside = run(str(tmp_path / "docs"), "..")
    assert outside.exit_code == 1
