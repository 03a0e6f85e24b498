"""Steps as tables of fixed size, and the GPU's kernel over them in Triton's interpreter.

The kernel's tests run where Triton is installed, with TRITON_INTERPRET=1 unless there is a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from rasd.errors import UnsupportedModel
from rasd.kv import Append, LayerSpec, PagedCache, attend, paged
from rasd.kv.paged import MASK_BITS, PagedPlan
from rasd.kv.plan import Plan

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HEADS, KEY_HEADS, DIM, PAGE = 4, 2, 16, 4


def filled(lengths: Sequence[int], seed: int = 0) -> PagedCache:
    """A cache with a sequence of each length, their pages in no order, and random contents."""
    cache = PagedCache([LayerSpec("full", KEY_HEADS, DIM, DIM)], 1024, PAGE, torch.float32, DEVICE)
    for name in range(len(lengths)):
        cache.open(name)
    left = list(lengths)
    while any(left):
        for name, more in enumerate(left):
            size = min(more, 3)
            left[name] -= size
            if size:
                cache.plan([Append(name, np.arange(-1, size - 1, dtype=np.int32))])
                cache.commit(name, range(size))
    torch.manual_seed(seed)
    for states in (states for layer in cache._views for states in layer):
        states.normal_()
    return cache


def tree(nodes: int, rng: np.random.Generator) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """Parents of a random tree."""
    return np.asarray([-1, *(int(rng.integers(i)) for i in range(1, nodes))], np.int32)


def tables(plan: Plan, rows: int, items: int, most_rows: int) -> PagedPlan:
    made = PagedPlan.empty(rows, items, most_rows, 256, PAGE, torch.device(DEVICE))
    made.fill(plan.items)
    return made


def run(
    lengths: Sequence[int], nodes: Sequence[int], rows: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Ours and the twin's, [T, heads, dim]; ours with ``rows`` rows."""
    from rasd.kv.paged_kernel import attend_paged

    rng = np.random.default_rng(seed)
    cache = filled(lengths, seed)
    plan = cache.plan([Append(i, tree(count, rng)) for i, count in enumerate(nodes)])
    total = sum(nodes)
    key, value = cache._views[0]
    queries = torch.randn(1, HEADS, total, DIM, device=DEVICE)
    plan.waiting = 0
    expected = attend(queries, key, value, plan.attend(None, HEADS // KEY_HEADS), None)
    most = max(*nodes, rows - total)
    table = tables(plan, rows, len(nodes) + 1, most)
    table.waiting = 0
    padded = torch.cat([queries, queries[:, :, -1:].expand(-1, -1, rows - total, -1)], 2)
    found = attend_paged(padded.contiguous(), key, value, table.attend(None, 2), None)
    return found[0], expected[0]


@pytest.mark.parametrize(
    ("lengths", "nodes", "rows"),
    [
        ([37], [1], 1),
        ([5, 130, 64], [1, 1, 1], 4),
        ([90, 3], [17, 5], 24),
        ([70], [MASK_BITS + 9], 80),
        ([0, 21], [6, 1], 8),
    ],
)
def test_the_kernel_sees_what_attention_sees(
    lengths: list[int], nodes: list[int], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(paged, "PROGRAMS", 16)  # the interpreter runs them one by one
    found, expected = run(lengths, nodes, rows, seed=len(nodes))
    total = sum(nodes)
    torch.testing.assert_close(found[:total], expected, rtol=1e-5, atol=1e-5)
    for row in found[total:]:  # what is left over computes the last row again
        torch.testing.assert_close(row, expected[-1], rtol=1e-5, atol=1e-5)


def test_tables_hold_what_the_plan_says() -> None:
    rng = np.random.default_rng(1)
    cache = filled([9, 30])
    plan = cache.plan([Append(0, tree(5, rng)), Append(1, tree(70, rng))])
    table = tables(plan, 80, 3, 70)
    view = table.view
    assert view.starts.tolist() == [0, 5, 75, 80]
    assert view.committed.tolist() == [9, 30, 30]
    assert view.lengths.tolist() == [14, 100, 100]
    assert table.position_ids[0, :75].tolist() == plan.position_ids[0].tolist()
    for item, pages in zip(plan.items, view.pages.tolist(), strict=False):
        slots = [page * PAGE + i for page in pages for i in range(PAGE)]
        assert slots[: len(item.slots)] == item.slots.tolist()
        for row, ancestors in enumerate(item.ancestors, item.start):
            words = view.masks[row].tolist()
            for node, seen in enumerate(ancestors.tolist()):
                assert bool(words[node // MASK_BITS] >> node % MASK_BITS & 1) == seen
    assert table.slots[75:].tolist() == [int(table.slots[74])] * 5


def test_the_next_step_fills_the_same_tensors() -> None:
    rng = np.random.default_rng(2)
    cache = filled([9])
    plan = cache.plan([Append(0, tree(4, rng))])
    table = tables(plan, 4, 2, 4)
    places = [table.slots.data_ptr(), table.view.pages.data_ptr()]
    cache.commit(0, [0])
    again = cache.plan([Append(0, tree(3, rng))])
    table.fill(again.items)
    assert [table.slots.data_ptr(), table.view.pages.data_ptr()] == places
    assert table.view.lengths.tolist() == [13, 13]


def test_sliding_windows_are_refused() -> None:
    cache = filled([9])
    table = tables(cache.plan([Append(0, np.asarray([-1], np.int32))]), 1, 2, 1)
    table.waiting = 0
    with pytest.raises(UnsupportedModel, match="sliding"):
        table.attend(128, 2)
    table.waiting = None
    with pytest.raises(UnsupportedModel, match="did not store"):
        table.attend(None, 2)
