"""A disk that is full or read-only: a clear error, the old state, and then all goes on.

`test_crash_points` does this at every step with a disk that is made up; here it is a real one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rasd.config import StoreConfig
from rasd.errors import StorageError
from rasd.retrieval.store.corpora import create_corpus, drop_corpus
from rasd.retrieval.store.records import Document, Put
from rasd.retrieval.store.verify import verify
from rasd.retrieval.store.writer import CorpusWriter

from .worlds import (
    Model,
    Submitter,
    apply,
    assert_holds,
    files,
    live,
    make_corpus,
    random_document,
)

SETTINGS = StoreConfig(flush_tokens=2000, max_segments=2, grace_s=0)
TOP = Path(__file__).parents[3]


def mount(path: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount(path, "size=256k")
    yield path
    while subprocess.run(["umount", "-l", str(path)], capture_output=True).returncode == 0:
        pass


def test_a_full_disk(disk: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(100_000))
    make_corpus(disk)
    store = CorpusWriter(disk, "c", SETTINGS, Submitter())
    model: Model = {}
    fails = 0
    for number in range(1000):
        group = [Put(random_document(rng, f"{number % 60}-{i}", longest=500)) for i in range(4)]
        try:
            store.write(group)
        except StorageError as error:
            assert "No space left on device" in str(error)
            fails += 1
            for put in group:  # each partition's part is there as a whole or not at all
                if put.document.id in (found := live(disk)):
                    apply(model, [Put(found[put.document.id])])
            assert_holds(disk, model)
            if fails == 5:
                break
            continue
        apply(model, group)
    assert fails == 5
    before = live(disk)
    ballast.unlink()
    store.flush()
    store.tick()
    assert live(disk).keys() == before.keys()
    store.write(group)
    apply(model, group)
    assert_holds(disk, model)
    store.close()
    assert verify(disk).leftovers == []


def test_a_read_only_disk(disk: Path) -> None:
    make_corpus(disk)
    store = CorpusWriter(disk, "c", SETTINGS, Submitter())
    group = [Put(Document(f"{i}", np.ones(9, np.uint32))) for i in range(9)]
    store.write(group)
    model: Model = {}
    apply(model, group)
    before = files(disk)
    subprocess.run(["mount", "--bind", str(disk), str(disk)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)
    more = [Put(Document("x", np.ones(9, np.uint32)))]
    for act in (lambda: store.write(more), store.flush):
        with pytest.raises(StorageError, match=f"{disk}.*Read-only file system"):
            act()
    store.tick()
    store.close()
    for act in (
        lambda: CorpusWriter(disk, "c", SETTINGS, Submitter()),
        lambda: create_corpus(disk, "d", partitions=1, vocabulary=9, tokenizer_hash="t"),
        lambda: drop_corpus(disk, "c"),
    ):
        with pytest.raises(StorageError, match=f"{disk}.*Read-only file system"):
            act()
    assert_holds(disk, model)
    assert files(disk) == before
    subprocess.run(["umount", "-l", str(disk)], check=True)
    store = CorpusWriter(disk, "c", SETTINGS, Submitter())
    store.write(more)
    apply(model, more)
    store.flush()
    store.close()
    assert_holds(disk, model)


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from rasd.config import StoreConfig
from rasd.errors import StorageError
from rasd.retrieval.store.records import Document, Put
from rasd.retrieval.store.writer import CorpusWriter
from tests.retrieval.store.worlds import Submitter, files

root = Path(sys.argv[1])
store = CorpusWriter(root, "c", StoreConfig(grace_s=0), Submitter())
small, large = (
    [Put(Document(name, np.random.default_rng(1).integers(0, 9999, n).astype(np.uint32)))]
    for name, n in (("small", 10), ("large", 9000))
)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
assert store.write(small) == ["created"]
before = files(root)
for _ in range(2):
    try:
        store.write(large)
    except StorageError as error:
        assert "File too large" in str(error), error
    else:
        raise SystemExit("not refused")
    assert files(root) == before
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert store.write(large) == ["created"]
store.close()
"""


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], cwd=TOP, check=True)
    assert live(tmp_path).keys() == {"small", "large"}
    assert verify(tmp_path).damaged == []
