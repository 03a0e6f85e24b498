"""What a shard answers: only out of the corpora a query names."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.config import RetrievalConfig, StoreConfig
from rasd.retrieval import LocalRetriever, ShardStore
from rasd.retrieval.store.records import Put
from rasd.retrieval.store.writer import CorpusWriter
from rasd.stages import RetrieveQuery, RetrieveRequest
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
    assert (sound.step, sound.partial, sound.found[0].tokens.tolist()) == (3, False, [3])
    both = retriever.retrieve(RetrieveRequest(4, [query([1, 2], "sound", "broken")])).wait(0)
    assert (both.partial, both.found[0].tokens.tolist()) == (True, [3])
    retriever.release(0)
    retriever.close()


def test_what_is_not_there_is_empty_until_it_comes(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, {"late": None}, **MADE)
    assert len(store.search([query([1, 2], "late")], SETTINGS)[0]) == 0
    assert not store.refresh()
    keep(tmp_path, "late", [[1, 2, 3]])
    assert store.refresh()
    assert store.search([query([1, 2], "late")], SETTINGS)[0].tokens.tolist() == [3]
