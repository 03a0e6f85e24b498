"""What a shard answers: only out of the corpora a query names."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.config import RetrievalConfig, StoreConfig
from rasd.errors import InvalidRequest, TokenizerMismatch
from rasd.retrieval import LocalRetriever, ShardStore, shard
from rasd.retrieval.search import Index, Part
from rasd.retrieval.store import reader
from rasd.retrieval.store.browse import Browser
from rasd.retrieval.store.corpora import drop_corpus
from rasd.retrieval.store.records import Delete, Put, id_digest, partition_of
from rasd.retrieval.store.writer import CorpusWriter
from rasd.stages import RetrieveQuery, RetrieveRequest
from rasd.trie import Continuations
from tests.retrieval import brute
from tests.retrieval.store.worlds import Submitter, document, make_corpus

MADE: dict[str, Any] = {"vocabulary": 9, "tokenizer_hash": "t"}
TEXTS = {
    "red": [[1, 2, 3, 1, 2, 4], [1, 2, 3], [5, 1, 2]],
    "green": [[1, 2, 6], [7, 5, 1, 2, 8], [1, 2, 3, 3]],
    "blue": [[0, 0, 0, 1]],
}
SETTINGS = RetrievalConfig(suffix_min=1, nodes=32, depth=4)


def keep(root: Path, name: str, texts: list[list[int]], *, partitions: int = 2) -> None:
    make_corpus(root, name, partitions=partitions, vocabulary=MADE["vocabulary"])
    with closing(CorpusWriter(root, name, StoreConfig(), Submitter())) as writer:
        writer.write([Put(document(str(i), *text)) for i, text in enumerate(texts)])
        writer.flush()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("datastore")
    for name, texts in TEXTS.items():
        keep(root, name, texts)
    return root


def query(tail: list[int], *corpora: str) -> RetrieveQuery:
    return RetrieveQuery(0, np.asarray(tail, np.int32), corpora)


@given(
    asked=st.lists(
        st.tuples(
            st.lists(st.integers(0, 8), max_size=4),
            st.lists(st.sampled_from([*TEXTS, "unknown"]), max_size=4),
        ),
        max_size=4,
    )
)
def test_a_query_reads_what_it_names_and_nothing_else(
    root: Path, asked: list[tuple[list[int], list[str]]]
) -> None:
    store = ShardStore(root, dict.fromkeys(TEXTS), **MADE)
    found = store.search([query(tail, *names) for tail, names in asked], SETTINGS)
    for answer, (tail, names) in zip(found, asked, strict=True):
        texts = [text for name in set(names) & TEXTS.keys() for text in TEXTS[name]]
        assert brute.as_lists(answer) == brute.as_lists(brute.search(texts, tail, SETTINGS))


def test_a_corpus_not_named_stays_unread(root: Path) -> None:
    store = ShardStore(root, {"red": None, "green": None}, **MADE)
    alone, both, none = store.search(
        [query([5, 1, 2], "red"), query([5, 1, 2], "green", "red"), query([5, 1, 2])], SETTINGS
    )
    # Green holds the whole tail; red holds it only where a document ends, so two tokens match.
    assert (alone.match_length, both.match_length, both.tokens.tolist()) == (2, 3, [8])
    assert 8 not in alone.tokens
    assert len(none) == 0


def test_partitions_add_up(root: Path) -> None:
    shards = [ShardStore(root, {"red": [p], "green": [p]}, **MADE) for p in (0, 1)]
    whole = ShardStore(root, {"red": None, "green": None}, **MADE)
    assert sum(shard.tokens for shard in shards) == whole.tokens > 0
    assert all(shard.tokens for shard in shards)
    asked = [query([1, 2], "red", "green")]
    totals = [shard.search(asked, SETTINGS)[0].total for shard in shards]
    assert sum(totals) == whole.search(asked, SETTINGS)[0].total == 7


def test_local_retriever_answers_at_once_and_says_what_it_lacks(tmp_path: Path) -> None:
    for name in ("sound", "broken"):
        keep(tmp_path, name, [[1, 2, 3]], partitions=1)
    segment = next((tmp_path / "broken").rglob("*.seg"))
    segment.write_bytes(b"")
    store = ShardStore(tmp_path, {"sound": None, "broken": None}, **MADE)
    assert list(store.damaged["broken"]) == [f"partition-0000/{segment.name}"]
    retriever = LocalRetriever(store, RetrievalConfig())
    retriever.observe(0, np.array([1], np.int32))
    sound = retriever.retrieve(RetrieveRequest(3, [query([1, 2], "sound")])).wait(0)
    assert (sound.step, sound.partial, sound.found[0].tokens.tolist()) == (3, (), [3])
    asked = [query([1, 2], *names) for names in (["sound"], ["sound", "broken"], [], ["broken"])]
    mixed = retriever.retrieve(RetrieveRequest(4, asked)).wait(0)
    assert mixed.partial == (1, 3)
    assert [found.tokens.tolist() for found in mixed.found] == [[3], [3], [], []]
    retriever.release(0)
    retriever.close()


def test_what_is_not_there_is_empty_until_it_comes(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, {"late": None}, **MADE)
    assert len(store.search([query([1, 2], "late")], SETTINGS)[0]) == 0
    assert not store.refresh()
    keep(tmp_path, "late", [[1, 2, 3]])
    assert store.refresh()
    assert store.search([query([1, 2], "late")], SETTINGS)[0].tokens.tolist() == [3]


def test_a_corpus_that_goes_and_comes_again(tmp_path: Path) -> None:
    """The new one begins with numbers that the old one had."""
    keep(tmp_path, "a", [[1, 2, 3]])
    keep(tmp_path, "b", [[1, 2, 4]])
    store = ShardStore(tmp_path, {"a": None, "b": None}, **MADE)
    drop_corpus(tmp_path, "a")
    assert store.search([query([1, 2], "a")], SETTINGS)[0].tokens.tolist() == [3]  # still open
    assert store.refresh()
    asked = [query([1, 2], "a"), query([1, 2], "a", "b")]
    assert [found.tokens.tolist() for found in store.search(asked, SETTINGS)] == [[], [4]]
    assert store.views["a"] == ()
    assert not store.damaged
    keep(tmp_path, "a", [[1, 2, 5]])
    assert store.refresh()
    assert [found.tokens.tolist() for found in store.search(asked, SETTINGS)] == [[5], [4, 5]]


def test_another_tokenizer_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(tmp_path, "a", [[1, 2, 3]])
    keep(tmp_path, "b", [[1, 2, 4]])
    for made in ({**MADE, "tokenizer_hash": "u"}, {**MADE, "vocabulary": 10}):
        caplog.clear()
        store = ShardStore(tmp_path, {"a": None}, **made)
        assert store.tokens == 0
        error = store.damaged["a"]["corpus.json"]
        assert isinstance(error, TokenizerMismatch)
        assert str(error).endswith("got (9, 't')")
        assert not store.refresh()
        assert caplog.text.count("refused") == 1


def test_a_damaged_specification_is_refused(tmp_path: Path) -> None:
    keep(tmp_path, "a", [[1, 2, 3]])
    (tmp_path / "a" / "corpus.json").write_bytes(b"x")
    keep(tmp_path, "b", [[1, 2, 4]])
    store = ShardStore(tmp_path, {"a": None, "b": None}, **MADE)
    assert list(store.damaged) == ["a"]
    assert store.search([query([1, 2], "a", "b")], SETTINGS)[0].tokens.tolist() == [4]


def test_names_and_partitions_that_cannot_be(tmp_path: Path) -> None:
    keep(tmp_path, "a", [[1, 2, 3]])
    with pytest.raises(InvalidRequest, match="corpus name"):
        ShardStore(tmp_path, {"../a": None}, **MADE)
    store = ShardStore(tmp_path, {"a": [-1, 0, 1, 2, 99]}, **MADE)
    assert len(store.views["a"]) == 2


def test_what_is_open_is_shared(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions move without being read again."""
    first = ShardStore(root, {"red": [0, 1], "green": [0]}, **MADE)

    def unexpected(*_: object, **__: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(reader, "open_segment", unexpected)
    second = ShardStore(root, {"red": [1], "green": [0]}, **MADE, beside=first)
    assert second.tokens < first.tokens
    del first
    third = ShardStore(root, {"green": [0]}, **MADE, beside=second)
    asked = [query([1, 2], "green")]
    texts = [text.tokens for text in Browser(root, "green").documents() if in_first(text.id)]
    wanted = brute.search(texts, [1, 2], SETTINGS)
    assert brute.same(third.search(asked, SETTINGS)[0], wanted)


def in_first(id_: str) -> bool:
    return partition_of(id_digest(id_), 2) == 0


def test_origins_only_where_asked_for(root: Path) -> None:
    store = ShardStore(root, dict.fromkeys(TEXTS), **MADE)
    plain = query([5, 1, 2], "blue", "green")
    located, without = store.search([replace(plain, origins=True), plain], SETTINGS)
    assert without.origins is None
    assert located.origins is not None
    assert located.tokens.tolist() == [8]
    assert located.origins.corpora.tolist() == [1]
    assert located.origins.documents[0].tobytes() == id_digest("1")
    assert located.origins.offsets.tolist() == [4]
    nothing = store.search([replace(query([0, 6], "green"), origins=True)], SETTINGS)[0]
    assert len(nothing) == 0


def test_indexes_are_kept_while_their_corpora_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0

    class Counted(Index):
        def __init__(self, parts: Iterable[Part]) -> None:
            nonlocal made
            made += 1
            super().__init__(parts)

    monkeypatch.setattr(shard, "Index", Counted)
    monkeypatch.setattr(shard, "_MAX_SCOPES", 3)
    for name in TEXTS:
        keep(tmp_path, name, TEXTS[name])
    store = ShardStore(tmp_path, dict.fromkeys(TEXTS), **MADE)
    asked = [query([1, 2], "red"), query([1], "red"), query([1, 2], "green", "blue")]
    for _ in range(2):
        store.search(asked, SETTINGS)
        assert made == 2
    with closing(CorpusWriter(tmp_path, "blue", StoreConfig(), Submitter())) as writer:
        writer.write([Put(document("new", 1, 2, 3))])
    store.refresh()
    found = store.search(asked, SETTINGS)
    assert (made, found[2].total) == (3, 4)
    for name in ("x", "y", "z"):
        store.search([query([1], name)], SETTINGS)
    assert len(store._snapshot.scopes) <= 3


def numbers(store: ShardStore, name: str) -> tuple[int, ...]:
    """Partitions, then live documents and tokens, tokens of the log, segments and bytes."""
    views = store.views[name]
    kinds = ("documents", "tokens", "memory_tokens", "segments", "bytes")
    return (len(views), *(sum(getattr(view, kind) for view in views) for kind in kinds))


def test_numbers(tmp_path: Path) -> None:
    for name in TEXTS:
        keep(tmp_path, name, TEXTS[name])
    store = ShardStore(tmp_path, {"red": None, "blue": [0, 1], "none": None}, **MADE)
    with closing(CorpusWriter(tmp_path, "blue", StoreConfig(), Submitter())) as writer:
        writer.write([Put(document("new", 1, 2, 3)), Delete("0")])
        assert store.lag_s >= 0
        before = numbers(store, "blue")
        store.refresh()
        blue = numbers(store, "blue")
        size = sum(entry.bytes for each in writer.manifests for entry in each.sources)
    assert before[:4] == (2, 1, 4, 0)
    assert blue == (2, 1, 3, 3, 1, size)
    store.search([query([1, 2], "red"), query([1], "red")], SETTINGS)
    assert sum(numbers(store, name)[1] for name in store.views) == 4
    assert sum(numbers(store, name)[2] for name in store.views) == store.tokens == 15
    assert store.lag_s == 0
    assert store.versions["none"] == ()
    assert len(store.versions["red"]) == 2


def test_local_retriever_follows_when_told(tmp_path: Path) -> None:
    keep(tmp_path, "a", [[1, 2, 3]])
    retriever = LocalRetriever(ShardStore(tmp_path, {"a": None}, **MADE), SETTINGS)
    keep(tmp_path, "a", [[1, 2, 4]])
    asked = RetrieveRequest(0, [query([1, 2], "a")])
    assert retriever.retrieve(asked).wait(0).found[0].tokens.tolist() == [3]
    retriever.refresh()
    assert retriever.retrieve(asked).wait(0).found[0].tokens.tolist() == [4]


def test_threads_search_while_it_refreshes(tmp_path: Path) -> None:
    """Both corpora at once: whatever is found was there after some write."""
    for name in ("a", "b"):
        keep(tmp_path, name, [[1, 0]])
    store = ShardStore(tmp_path, {"a": None, "b": None}, **MADE)
    asked = [replace(query([1], "a", "b"), origins=True)]
    wrong: list[Continuations] = []
    stop = threading.Event()

    def search() -> None:
        while not stop.is_set():
            found = store.search(asked, SETTINGS)[0]
            if found.total != 2 or found.origins is None:
                wrong.append(found)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        with closing(CorpusWriter(tmp_path, "b", StoreConfig(), Submitter())) as writer:
            for number in range(20):
                writer.write([Put(document("0", 1, 2 + number % 7))])
                store.refresh()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
