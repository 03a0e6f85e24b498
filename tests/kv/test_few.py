"""The kernel for few rows beside a softmax that is written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import rasd.kv.few
from rasd.kv import Append, LayerSpec, PagedCache
from rasd.kv.tile import PAIRS, WIDE

HEADS, KV_HEADS, DIM = 6, 2, 16


def cache_of(dtype: torch.dtype, window: int | None, dim: int = DIM) -> PagedCache:
    kind = "full" if window is None else "sliding"
    return PagedCache([LayerSpec(kind, KV_HEADS, dim, dim, window)], 2048, 8, dtype, "cpu")


def fill(cache: PagedCache, sequence: int, length: int) -> None:
    cache.open(sequence)
    cache.plan([Append(sequence, np.arange(-1, length - 1, dtype=np.int32))])
    cache.commit(sequence, range(length))


def turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = states.float().chunk(2, -1)
    return states.float() * cos.float() + torch.cat((right, left), -1) * sin.float()


def slow(cache: PagedCache, plan, queries: Tensor, window: int | None) -> Tensor:
    """[T, heads * dim], row by row, slot by slot."""
    keys, values = (states[0].double() for states in cache.states(0))
    rows = []
    for item in plan.items:
        size, new = len(item.slots), len(item.ancestors)
        positions = [*range(item.committed), *item.positions]
        for row in range(new):
            at = item.positions[len(item.positions) - new + row]
            seen = [
                slot
                for index, slot in enumerate(item.slots)
                if (index < item.committed or item.ancestors[row, index - item.committed])
                and (window is None or positions[index] > at - window)
            ]
            assert len(seen) <= size
            for head in range(HEADS):
                kv = head // (HEADS // KV_HEADS)
                scores = keys[kv, seen] @ queries[item.start + row, head].double() * 0.3
                rows.append(scores.softmax(0) @ values[kv, seen])
    return torch.stack(rows).view(len(queries), -1).float()


def check(
    cache: PagedCache, appends: list[Append], window: int | None, dtype: torch.dtype, threads: int
) -> None:
    """What the kernel stores and answers, beside what it should."""
    plan = cache.plan(appends)
    count = plan.items[-1].stop
    dim = cache.states(0)[0].shape[-1]
    states = torch.randn(count, HEADS + 2 * KV_HEADS, dim).to(dtype)
    cos, sin = torch.rand(2, count, 1, dim).to(dtype)
    few = plan.few(0, HEADS, KV_HEADS, 0.3, cos, sin)
    assert few is not None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = few(states[:, : HEADS + KV_HEADS], states[:, HEADS + KV_HEADS :], *cache.states(0))
    finally:
        torch.set_num_threads(before)
    placed = np.concatenate([item.slots[-len(item.ancestors) :] for item in plan.items])
    keys, values = cache.states(0)
    expected = turned(states[:, : HEADS + KV_HEADS], cos, sin)
    torch.testing.assert_close(
        keys[0, :, placed].transpose(0, 1), expected[:, HEADS:].to(dtype), atol=1e-6, rtol=1e-2
    )
    assert (values[0, :, placed].transpose(0, 1) == states[:, HEADS + KV_HEADS :]).all()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(
        found.float(), slow(cache, plan, expected, window), atol=tolerance, rtol=tolerance
    )
    assert plan.attended == [0]


def random_tree(rng: np.random.Generator, nodes: int) -> np.ndarray:
    return np.asarray([-1, *(rng.integers(-1, node) for node in range(1, nodes))], np.int32)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_see_what_they_may(
    dtype: torch.dtype, window: int | None, threads: int, seed: int
) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    cache = cache_of(dtype, window)
    for store in cache.states(0):
        store.normal_()
    appends = []
    for sequence in range(5):
        fill(cache, sequence, int(rng.choice([1, 7, 63, 64, 65, 200])))
        appends.append(Append(sequence, random_tree(rng, int(rng.integers(1, 9)))))
    check(cache, appends, window, dtype, threads)


@pytest.mark.skipif(not WIDE, reason="there are no tiles on this CPU")
@pytest.mark.parametrize("window", [None, 9, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prompts_enter_beside_trees(dtype: torch.dtype, window: int | None, seed: int) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    cache = cache_of(dtype, window)
    for store in cache.states(0):
        store.normal_()
    appends = []
    for sequence, kind in enumerate(rng.permutation(["one", "tree", "short", "long", "wide"])):
        fill(cache, sequence, int(rng.choice([1, 64, 100, 200])))
        rows = {"one": 1, "tree": 8, "short": 33, "long": int(rng.integers(97, 300)), "wide": 110}
        nodes = np.arange(-1, rows[kind] - 1, dtype=np.int32)
        if kind in ("tree", "wide"):
            nodes = random_tree(rng, rows[kind])
        appends.append(Append(sequence, nodes))
    cache.plan([appends[0]])  # these nodes stay uncommitted, before the next ones
    check(cache, appends, window, dtype, threads=2)


def test_large_steps_are_left_to_torch_without_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rasd.kv.few, "WIDE", False)
    cache = cache_of(torch.float32, None)
    fill(cache, 0, 3)
    plan = cache.plan([Append(0, np.arange(-1, 199, dtype=np.int32))])
    none = torch.zeros(200, 1, DIM)
    assert plan.few(0, HEADS, KV_HEADS, 1.0, none, none) is None
    assert plan.attended == []


@pytest.mark.skipif(not WIDE, reason="there are no tiles on this CPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_rows(dtype: torch.dtype, seed: int) -> None:
    """Blocks just below, at and above what the sizes of tiles and blocks divide."""
    torch.manual_seed(seed)
    cache = cache_of(dtype, None)
    for sequence, rows in enumerate((1, 2, 3, 4, 63, 64, 65, 129)):
        fill(cache, sequence, 5)
        chain = Append(sequence, np.arange(-1, rows - 1, dtype=np.int32))
        check(cache, [chain], None, dtype, threads=1)


@pytest.mark.parametrize("window", [None, 33])
@pytest.mark.parametrize("dim", [16, 48, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_contexts_end_anywhere(dtype: torch.dtype, dim: int, window: int | None, seed: int) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    cache = cache_of(dtype, window, dim)
    for store in cache.states(0):
        store.normal_(std=0.5)
    appends = []
    for sequence, context in enumerate((1, 14, 15, 16, 17, 62, 63, 64, 65, 127, 128, 200)):
        fill(cache, sequence, context)
        appends.append(Append(sequence, random_tree(rng, int(rng.integers(1, 4)))))
    check(cache, appends, window, dtype, threads=2)


@pytest.mark.skipif(not PAIRS, reason="few rows are computed otherwise on this CPU")
def test_rows_beside_a_row_change_nothing(seed: int) -> None:
    """The first row of a tree, bit for bit as if it were alone."""
    torch.manual_seed(seed)
    cache = cache_of(torch.bfloat16, None, 64)
    for store in cache.states(0):
        store.normal_()
    fill(cache, 0, 150)
    states = torch.randn(9, HEADS + 2 * KV_HEADS, 64).bfloat16()
    cos, sin = torch.rand(2, 9, 1, 64).bfloat16()
    found = []
    for rows in (1, 2, 3, 5, 9):
        plan = cache.plan([Append(0, np.arange(-1, rows - 1, dtype=np.int32))])
        few = plan.few(0, HEADS, KV_HEADS, 0.3, cos[:rows], sin[:rows])
        assert few is not None
        its = states[:rows]
        stores = cache.states(0)
        found.append(few(its[:, : HEADS + KV_HEADS], its[:, HEADS + KV_HEADS :], *stores)[0])
        cache.commit(0, [])
    assert all((one == found[0]).all() for one in found)


@pytest.mark.parametrize("dim", [4, 16, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_stays_with_its_sequence(dtype: torch.dtype, dim: int, seed: int) -> None:
    torch.manual_seed(seed)
    found = []
    for wild in (False, True):
        torch.manual_seed(seed)
        cache = cache_of(dtype, None, dim)
        for sequence in range(3):
            fill(cache, sequence, 20)
        plan = cache.plan([Append(i, np.asarray([-1, 0, 0], np.int32)) for i in range(3)])
        states = torch.randn(9, HEADS + 2 * KV_HEADS, dim).to(dtype)
        if wild:
            states[:3] = torch.inf
            states[3:6] = torch.nan
        cos, sin = torch.rand(2, 9, 1, dim).to(dtype)
        few = plan.few(0, HEADS, KV_HEADS, 0.3, cos, sin)
        assert few is not None
        both = states[:, : HEADS + KV_HEADS], states[:, HEADS + KV_HEADS :]
        found.append(few(*both, *cache.states(0)))
    assert found[1][:6].isnan().all()
    assert (found[0][6:] == found[1][6:]).all()
