"""The commands over a store on disk: what goes in comes out, and the files are sound."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest

from rasd.cli import datastore
from rasd.config import DatastoreConfig, StoreConfig
from rasd.datastore import CorpusInfo, DatastoreStatus, Scale
from rasd.retrieval.store.local import LocalCatalog
from rasd.retrieval.store.writer import CorpusWriter
from tests.api.fakes import TOKENIZER
from tests.cli.conftest import Place, served

TEXTS = {
    "plain.txt": "def main():\n    return 0\n",
    "a/b/../c d?#%2F.txt": "the the the",
    "ünï/日本語": "é🙂\u2028\ufeff",
    "marks": "<|end|> is text here",
}
BAD = {
    "NUL": ({"id": "bad", "text": "a\0b"}, "NUL"),
    "surrogate": (b'{"id": "bad", "text": "\\udfff"}', "surrogate"),
    "no UTF-8": (b'{"id": "bad", "text": "\xff"}', "not UTF-8"),
    "empty": ({"id": "bad", "text": ""}, "at least 1 character"),
    "no tokens": ({"id": "bad", "tokens": []}, "1 to"),
    "range": ({"id": "bad", "tokens": [len(TOKENIZER)]}, f"[0, {len(TOKENIZER)})"),
    "empty id": ({"id": "", "text": "x"}, "1 to 512 bytes"),
    "long id": ({"id": "x" * 513, "text": "x"}, "1 to 512 bytes"),
    "line in an id": ({"id": "a\nb", "text": "x"}, "control characters"),
    "large": ({"id": "bad", "text": "x" * 5_000_000}, "at most 4194304 bytes"),
    "huge": ({"id": "bad", "text": "x" * 9_000_000}, "at most 8388608"),
    "deep": (
        b'{"id": "bad", "text": "x", "metadata": {"x": ' + b"[" * 50 + b"]" * 50 + b"}}",
        "32",
    ),
    "big number": (b'{"id": "bad", "text": "x", "metadata": {"x": ' + b"9" * 30 + b"}}", "integer"),
}


class StoredDatastore(LocalCatalog):
    """A catalog on disk, without shards."""

    loop: asyncio.AbstractEventLoop

    async def corpus(self, name: str) -> CorpusInfo:
        self.loop = asyncio.get_running_loop()
        return await super().corpus(name)

    async def status(self) -> DatastoreStatus:
        one = Scale(1, 1)
        return DatastoreStatus(one, one, False, False, 1, await self.corpora(), [])

    async def scale(self, scale: Scale) -> DatastoreStatus:
        return await self.status()


def inline(work: Callable[..., Any], *arguments: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(work(*arguments))
    return future


@pytest.fixture
def stored(place: Place, tmp_path: Path) -> Iterator[Place]:
    """As ``place``, but over a store in ``tmp_path / "root"``."""
    root = tmp_path / "root"
    root.mkdir()
    settings = DatastoreConfig(root=str(root), store=StoreConfig(flush_tokens=500))
    catalog = StoredDatastore(root, TOKENIZER, settings, inline)
    with served(catalog) as url:
        place.url = url
        yield place
        asyncio.run_coroutine_threadsafe(catalog.close(), catalog.loop).result(30)


def documents(path: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in path.read_text().split("\n") if line]
    return {one.pop("id"): one for one in lines}


def test_what_goes_in_comes_out(stored: Place, tmp_path: Path) -> None:
    lines: dict[str, dict[str, Any]] = {id_: {"text": text} for id_, text in TEXTS.items()}
    lines["ids"] = {"tokens": [5, 6, 7, len(TOKENIZER) - 1]}
    lines["with"] = {"text": "more", "metadata": {"x": [1, -1.5, None, "é"], "": {}}}
    lines |= {f"n{i}": {"text": f"number {i} " * 20} for i in range(40)}
    source, copied = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"id": i} | one) + "\n" for i, one in lines.items()))
    assert stored.run("add", "docs", str(source), "--partitions", "2").exit_code == 0
    assert stored.run("delete", "docs", "n7", "a/b/../c d?#%2F.txt").exit_code == 0
    changed = json.dumps({"id": "n8", "text": "new"}) + "\n"
    assert "1 replaced" in stored.run("add", "docs", "-", input=changed).stdout
    assert stored.run("export", "docs", "-o", str(copied)).exit_code == 0
    del lines["n7"], lines["a/b/../c d?#%2F.txt"]
    lines["n8"] = {"text": "new"}
    assert documents(copied) == lines
    again = stored.run("add", "docs", str(copied))
    assert f"0 added, 0 replaced, {len(lines)} unchanged" in again.stdout
    assert stored.run("add", "copy", str(copied), "--partitions", "5").exit_code == 0
    assert stored.run("export", "copy", "-o", str(source)).exit_code == 0
    assert documents(source) == lines
    (row,) = (r.split() for r in stored.run("status").stdout.splitlines() if r.startswith("docs"))
    assert row[1] == str(len(lines))
    assert stored.run("delete", "copy", "--all", "--yes").exit_code == 0
    sound = stored.run("verify", str(tmp_path / "root"))
    assert sound.exit_code == 0, sound.output
    assert "copy" not in sound.stdout


def test_bad_input_is_told_and_harms_nothing(stored: Place, tmp_path: Path) -> None:
    good = [json.dumps({"id": f"g{i}", "text": f"good {i}"}).encode() for i in range(len(BAD) + 1)]
    lines = [good[-1]]
    for one, (bad, _) in zip(good, BAD.values(), strict=False):
        lines += [bad if isinstance(bad, bytes) else json.dumps(bad).encode(), one]
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"\n".join(lines))
    result = stored.run("add", "docs", str(source))
    assert result.exit_code == 1
    assert f"{len(good)} added, 0 replaced, 0 unchanged, {len(BAD)} rejected" in result.stdout
    told = [line for line in result.stderr.splitlines() if line.startswith(str(source))]
    for at, (line, (name, (_, reason))) in enumerate(zip(told, BAD.items(), strict=True)):
        assert line.startswith(f"{source}:{2 * at + 2}") and reason in line, (name, line)
    assert stored.run("export", "docs", "-o", str(source)).exit_code == 0
    assert set(documents(source)) == {f"g{i}" for i in range(len(good))}
    assert stored.run("verify", str(tmp_path / "root")).exit_code == 0


def test_documents_of_a_damaged_file_are_missed(stored: Place, tmp_path: Path) -> None:
    lines = [json.dumps({"id": f"n{i}", "text": f"number {i} " * 9}) for i in range(200)]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(lines))
    assert stored.run("add", "docs", str(source), "--partitions", "2").exit_code == 0
    assert stored.run("export", "docs", "-o", str(output)).exit_code == 0
    before = output.read_bytes()
    (broken, *_) = sorted((tmp_path / "root" / "docs" / "partition-0001").glob("*.docs"))
    content = bytearray(broken.read_bytes())
    content[-20] ^= 1
    broken.unlink()  # what is open of it stays as it was
    broken.write_bytes(content)
    name = f"partition-0001/{broken.name}"
    # Another process has nothing open yet.
    settings = DatastoreConfig(root=str(tmp_path / "root"))
    with served(StoredDatastore(tmp_path / "root", TOKENIZER, settings, inline)) as stored.url:
        filed = stored.run("export", "docs", "-o", str(output))
        printed = stored.run("export", "docs")
        listed = httpx.get(f"{stored.url}/v1/corpora/docs/documents").json()
    for result in (filed, printed):
        assert result.exit_code == 1
        assert name in result.stderr and "incomplete" in result.stderr
    assert listed["damaged"] == [name]
    assert output.read_bytes() == before
    rest = documents(tmp_path / "out.jsonl.part")
    assert 0 < len(rest) < 200 and len(printed.stdout.splitlines()) == len(rest)


def test_a_root_that_another_process_writes_is_locked(
    stored: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datastore, "PATIENCE_S", 0.0)
    assert stored.run("create", "docs").exit_code == 0
    writer = CorpusWriter(tmp_path / "root", "docs", StoreConfig(), inline)
    answer = stored.run("delete", "docs", "x")
    writer.close()
    assert answer.exit_code == 1
    assert "(503)" in answer.stderr and "docs" in answer.stderr
    assert stored.run("delete", "docs", "x").exit_code == 0
