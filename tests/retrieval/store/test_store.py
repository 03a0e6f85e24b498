"""Writers, shards and browsers of several corpora against dictionaries and brute force."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings as profile
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from rasd.config import RetrievalConfig, StoreConfig
from rasd.errors import NotFound
from rasd.retrieval.merge import merge
from rasd.retrieval.shard import ShardStore
from rasd.retrieval.store.browse import Browser
from rasd.retrieval.store.corpora import drop_corpus
from rasd.retrieval.store.records import Delete, Operation, Put, id_digest, partition_of
from rasd.retrieval.store.writer import CorpusWriter
from rasd.stages import RetrieveQuery
from rasd.trie import Continuations
from tests.retrieval import brute
from tests.retrieval.store.worlds import Submitter, document, make_corpus

CORPORA = {"red": 2, "green": 3}
VOCABULARY = 3
IDS = "abcdefgh"
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # where syncing costs nothing
STORE = StoreConfig(flush_tokens=40, max_segments=2, max_dead_share=0.8, grace_s=0)
MANY_HELD = 8

NAMES = st.sampled_from([*CORPORA])
TOKENS = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=20)
WRITES = st.dictionaries(
    st.sampled_from(IDS), st.one_of(TOKENS, TOKENS, st.none()), min_size=1, max_size=4
)
TAILS = st.lists(st.integers(0, VOCABULARY - 1), max_size=6)
READ = st.sampled_from(
    [("red",), ("green",), ("red", "green"), ("green", "unknown", "red", "green"), ()]
)

Texts = dict[str, dict[str, list[int]]]
"""Per corpus, the live documents."""


class Shard:
    """A store, the partitions it holds, and what there was when it was refreshed."""

    def __init__(self, root: Path, held: set[tuple[str, int]], beside: Shard | None) -> None:
        self.held = held
        self.store = ShardStore(
            root,
            {name: [p for other, p in held if other == name] for name in CORPORA},
            vocabulary=VOCABULARY,
            tokenizer_hash="t",
            beside=beside.store if beside else None,
        )
        self.seen: Texts = {}

    def see(self, texts: Texts) -> None:
        """What it holds of ``texts`` from now on."""
        self.seen = {
            name: {
                id_: text
                for id_, text in documents.items()
                if (name, partition_of(id_digest(id_), CORPORA[name])) in self.held
            }
            for name, documents in texts.items()
        }

    def texts(self, names: Sequence[str]) -> list[list[int]]:
        return [text for name in {*names} for text in self.seen.get(name, {}).values()]


class StoreMachine(RuleBasedStateMachine):
    """Every rule leaves the dictionaries as the store should be."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="rasd-store-", dir=MEMORY))
        self.texts: Texts = {}
        self.writers: dict[str, CorpusWriter] = {}
        self.submit = Submitter()
        self.held_writes = 0
        self.earlier: list[tuple[str, dict[str, list[int] | None]]] = []
        self.browsers = {name: Browser(self.root, name) for name in CORPORA}
        self.shards: list[Shard] = []

    @initialize(writes=st.lists(st.tuples(NAMES, WRITES), min_size=4, max_size=4), data=st.data())
    def start(self, writes: list[tuple[str, dict[str, list[int] | None]]], data: Any) -> None:
        self.deal(count=2, fresh=True, data=data)
        for name, write in writes:
            self.write(name, write)

    def teardown(self) -> None:
        for name in CORPORA:
            self.close(name)
        shutil.rmtree(self.root)

    # --- corpora and writes -------------------------------------------------------------------

    @rule(name=NAMES, write=WRITES)
    def write(self, name: str, write: dict[str, list[int] | None]) -> None:
        """Adds, replaces, and deletes where there is None; to a new corpus if there is none."""
        self.earlier.append((name, write))
        operations: list[Operation] = [
            Delete(id_) if text is None else Put(document(id_, *text))
            for id_, text in write.items()
        ]
        changes = self.writer(name).write(operations)
        assert changes == [self.model(name, id_, text) for id_, text in write.items()]
        self.held_writes += self.submit.hold
        if self.held_writes > MANY_HELD:  # else writing has to wait in the end
            self.finish()

    @rule(name=NAMES, writes=st.lists(WRITES, min_size=2, max_size=5))
    def write_more(self, name: str, writes: list[dict[str, list[int] | None]]) -> None:
        for write in writes:
            self.write(name, write)

    @rule(which=st.integers(0, 9))
    def retry(self, which: int) -> None:
        """A call comes again, perhaps much later."""
        self.write(*self.earlier[-1 - which % len(self.earlier)])

    @rule(name=NAMES, how=st.integers(0, 4))
    def stop_writing(self, name: str, how: int) -> None:
        """The writer goes; sometimes the corpus too."""
        self.close(name)
        if how == 0 and name in self.texts:
            drop_corpus(self.root, name)
            del self.texts[name]

    def close(self, name: str) -> None:
        if name in self.writers:
            self.writers.pop(name).close()

    def writer(self, name: str) -> CorpusWriter:
        if name not in self.texts:
            make_corpus(self.root, name, partitions=CORPORA[name], vocabulary=VOCABULARY)
            self.texts[name] = {}
        if name not in self.writers:
            self.writers[name] = CorpusWriter(self.root, name, STORE, self.submit)
        return self.writers[name]

    def model(self, name: str, id_: str, text: list[int] | None) -> str:
        before = self.texts[name].pop(id_, None)
        if text is None:
            return "missing" if before is None else "deleted"
        self.texts[name][id_] = text
        return "created" if before is None else "unchanged" if before == text else "replaced"

    # --- compactions --------------------------------------------------------------------------

    @rule(name=NAMES)
    def flush(self, name: str) -> None:
        self.finish()
        self.writer(name).flush()

    @rule()
    def hold(self) -> None:
        """Compactions that start from now on take their time."""
        self.submit.hold = True

    @rule(name=NAMES)
    def finish(self, name: str = "") -> None:
        """They are done; most of what they made is committed by the next write."""
        self.submit.hold, self.held_writes = False, 0
        self.submit.run()
        if name in self.writers:
            self.writers[name].tick()

    # --- shards -------------------------------------------------------------------------------

    @rule(count=st.integers(1, 3), fresh=st.booleans(), data=st.data())
    def deal(self, count: int, fresh: bool, data: st.DataObject) -> None:
        """Moves partitions to other shards; ``fresh`` ones start with nothing open."""
        every = [(name, p) for name, partitions in CORPORA.items() for p in range(partitions)]
        slots = data.draw(
            st.lists(st.integers(0, count - 1), min_size=len(every), max_size=len(every))
        )
        held = [
            {one for one, slot in zip(every, slots, strict=True) if slot == n} for n in range(count)
        ]
        beside = None if fresh or not self.shards else self.shards[0]
        self.shards = [Shard(self.root, each, beside) for each in held]
        for shard in self.shards:
            shard.see(self.texts)

    @rule(which=st.integers(0, 2))
    def refresh(self, which: int) -> None:
        shard = self.shards[which % len(self.shards)]
        shard.store.refresh()
        shard.see(self.texts)
        assert not shard.store.refresh()
        assert not shard.store.damaged
        assert shard.store.tokens == sum(map(len, shard.texts([*CORPORA])))

    @rule(
        tails=st.lists(st.tuples(TAILS, READ), min_size=1, max_size=4),
        nodes=st.sampled_from([3, 64]),
    )
    def search_each(self, tails: list[tuple[list[int], tuple[str, ...]]], nodes: int) -> None:
        """A shard answers out of what it saw, also while others have seen more."""
        settings = RetrievalConfig(suffix_min=1, suffix_max=5, depth=4, nodes=nodes)
        for shard in self.shards:
            for (tail, names), found in zip(tails, answers(shard, tails, settings), strict=True):
                wanted = brute.search(shard.texts(names), tail, settings)
                assert brute.as_lists(found) == brute.as_lists(wanted)
                assert found.exact
                check_origins(found, tail, names, shard.seen)

    @rule(
        tails=st.lists(st.tuples(TAILS, READ), min_size=1, max_size=4),
        nodes=st.sampled_from([3, 64]),
    )
    def search_all(self, tails: list[tuple[list[int], tuple[str, ...]]], nodes: int) -> None:
        """Shards that are up to date answer together as one that holds everything."""
        settings = RetrievalConfig(suffix_min=1, suffix_max=5, depth=4, nodes=nodes)
        for number in range(len(self.shards)):
            self.refresh(number)
        for tail, names in tails:
            self.search_merged(tail, names, settings)

    def search_merged(
        self, tail: list[int], names: tuple[str, ...], settings: RetrievalConfig
    ) -> None:
        parts = [answers(shard, [(tail, names)], settings)[0] for shard in self.shards]
        found = merge(parts, settings.nodes)
        every = [text for shard in self.shards for text in shard.texts(names)]
        wanted = brute.search(every, tail, settings)
        assert found.match_length == wanted.match_length
        assert found.total <= wanted.total  # hits of shards in which all of them end a document
        if found.exact:
            assert brute.as_lists(found)[:3] == brute.as_lists(wanted)[:3]
        else:
            check_bound(
                found, brute.search(every, tail, settings.model_copy(update={"nodes": 999}))
            )
        check_origins(found, tail, names, self.texts)

    # --- browsing -----------------------------------------------------------------------------

    @rule(name=NAMES, limit=st.integers(1, 5))
    def browse(self, name: str, limit: int) -> None:
        browser = self.browsers[name]
        if name not in self.texts:
            with pytest.raises(NotFound):
                browser.page(None, limit)
            return
        texts = self.texts[name]
        assert {found.id: found.tokens for found in browser.documents()} == texts
        listed, after = [], None
        while True:
            page = browser.page(after, limit)
            listed += [(found.id, found.tokens) for found in page.documents]
            if (after := page.after) is None:
                break
            assert len(page.documents) == limit
        in_order = sorted(
            texts, key=lambda id_: (partition_of(id_digest(id_), CORPORA[name]), id_digest(id_))
        )
        assert listed == [(id_, len(texts[id_])) for id_ in in_order]
        assert browser.resolve([id_digest(id_) for id_ in IDS]) == [
            id_ if id_ in texts else None for id_ in IDS
        ]
        for id_ in IDS:
            if id_ in texts:
                assert browser.get(id_).tokens == texts[id_]
            else:
                with pytest.raises(NotFound):
                    browser.get(id_)


