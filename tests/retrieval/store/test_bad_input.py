"""Everything that may be thrown at a corpus: a clear error each, and the store stays sound."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from rasd.config import CorpusConfig, DatastoreConfig, StoreConfig
from rasd.datastore import NewDocument
from rasd.errors import ConfigError, StorageError, StoreLocked
from rasd.retrieval.store.corpora import read_spec
from rasd.retrieval.store.local import LocalCatalog
from rasd.retrieval.store.verify import verify
from tests.retrieval.store.worlds import Submitter, live
from tests.tokenizers import byte_tokenizer

SETTINGS = DatastoreConfig(partitions=2, store=StoreConfig(flush_tokens=500, refresh_s=3600))
GOOD = NewDocument("good", "the abc", metadata={"kept": True})
HELD = {"good": "the abc"}


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[LocalCatalog]:
    """Holds one good document."""
    async with opened(tmp_path / "root") as catalog:
        yield catalog


class opened:
    """A catalog with a corpus "c" of one good document."""

    def __init__(self, root: Path) -> None:
        self._catalog = LocalCatalog(root, byte_tokenizer(), SETTINGS, Submitter())

    async def __aenter__(self) -> LocalCatalog:
        await self._catalog.create("c")
        await self._catalog.add("c", [GOOD])
        return self._catalog

    async def __aexit__(self, *_: object) -> None:
        await self._catalog.close()


def assert_sound(root: Path, held: dict[str, str | None]) -> None:
    """The corpus holds these texts by id, and no file is damaged."""
    assert {id_: document.text for id_, document in live(root).items()} == held
    report = verify(root, None)
    assert (report.damaged, report.documents) == ([], len(held))


async def refused(catalog: LocalCatalog, *documents: NewDocument) -> list[str]:
    """The reasons why all of these are rejected; one that is good beside them is taken."""
    found = await catalog.add("c", [*documents, GOOD])
    assert [one.change for one in found] == [*["rejected"] * len(documents), "unchanged"]
    json.dumps([[one.id, one.error] for one in found]).encode()
    return [one.error for one in found[:-1]]


# --- content --------------------------------------------------------------------------------------


async def test_invalid_utf8(catalog: LocalCatalog, tmp_path: Path) -> None:
    bad: Any = b"\xff\xfe"
    (reason,) = await refused(catalog, NewDocument("a", bad))
    assert reason == "text must be a string; got bytes"
    lines = tmp_path / "lines.jsonl"
    lines.write_bytes(b'{"id": "x", "text": "\xff"}\n{"id": "good", "text": "the abc"}')
    info = await catalog.seed(CorpusConfig(name="lines", source=str(lines)))
    assert info.documents == 1
    (tmp_path / "file.txt").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"file.txt: 'utf-8' codec can't decode byte 0xff"):
        await catalog.seed(CorpusConfig(name="file", source=str(tmp_path / "file.txt")))
    await catalog.drop("lines")
    assert_sound(tmp_path / "root", HELD)


async def test_lone_surrogates(catalog: LocalCatalog, tmp_path: Path) -> None:
    reasons = await refused(
        catalog,
        NewDocument("a", "x\ud800"),
        NewDocument("a\udfff", "x"),
        NewDocument("b", "x", metadata={"k": "\ud800"}),
    )
    assert reasons == [
        "text must be without lone surrogates; character 1 is one",
        r"an id must be without lone surrogates; character 1 of 'a\udfff' is one",
        "metadata must be without lone surrogates",
    ]
    assert_sound(tmp_path / "root", HELD)


async def test_nul_bytes(catalog: LocalCatalog, tmp_path: Path) -> None:
    reasons = await refused(catalog, NewDocument("a", "x\0"), NewDocument("\0", "x"))
    assert reasons == [
        "text must be without NUL; character 1 is one",
        r"an id must be without control characters; character 0 of '\x00' is one",
    ]
    assert_sound(tmp_path / "root", HELD)


async def test_empty_documents(catalog: LocalCatalog, tmp_path: Path) -> None:
    reasons = await refused(
        catalog, NewDocument("a", ""), NewDocument("b", tokens=[]), NewDocument("c")
    )
    assert reasons == [
        "text must have at least 1 character; got 0",
        "tokens must be 1 to 1048576 token ids; got 0",
        "a document has either text or tokens; got neither",
    ]
    assert_sound(tmp_path / "root", HELD)


async def test_documents_of_100_megabytes(catalog: LocalCatalog, tmp_path: Path) -> None:
    """Refused before they are tokenised or copied."""
    text, tokens = "x" * 10**8, [1] * (25 * 10**6)
    tracemalloc.start()
    try:
        start = time.process_time()
        reasons = await refused(catalog, NewDocument("a", text), NewDocument("b", tokens=tokens))
        assert time.process_time() - start < 2
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()
    assert reasons == [
        "text must be at most 4194304 bytes of UTF-8; got 100000000 characters",
        "tokens must be 1 to 1048576 token ids; got 25000000",
    ]
    assert_sound(tmp_path / "root", HELD)


async def test_a_file_of_100_megabytes(tmp_path: Path) -> None:
    """Neither a file nor a line is read whole."""
    root, folder = tmp_path / "root", tmp_path / "folder"
    folder.mkdir()
    with (folder / "large.txt").open("wb") as file:
        file.truncate(10**8)
    lines = tmp_path / "lines.jsonl"
    lines.write_bytes(b'{"id": "a", "text": "' + b"x" * 10**8 + b'"}\n{"id": "b", "text": "x"}')
    async with opened(root) as catalog:
        tracemalloc.start()
        try:
            with pytest.raises(ConfigError, match="at most 4194304 bytes of UTF-8; got 100000000"):
                await catalog.seed(CorpusConfig(name="folder", source=str(folder)))
            info = await catalog.seed(CorpusConfig(name="lines", source=str(lines)))
            assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
        finally:
            tracemalloc.stop()
        assert info.documents == 1
        await catalog.drop("lines")
    assert_sound(root, HELD)


async def test_duplicate_ids(catalog: LocalCatalog, tmp_path: Path) -> None:
    found = await catalog.add("c", [NewDocument("a", "one"), NewDocument("a", "two")])
    assert [one.change for one in found] == ["created", "rejected"]
    assert found[1].error == "id 'a' comes twice in one call; the first one counts"
    assert_sound(tmp_path / "root", HELD | {"a": "one"})


async def test_ids_with_path_separators(catalog: LocalCatalog, tmp_path: Path) -> None:
    """They are names like others, and nothing appears outside the corpus."""
    (tmp_path / "root" / "other").mkdir()

    def outside() -> list[Path]:
        return sorted(path for path in tmp_path.rglob("*") if "c" not in path.parts)

    before = outside()
    ids = ["../../evil", "/etc/evil", "a/b/c", "..", ".", "../c/corpus.json", "C:\\evil", "~/x"]
    ids += ["corpus.json", "partition-0000", "writer.lock", "%2e%2e%2fevil", "-rf", "*", "$(x)"]
    found = await catalog.add("c", [NewDocument(id_, "x") for id_ in ids])
    assert {one.change for one in found} == {"created"}
    await catalog.flush("c")
    assert outside() == before
    assert not Path("/etc/evil").exists()
    for id_ in ids:
        assert (await catalog.get("c", id_)).text == "x"
    assert_sound(tmp_path / "root", HELD | dict.fromkeys(ids, "x"))
    await catalog.delete("c", ids)
    assert_sound(tmp_path / "root", HELD)


async def test_token_ids_beyond_the_vocabulary(catalog: LocalCatalog, tmp_path: Path) -> None:
    size = len(byte_tokenizer())
    given = [[size], [0, -1], [2**32], [2**31 - 1], [10**30]]
    reasons = await refused(
        catalog, *(NewDocument(str(i), tokens=tokens) for i, tokens in enumerate(given))
    )
    for reason in reasons:
        assert reason.startswith(f"token ids must be in [0, {size}); got ")
    await catalog.add("c", [NewDocument("last", tokens=[size - 1])])
    assert_sound(tmp_path / "root", HELD | {"last": None})


# --- disks ----------------------------------------------------------------------------------------


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file grows beyond ``size`` bytes, as if the disk were full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_in_the_middle_of_a_write(catalog: LocalCatalog, tmp_path: Path) -> None:
    root = tmp_path / "root"
    documents = [NewDocument(f"d{i}", f"the abc {i} " * 20) for i in range(10)]
    for size in (0, 1, 100, 200, 400):
        with files_of_at_most(size), pytest.raises(StorageError, match="File too large"):
            await catalog.add("c", documents)
        assert_sound(root, HELD)
        assert (await catalog.get("c", "good")).text == "the abc"
    assert {one.change for one in await catalog.add("c", documents)} == {"created"}
    held: dict[str, str | None] = HELD | {one.id: one.text for one in documents}
    for size in (100, 1000):
        with files_of_at_most(size), pytest.raises(StorageError, match="File too large"):
            await catalog.flush("c")
        assert_sound(root, held)
    await catalog.flush("c")
    assert_sound(root, held)
    (info,) = await catalog.corpora()
    assert (info.memory_tokens, info.documents) == (0, 11)


@pytest.mark.parametrize("call", ["fsync", "link"])
async def test_a_disk_that_is_full_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """What failed may be there, whole; to repeat it makes it so."""
    root = tmp_path / "root"
    system = getattr(os, call)
    async with opened(root) as catalog:
        held: dict[str, str | None] = dict(HELD)
        for moment in count():
            document = NewDocument(f"d{moment}", f"the abc {moment}")
            calls = 0

            def failing(*args: Any, at: int = moment, **named: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == at + 1:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return system(*args, **named)

            with monkeypatch.context() as patch, suppress(StorageError):
                patch.setattr(os, call, failing)
                await catalog.add("c", [document])
                held[document.id] = document.text
            there = live(root).keys()
            assert held.keys() <= there <= held.keys() | {document.id}
            assert verify(root, None).damaged == []
            (again,) = await catalog.add("c", [document])
            assert again.change == ("unchanged" if document.id in there else "created")
            held[document.id] = document.text
            assert_sound(root, held)
            if calls <= moment:
                break
        assert moment >= {"fsync": 4, "link": 1}[call]


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """Nothing below ``place`` can be written, by root either."""
    folders = [place, *(path for path in place.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        for folder in folders:
            folder.chmod(0o755)


async def test_a_read_only_directory() -> None:
    place = Path(tempfile.mkdtemp())  # where other users may look
    try:
        async with opened(place / "root"):
            pass
        catalog = LocalCatalog(place / "root", byte_tokenizer(), SETTINGS, Submitter())
        with read_only(place):
            assert (await catalog.get("c", "good")).text == "the abc"
            assert [one.documents for one in await catalog.corpora()] == [1]
            for write in (
                catalog.add("c", [NewDocument("a", "x")]),
                catalog.delete("c", ["good"]),
                catalog.create("new"),
                catalog.drop("c"),
                catalog.flush("c"),
            ):
                with pytest.raises(StorageError, match=r"Permission denied|Read-only"):
                    await write
        assert_sound(place / "root", HELD)
        await catalog.add("c", [NewDocument("a", "x")])
        await catalog.close()
        assert_sound(place / "root", HELD | {"a": "x"})
    finally:
        shutil.rmtree(place)


async def test_two_processes_that_open_one_store(tmp_path: Path) -> None:
    root = tmp_path / "root"
    async with opened(root):
        pass
    script = """
        import sys
        from pathlib import Path
        from rasd.config import StoreConfig
        from rasd.retrieval.store.writer import CorpusWriter
        writer = CorpusWriter(Path(sys.argv[1]), "c", StoreConfig(), None)
        print("open", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(root)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdin and other.stdout
        assert await asyncio.to_thread(other.stdout.readline) == "open\n"
        catalog = LocalCatalog(root, byte_tokenizer(), SETTINGS, Submitter())
        for write in (
            catalog.add("c", [NewDocument("a", "x")]),
            catalog.delete("c", ["good"]),
            catalog.drop("c"),
        ):
            with pytest.raises(StoreLocked, match=f"is held by pid {other.pid} on "):
                await write
        assert (await catalog.get("c", "good")).text == "the abc"  # reading needs no lock
        assert_sound(root, HELD)
        other.kill()  # the lock goes with it
        other.wait(60)
    assert [one.change for one in await catalog.add("c", [NewDocument("a", "x")])] == ["created"]
    await catalog.close()
    assert_sound(root, HELD | {"a": "x"})
    assert read_spec(root, "c").partitions == 2
