"""A packed decoder as captured CUDA graphs, one per size of step.

On a GPU a forward of few rows is hundreds of small kernels, and launching them takes longer than
running them. A graph launches them at once, over the same memory every time: a step is copied in,
rounded up to the next size, and its numbers are copied out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from rasd.forward.decoder import Decoder
from rasd.kv import PagedCache, Plan
from rasd.kv.paged import PagedPlan, Store
from rasd.kv.view import Item

SIZES: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Rows of a step that a graph may have; beyond the last, kernels outweigh their launches."""

MOST_GRAPHS: Final = 64
"""The oldest goes when another is captured; each holds some outputs, the rest is shared."""


@dataclass(frozen=True, slots=True)
class Size:
    """What a graph is captured for: rows, items, and rows of the largest item at most."""

    rows: int
    items: int
    most_rows: int

    @classmethod
    def of(cls, items: Sequence[Item]) -> Size | None:
        """The smallest that holds a step and the rows left over; None if none does."""
        total = items[-1].stop
        rows = next((size for size in SIZES if size >= total), None)
        if rows is None:
            return None
        most = max(*(item.stop - item.start for item in items), rows - total)
        return cls(rows, _power(len(items) + 1), _power(most))


Forward = Callable[[], tuple[Tensor, Tensor]]


class Recording(Protocol):
    """A forward over fixed memory, to be run again and again."""

    @property
    def outputs(self) -> tuple[Tensor, Tensor]:
        """Logits and hidden states; overwritten by the next `replay`."""
        ...

    def replay(self) -> None: ...


class Captured:
    """A `Recording` as a CUDA graph."""

    def __init__(self, forward: Forward, pool: Any) -> None:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what is compiled or allocated once must not be captured
            for _ in range(2):
                forward()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self.outputs = forward()

    def replay(self) -> None:
        """Runs it over what its memory holds now."""
        self._graph.replay()


@dataclass(frozen=True, slots=True)
class _Graph:
    """One size: the memory of a step, the recording over it, and the layers that it runs."""

    tokens: Tensor
    plan: PagedPlan
    recording: Recording
    layers: list[int]


class Graphs:
    """A `Body` that replays what it captured, and runs larger steps as they are.

    Args:
        decoder: not sharded, without sliding windows.
        cache: the only one it will run over.
        record: captures a forward.
    """

    def __init__(
        self,
        decoder: Decoder,
        cache: PagedCache,
        device: torch.device,
        record: Callable[[Forward], Recording] | None = None,
    ) -> None:
        self._decoder, self._cache, self._device = decoder, cache, device
        self._graphs: dict[Size, _Graph] = {}
        self._record = record or _capturing()

    def __call__(
        self, tokens: Tensor, plan: Plan, cache: PagedCache, rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """As `Decoder`; what it returns is overwritten by the next step of the same size."""
        size = Size.of(plan.items)
        if size is None or not _self_contained(plan.items):
            return self._decoder(tokens, plan, cache, rows)
        graph = self._graphs.get(size)
        if graph is None:
            graph = self._graphs[size] = self._capture(size, tokens, plan)
        else:
            _fill(graph.tokens, graph.plan, tokens, plan)
        graph.recording.replay()
        plan.attended += graph.layers
        logits, hidden = graph.recording.outputs
        logits = logits[: len(tokens)] if rows is None else logits.index_select(0, rows)
        return logits, hidden[: len(tokens)]

    def close(self) -> None:
        """Frees the graphs."""
        self._graphs.clear()
        self._decoder.close()

    def _capture(self, size: Size, tokens: Tensor, plan: Plan) -> _Graph:
        """Captures over a real step, so that what is stored meanwhile is right already."""
        page = self._cache.pool.page_size
        paged = PagedPlan.empty(
            size.rows, size.items, size.most_rows, self._cache.pool.pages, page, self._device
        )
        static = tokens.new_empty(size.rows)
        _fill(static, paged, tokens, plan)
        store = Store(self._cache.states, paged)

        def forward() -> tuple[Tensor, Tensor]:
            paged.attended.clear()
            return self._decoder(static, paged, store, None)

        recording = self._record(forward)
        if len(self._graphs) >= MOST_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        return _Graph(static, paged, recording, [*paged.attended])


def graphs_of(body: object, cache: PagedCache, device: torch.device) -> Graphs | None:
    """Recorded steps of a body, where there can be any: on a GPU with Triton, not sharded."""
    windows = any(spec.window is not None for spec in cache.specs)
    if device.type != "cuda" or windows or find_spec("triton") is None:
        return None
    if not isinstance(body, Decoder) or body.ranks > 1:
        return None
    return Graphs(body, cache, device)


def _capturing() -> Callable[[Forward], Recording]:
    pool = torch.cuda.graph_pool_handle()
    return lambda forward: Captured(forward, pool)


def _fill(static: Tensor, paged: PagedPlan, tokens: Tensor, plan: Plan) -> None:
    """Copies a step in; what is left over repeats its last row."""
    static[: len(tokens)] = tokens
    static[len(tokens) :] = tokens[-1]
    paged.fill(plan.items)


def _self_contained(items: Sequence[Item]) -> bool:
    """Whether no item has nodes of an earlier step that are not committed."""
    return all(len(item.slots) - item.committed == item.stop - item.start for item in items)


def _power(number: int) -> int:
    """The power of two that is not below."""
    return 1 << max(number - 1, 0).bit_length()
