"""What the root holds is seen; what cannot be read is left out and harms no other."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from actors.corpora import CorporaWatch, configured_corpora
from actors.plan import Corpus
from rasd.config import CorpusConfig, DatastoreConfig
from rasd.retrieval.store.corpora import SPEC, create_corpus, drop_corpus

VOCABULARY, HASH = 50, "h" * 64


def make(root: Path, name: str, partitions: int = 4, tokenizer: str = HASH) -> Corpus:
    spec = create_corpus(
        root, name, partitions=partitions, vocabulary=VOCABULARY, tokenizer_hash=tokenizer
    )
    return Corpus(spec.partitions, spec.created)


@pytest.fixture
def watch(tmp_path: Path) -> CorporaWatch:
    return CorporaWatch(tmp_path / "root", VOCABULARY, HASH)


def test_corpora_come_and_go(watch: CorporaWatch, tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert watch.look() == {}
    one, two = make(root, "one"), make(root, "two", 7)
    assert watch.look() == watch.look() == {"one": one, "two": two}
    drop_corpus(root, "one")
    assert watch.look() == {"two": two}
    again = make(root, "one")
    assert again.created > one.created
    assert watch.look() == {"one": again, "two": two}


def test_what_cannot_be_served_is_left_out(watch: CorporaWatch, tmp_path: Path) -> None:
    root = tmp_path / "root"
    good = make(root, "good")
    make(root, "other", tokenizer="x" * 64)
    broken = make(root, "broken")
    spec = root / "broken" / SPEC
    kept = spec.read_bytes()
    spec.write_bytes(kept[:-3])
    (root / "no-corpus").mkdir()
    assert watch.look() == {"good": good}
    spec.write_bytes(kept)
    assert watch.look() == {"good": good, "broken": broken}


def test_a_root_that_cannot_be_listed_says_nothing(watch: CorporaWatch, tmp_path: Path) -> None:
    root = tmp_path / "root"
    good = make(root, "good")
    assert watch.look() == {"good": good}
    shutil.rmtree(root)
    root.write_text("a file, where the root should be")
    with pytest.raises(OSError):
        watch.look()
    os.remove(root)


def test_a_root_that_lost_everything_says_nothing(watch: CorporaWatch, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    assert watch.look() == {}
    good = make(root, "good")
    assert watch.look() == {"good": good}
    mounted = root.rename(tmp_path / "elsewhere")
    for _ in range(2):
        with pytest.raises(OSError, match="missing or empty"):
            watch.look()
    root.mkdir()
    with pytest.raises(OSError, match="missing or empty"):
        watch.look()
    root.rmdir()
    mounted.rename(root)
    assert watch.look() == {"good": good}
    (root / ".scale").write_text("anything else")
    drop_corpus(root, "good")
    assert watch.look() == watch.look() == {}


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_what_the_system_would_not_read_is_as_it_was_and_read_again(
    number: int,
    watch: CorporaWatch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = tmp_path / "root"
    known, replaced = make(root, "known"), make(root, "replaced")
    assert watch.look() == {"known": known, "replaced": replaced}
    drop_corpus(root, "replaced")
    again, new = make(root, "replaced"), make(root, "new")

    def refuse(path: Path) -> bytes:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuse)
        assert watch.look() == watch.look() == {"known": known, "replaced": replaced}
    assert caplog.text.count("corpus new cannot be read") == 1
    assert watch.look() == {"known": known, "replaced": again, "new": new}


def test_configured_corpora_can_be_named_before_they_are_made() -> None:
    config = DatastoreConfig(corpora=[CorpusConfig(name="later", source="x")])
    assert configured_corpora(config) == {"later"}
    assert configured_corpora(None) == frozenset()
