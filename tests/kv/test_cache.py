"""The paged cache against a dict of lists, and its refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from rasd.errors import ConfigError, InvalidRequest, KVExhausted, RasdError, UnsupportedModel
from rasd.kv import Append, LayerSpec, PagedCache, PagePool
from rasd.kv.view import place
from rasd.tree import path_to

SPECS = [
    LayerSpec("full", 2, 3, 3),
    LayerSpec("sliding", 1, 3, 2, window=4),
    LayerSpec("full", 2, 3, 3),
]
PAGES, PAGE = 12, 4


def make_cache() -> PagedCache:
    return PagedCache(SPECS, PAGES * PAGE + 3, PAGE, torch.float32, "cpu")


class Oracle:
    """What one sequence holds: a unique mark per row."""

    def __init__(self) -> None:
        self.committed: list[float] = []
        self.marks: list[float] = []
        self.parents: list[int] = []

    @property
    def pages(self) -> int:
        return -(-(len(self.committed) + len(self.marks)) // PAGE)


class CacheMachine(RuleBasedStateMachine):
    """Random opens, plans, commits and closes; every row is looked at after every step."""

    @initialize()
    def start(self) -> None:
        self.cache = make_cache()
        self.oracle: dict[int, Oracle] = {}
        self.opened = 0
        self.mark = 0.0

    @rule()
    def open(self) -> None:
        self.cache.open(self.opened)
        self.oracle[self.opened] = Oracle()
        self.opened += 1

    @precondition(lambda self: self.oracle)
    @rule(data=st.data())
    def plan(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.oracle)), unique=True, min_size=1))
        items = []
        for sequence in chosen:
            before = len(self.oracle[sequence].parents)
            count = data.draw(st.integers(1, 9))
            parents = [data.draw(st.integers(-1, before + i - 1)) for i in range(count)]
            items.append(Append(sequence, np.asarray(parents, np.int32)))
        free = PAGES - sum(entry.pages for entry in self.oracle.values())
        wanted = sum(self._more_pages(item) for item in items)
        if wanted > free:
            with pytest.raises(KVExhausted, match=str(wanted)):
                self.cache.plan(items)
            return
        plan = self.cache.plan(items)
        marks, positions = [], []
        for item in items:
            entry = self.oracle[item.sequence]
            for parent in item.parents.tolist():
                self.mark += 1.0
                marks.append(self.mark)
                entry.marks.append(self.mark)
                entry.parents.append(parent)
                depth = len(path_to(np.asarray(entry.parents), len(entry.parents) - 1)) - 1
                positions.append(len(entry.committed) + depth)
        assert plan.position_ids.tolist() == [positions]
        self._store(torch.tensor(marks))

    def _more_pages(self, item: Append) -> int:
        entry = self.oracle[item.sequence]
        rows = len(entry.committed) + len(entry.marks) + len(item.parents)
        return -(-rows // PAGE) - entry.pages

    def _store(self, marks: torch.Tensor) -> None:
        for layer, spec in enumerate(SPECS):
            rows = (marks + layer / 8)[None, None, :, None]
            key = rows.expand(1, spec.kv_heads, -1, spec.key_dim)
            self.cache.update(key, -rows.expand(1, spec.kv_heads, -1, spec.value_dim), layer)

    @precondition(lambda self: self.oracle)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.oracle)), unique=True, min_size=1))
        kept: dict[int, list[int]] = {}
        for sequence in chosen:
            entry = self.oracle[sequence]
            leaf = data.draw(st.integers(-1, len(entry.parents) - 1))
            kept[sequence] = path_to(np.asarray(entry.parents), leaf) if leaf >= 0 else []
            entry.committed += [entry.marks[i] for i in kept[sequence]]
            entry.marks, entry.parents = [], []
        self.cache.commit_all(kept)

    @precondition(lambda self: self.oracle)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.oracle)))
        self.cache.close(sequence)
        self.cache.close(sequence)
        del self.oracle[sequence]

    @invariant()
    def every_row_is_where_it_should_be(self) -> None:
        if not hasattr(self, "cache"):
            return
        self.cache.check_integrity()
        used = sum(entry.pages for entry in self.oracle.values())
        assert self.cache.pool.available == PAGES - used
        for sequence, entry in self.oracle.items():
            assert self.cache.length(sequence) == len(entry.committed)
            expected = torch.tensor(entry.committed + entry.marks)
            rows = torch.from_numpy(self.cache._state(sequence).slots[: len(expected)])
            for layer in range(len(SPECS)):
                keys, values = self.cache._views[layer]
                for store, sign in ((keys, 1), (values, -1)):
                    found = store[0][:, rows]
                    marked = sign * (expected + layer / 8)[None, :, None]
                    assert torch.equal(found, marked.expand_as(found))


TestCache = CacheMachine.TestCase


def test_a_failed_plan_changes_nothing() -> None:
    cache = make_cache()
    for sequence in range(2):
        cache.open(sequence)
    chain = np.arange(-1, 39, dtype=np.int32)
    with pytest.raises(KVExhausted, match="needs 20 pages of 4 slots, 12 of 12 are free"):
        cache.plan([Append(0, chain), Append(1, chain)])
    assert cache.pool.available == PAGES
    for bad in ([0], [-1, 1], [-2], []):
        with pytest.raises(InvalidRequest):
            cache.plan([Append(0, chain), Append(1, np.asarray(bad, np.int32))])
    with pytest.raises(InvalidRequest, match="at most once"):
        cache.plan([Append(0, chain), Append(0, chain)])
    with pytest.raises(InvalidRequest, match="sequence 7 is unknown"):
        cache.plan([Append(0, chain), Append(7, chain)])
    cache.check_integrity()
    cache.plan([Append(0, chain)])


def test_a_commit_of_anything_but_a_chain_is_refused() -> None:
    cache = make_cache()
    cache.open(0)
    cache.plan([Append(0, np.asarray([-1, 0, 0, -1], np.int32))])
    for bad in ([1], [0, 3], [0, 1, 2], [4], [0, 0]):
        with pytest.raises(InvalidRequest, match="chain"):
            cache.commit(0, bad)
    cache.commit(0, [0, 2])
    assert cache.length(0) == 2


def test_opening_twice_is_refused_and_a_forward_needs_a_fresh_plan() -> None:
    cache = make_cache()
    cache.open(0)
    with pytest.raises(InvalidRequest, match="open already"):
        cache.open(0)
    row = torch.zeros(1, 2, 1, 3)
    with pytest.raises(RasdError, match="plan"):
        cache.update(row, row, 0)
    cache.plan([Append(0, np.asarray([-1], np.int32))])
    cache.update(row, row, 0)
    cache.commit(0, [0])
    with pytest.raises(RasdError, match="plan"):
        cache.update(row, row, 0)


def test_latent_layers_and_empty_pools_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match="latent"):
        PagedCache([LayerSpec("latent", 1, 576, 512)], 64, 16, torch.float32, "cpu")
    with pytest.raises(ConfigError, match="16 slots; got 15"):
        PagedCache(SPECS, 15, 16, torch.float32, "cpu")


def test_sequences_that_grow_in_turn_stay_consecutive() -> None:
    cache = PagedCache(SPECS, 64 * PAGE, PAGE, torch.float32, "cpu")
    for sequence in range(4):
        cache.open(sequence)
    for _ in range(10):
        for sequence in range(4):
            plan = cache.plan([Append(sequence, np.asarray([-1, 0, 1], np.int32))])
            context = place(plan.items[0].slots, torch.device("cpu"))
            assert isinstance(context, slice), (sequence, context)
            cache.commit(sequence, [0, 1])


def test_a_page_cannot_be_freed_twice_and_losses_show() -> None:
    pool = PagePool(64, 16)
    pages = pool.allocate(2)
    assert pages == [0, 1]
    pool.check_integrity(pages)
    with pytest.raises(RasdError, match=r"lost: \[1\]"):
        pool.check_integrity(pages[:1])
    with pytest.raises(RasdError, match=r"shared: \[0\]"):
        pool.check_integrity([0, 0, 1])
    pool.free(pages)
    with pytest.raises(RasdError, match="twice"):
        pool.free(pages)
    with pytest.raises(KVExhausted, match="5 pages of 16 slots are needed, 4 of 4 are free"):
        pool.allocate(5)
