"""Any sequence of writes, compactions, failures, damage and restarts, against a dict."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rasd.config import StoreConfig
from rasd.datastore import Change
from rasd.errors import Overloaded, StoreLocked
from rasd.retrieval.store import upkeep, writer
from rasd.retrieval.store.corpora import partition_path
from rasd.retrieval.store.manifest import seg_path
from rasd.retrieval.store.records import Delete, Document, Operation, Put
from rasd.retrieval.store.writer import CorpusWriter

from .worlds import Submitter, assert_holds, live, make_corpus, same

VOCABULARY = 9
IDS = st.integers(0, 11).map(str)
TOKENS = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12)
OPERATIONS = st.dictionaries(IDS, st.none() | TOKENS, min_size=1, max_size=6)


def operations_of(drawn: dict[str, list[int] | None]) -> list[Operation]:
    return [
        Delete(id_)
        if tokens is None
        else Put(Document(id_, np.asarray(tokens, np.uint32), str(tokens), {"n": len(tokens)}))
        for id_, tokens in drawn.items()
    ]


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(os, "fsync", lambda _: None)  # test_crash is about that
        self.patch.setattr(writer, "WAIT_S", 0)
        self.patch.setattr(upkeep, "_FIRST_PAUSE_S", 0)
        self.directory = tempfile.TemporaryDirectory()
        self.root = Path(self.directory.name)
        self.model: dict[str, Document] = {}
        self.last: list[Operation] = []

    @initialize(
        partitions=st.integers(1, 3),
        flush=st.integers(1, 60),
        segments=st.integers(1, 3),
        most=st.integers(1, 300),
    )
    def start(self, partitions: int, flush: int, segments: int, most: int) -> None:
        make_corpus(self.root, partitions=partitions, vocabulary=VOCABULARY)
        self.settings = StoreConfig(
            flush_tokens=flush, max_segments=segments, max_segment_tokens=most, grace_s=0
        )
        self.submit = Submitter()
        self.store = CorpusWriter(self.root, "c", self.settings, self.submit)

    @rule(drawn=OPERATIONS)
    def write(self, drawn: dict[str, list[int] | None]) -> None:
        operations = operations_of(drawn)
        changes = self._write(self.store, operations)
        for operation, change in zip(operations, changes, strict=True):
            if isinstance(operation, Delete):
                known = self.model.pop(operation.id, None)
                assert change == ("deleted" if known else "missing")
                continue
            document = operation.document
            old = self.model.get(document.id)
            wanted = "unchanged" if old and same(old, document) else "replaced"
            assert change == (wanted if old else "created")
            self.model[document.id] = document
        self.last = operations

    @rule()
    def write_again(self) -> None:
        assert set(self._write(self.store, self.last)) <= {"unchanged", "missing"}

    def _write(self, store: CorpusWriter, operations: list[Operation]) -> list[Change]:
        try:
            return store.write(operations)
        except Overloaded:
            self.holds_what_the_dict_holds()
            self.submit.hold = False
            self.submit.run()
            return store.write(operations)

    @rule(hold=st.booleans())
    def tick(self, hold: bool) -> None:
        self.submit.hold = hold
        self.store.tick()

    @rule()
    def finish(self) -> None:
        self.submit.run()
        self.store.tick()

    @precondition(lambda self: self.submit.waiting)
    @rule(which=st.integers(0, 5))
    def finish_one(self, which: int) -> None:
        self.submit.run_one(which % self.submit.waiting)
        self.store.tick()

    @rule()
    def lose(self) -> None:
        self.submit.lose(RuntimeError("the process was killed"))
        self.store.tick()

    @rule()
    def flush(self) -> None:
        self.submit.hold = False
        self.submit.run()
        self.store.flush()
        for manifest in self.store.manifests:
            assert not manifest.logs
            large = 2 * (manifest.tokens + manifest.documents) / self.settings.max_segment_tokens
            assert len(manifest.segments) <= self.settings.max_segments + large

    @rule(stolen=st.booleans())
    def reopen(self, stolen: bool) -> None:
        old = self.store
        if stolen:
            (self.root / "c" / "writer.lock").unlink()
        else:
            old.close()
        self.store = CorpusWriter(self.root, "c", self.settings, self.submit)
        if stolen:
            with pytest.raises(StoreLocked):
                self._write(old, [Put(Document("stale", np.ones(1, np.uint32)))])
            old.close()
        self.submit.run()  # what the old one had begun ends when nobody needs it

    @precondition(lambda self: any(manifest.segments for manifest in self.store.manifests))
    @rule(data=st.data())
    def damage_and_rebuild(self, data: st.DataObject) -> None:
        self.submit.run()
        partition, number = data.draw(
            st.sampled_from(
                [
                    (at, entry.number)
                    for at, manifest in enumerate(self.store.manifests)
                    for entry in manifest.segments
                ]
            )
        )
        file = seg_path(partition_path(self.root, "c", partition), number)
        raw = bytearray(file.read_bytes())
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        file.write_bytes(raw)
        self.submit.hold = False
        self.store.rebuild(partition, number)
        assert number not in [entry.number for entry in self.store.manifests[partition].sources]

    @invariant()
    def holds_what_the_dict_holds(self) -> None:
        if hasattr(self, "store"):
            found = live(self.root)
            assert found.keys() == self.model.keys()
            assert all(same(found[id_], self.model[id_]) for id_ in found)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.submit.hold = False
            self.submit.run()
            self.store.tick()
            self.store.flush()
            self.store.tick()
            assert_holds(self.root, self.model)
            assert not list(self.root.rglob("*.tmp"))
            self.store.close()
        self.patch.undo()
        self.directory.cleanup()


def test_any_sequence() -> None:
    run(examples=12)


@pytest.mark.slow
def test_any_sequence_at_length() -> None:
    run(examples=300)


def run(examples: int) -> None:
    chosen = settings(max_examples=examples, stateful_step_count=30)
    run_state_machine_as_test(Machine, settings=chosen)
