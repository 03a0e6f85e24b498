"""Attention of trees over paged context on a GPU, in Triton. Imported only where Triton is.

Flash decoding (Dao et al. 2023) with a tree at the end of the context: each program goes through
one share of one sequence's slots for one key head, reading keys and values once for all rows and
all query heads that share them; a second kernel joins the shares. No shape depends on the length
of a context, so that a captured graph serves all lengths.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rasd.kv.paged import MASK_BITS, PagedView


@triton.jit  # type: ignore[untyped-decorator]
def _hidden(  # type: ignore[no-untyped-def]
    masks, row, real, place, inside, before, WORDS: tl.constexpr, BITS: tl.constexpr
):
    """Which places of a context each row must not see: nodes that are not above it."""
    node = place - before
    word = tl.load(
        masks + row[:, None] * WORDS + node[None, :] // BITS,
        mask=real[:, None] & inside[None, :] & (node >= 0)[None, :],
        other=0,
    )
    above = (word >> (node % BITS)[None, :].to(tl.int64)) & 1
    return (inside == 0)[None, :] | ((node >= 0)[None, :] & (above == 0))


@triton.jit  # type: ignore[untyped-decorator]
def _share(  # type: ignore[no-untyped-def]  # noqa: PLR0913 (a kernel takes what it reads)
    query,
    key,
    value,
    sums,
    peaks,
    totals,
    starts,
    committed,
    lengths,
    pages,
    masks,
    scale,
    query_row,
    query_head,
    key_head,
    pages_row,
    GROUPS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    WORDS: tl.constexpr,
    BITS: tl.constexpr,
    SHARES: tl.constexpr,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
):
    """One tile of ROWS (row, query head) pairs, one share of the slots, one key head."""
    item, head = tl.program_id(0), tl.program_id(1)
    tile, share = tl.program_id(2) // SHARES, tl.program_id(2) % SHARES
    start, stop = tl.load(starts + item), tl.load(starts + item + 1)
    length, before = tl.load(lengths + item), tl.load(committed + item)
    pair = tile * ROWS + tl.arange(0, ROWS)
    row, real = start + pair // GROUPS, pair // GROUPS < stop - start
    query_heads = head * GROUPS + pair % GROUPS
    dims = tl.arange(0, DIM)
    at = row[:, None] * query_row + query_heads[:, None] * query_head + dims[None, :]
    q = tl.load(query + at, mask=real[:, None], other=0.0)

    peak, total = tl.full((ROWS,), float("-inf"), tl.float32), tl.zeros((ROWS,), tl.float32)
    seen = tl.zeros((ROWS, DIM), tl.float32)
    per = tl.cdiv(tl.cdiv(length, SLOTS), SHARES) * SLOTS
    end = tl.minimum((share + 1) * per, length)
    # A tile without rows has nothing to read.
    end = tl.where(tile * ROWS < (stop - start) * GROUPS, end, 0)
    for first in range(share * per, end, SLOTS):
        place = first + tl.arange(0, SLOTS)
        inside = place < end
        page = tl.load(pages + item * pages_row + place // PAGE, mask=inside, other=0)
        slot = page.to(tl.int64) * PAGE + place % PAGE
        there = head * key_head + slot[:, None] * DIM + dims[None, :]
        k = tl.load(key + there, mask=inside[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        unseen = _hidden(masks, row, real, place, inside, before, WORDS, BITS)
        scores = tl.where(unseen, float("-inf"), scores)
        higher = tl.maximum(peak, tl.max(scores, 1))
        # A row that has seen nothing yet has no peak to subtract.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weights, fade = tl.exp(scores - base[:, None]), tl.exp(peak - base)
        v = tl.load(value + there, mask=inside[:, None], other=0.0)
        seen = seen * fade[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        total, peak = total * fade + tl.sum(weights, 1), higher

    out = (row * tl.num_programs(1) * GROUPS + query_heads) * SHARES + share
    tl.store(peaks + out, peak, mask=real)
    tl.store(totals + out, total, mask=real)
    tl.store(sums + out[:, None] * DIM + dims[None, :], seen, mask=real[:, None])


@triton.jit  # type: ignore[untyped-decorator]
def _join(  # type: ignore[no-untyped-def]
    sums, peaks, totals, out, DIM: tl.constexpr, SHARES: tl.constexpr
):
    """The shares of one row and query head, weighted by what each saw."""
    pair = tl.program_id(0)
    shares, dims = tl.arange(0, SHARES), tl.arange(0, DIM)
    peak = tl.load(peaks + pair * SHARES + shares)
    weight = tl.exp(peak - tl.max(peak, 0))
    total = tl.sum(tl.load(totals + pair * SHARES + shares) * weight, 0)
    seen = tl.load(sums + (pair * SHARES + shares)[:, None] * DIM + dims[None, :])
    joined = tl.sum(seen * weight[:, None], 0) / total
    tl.store(out + pair * DIM + dims, joined.to(out.dtype.element_ty))


def attend_paged(
    query: Tensor, key: Tensor, value: Tensor, view: PagedView, scaling: float | None
) -> Tensor:
    """As `rasd.kv.attention.attend`.

    Args:
        query: [1, query heads, T, dim]; key, value: [1, key heads, slots, dim], dense within a
            head. T is the view's, ``dim`` a power of two from 16 on, the same for both.
    """
    heads, rows, dim = query.shape[1:]
    key_heads = key.shape[1]
    groups = heads // key_heads
    pairs = view.most_rows * groups
    tile = min(max(16, triton.next_power_of_2(pairs)), 64)
    shares = view.shares(key_heads)
    scratch: dict[str, Any] = {"dtype": torch.float32, "device": query.device}
    sums = torch.empty((rows, heads, shares, dim), **scratch)
    peaks, totals = (torch.empty((rows, heads, shares), **scratch) for _ in range(2))
    out = torch.empty((1, rows, heads, dim), dtype=query.dtype, device=query.device)
    grid = (view.items, key_heads, triton.cdiv(pairs, tile) * shares)
    _share[grid](
        *(query, key, value, sums, peaks, totals),
        *(view.starts, view.committed, view.lengths, view.pages, view.masks),
        scaling if scaling is not None else dim**-0.5,
        *(query.stride(2), query.stride(1), key.stride(1), view.pages.stride(0)),
        GROUPS=groups,
        DIM=dim,
        PAGE=view.page_size,
        WORDS=view.masks.shape[1],
        BITS=MASK_BITS,
        SHARES=shares,
        ROWS=tile,
        SLOTS=64,
    )
    _join[(rows * heads,)](sums, peaks, totals, out, DIM=dim, SHARES=shares)
    return out