def answers(
    shard: Shard, asked: list[tuple[list[int], tuple[str, ...]]], settings: RetrievalConfig
) -> list[Continuations]:
    queries = [
        RetrieveQuery(0, np.array(tail, np.int32), names, origins=True) for tail, names in asked
    ]
    return shard.store.search(queries, settings)


def check_bound(found: Continuations, exact: Continuations) -> None:
    """Counts of cut answers are lower bounds; all of it is there."""
    counts = paths(exact)
    assert 0 < len(found)
    for path, count in paths(found).items():
        assert 0 < count <= counts[path]


def check_origins(
    found: Continuations, tail: list[int], names: tuple[str, ...], texts: Texts
) -> None:
    """Each node's origin holds the matched suffix and the path to the node, just there."""
    origins = found.origins
    if not len(found):
        return
    assert origins is not None
    for node, path in enumerate(paths(found)):
        name = names[origins.corpora[node]]
        text = {id_digest(id_): text for id_, text in texts[name].items()}[
            origins.documents[node].tobytes()
        ]
        matched = [*tail[len(tail) - found.match_length :], *path]
        end = int(origins.offsets[node]) + 1
        assert text[end - len(matched) : end] == matched


def paths(found: Continuations) -> dict[tuple[int, ...], int]:
    """The count of each path; in order of the nodes."""
    so_far: list[tuple[int, ...]] = []
    for token, parent in zip(found.tokens.tolist(), found.parents.tolist(), strict=True):
        so_far.append((*(so_far[parent] if parent >= 0 else ()), token))
    assert len({*so_far}) == len(so_far)
    return dict(zip(so_far, found.counts.tolist(), strict=True))


def machine(examples: int, steps: int) -> Any:
    """A test case that runs so many sequences of so many rules."""
    case = type("Case", (StoreMachine.TestCase,), {})
    case.settings = profile(max_examples=examples, stateful_step_count=steps, deadline=None)
    return case


TestStore = machine(60, 40)
TestStoreLonger = pytest.mark.slow(machine(600, 80))
