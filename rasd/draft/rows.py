"""Keys and values of the head's one layer: a run of rows per sequence, in pages.

Unlike the target's cache it knows no trees. What is decided is appended; the nodes of a draft stand
behind it while they are grown, and are overwritten by the next rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rasd.errors import InvalidRequest, RasdError
from rasd.kv.pages import PagePool

Int64s = NDArray[np.int64]


@dataclass(slots=True)
class _Run:
    """A sequence: its pages in order, where every row they hold lies, and how many are kept."""

    pages: list[int] = field(default_factory=list)
    slots: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    length: int = 0


class Rows:
    """Rows of many sequences, allocated at the start. Not thread-safe.

    Args:
        heads, dim: of keys and of values.
        slots: rows that fit in all; rounded down to whole pages.

    Attributes:
        states: keys and values, [1, heads, slots, dim] each.
        pool: which pages are free.

    Raises:
        ConfigError: ``slots`` is smaller than a page.
    """

    def __init__(
        self,
        heads: int,
        dim: int,
        slots: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.pool = PagePool(slots, page_size)
        rows = self.pool.pages * page_size
        states = torch.zeros((2, 1, heads, rows, dim), dtype=dtype, device=device)
        self.states: tuple[Tensor, Tensor] = (states[0], states[1])
        self._runs: dict[int, _Run] = {}

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._runs

    def open(self, sequence: int) -> None:
        """Makes an empty sequence.

        Raises:
            InvalidRequest: it is open already.
        """
        if sequence in self._runs:
            raise InvalidRequest(f"sequence {sequence} is open already")
        self._runs[sequence] = _Run()

    def close(self, sequence: int) -> None:
        """Forgets a sequence and frees its pages; an unknown one is ignored."""
        run = self._runs.pop(sequence, None)
        if run is not None:
            self.pool.free(run.pages)

    def length(self, sequence: int) -> int:
        """Rows kept.

        Raises:
            InvalidRequest: the sequence is unknown.
        """
        return self._run(sequence).length

    def reserve(self, sequence: int, rows: int) -> Int64s:
        """Makes room for ``rows`` rows behind those kept.

        Returns:
            int64[length + rows]: where all of them lie, the kept ones first.

        Raises:
            InvalidRequest: the sequence is unknown.
            KVExhausted: pages ran out; nothing has changed.
        """
        run = self._run(sequence)
        missing = self.pages_for(run.length + rows) - len(run.pages)
        if missing > 0:
            pages = self.pool.allocate(missing, run.pages[-1] if run.pages else None)
            run.pages += pages
            size = self.pool.page_size
            first = np.asarray(pages, np.int64)[:, None] * size
            run.slots = np.concatenate([run.slots, (first + np.arange(size)).reshape(-1)])
        return run.slots[: run.length + rows]

    def keep(self, sequence: int, rows: int) -> None:
        """Keeps the first ``rows`` of the rows made room for; frees the pages behind them."""
        run = self._run(sequence)
        run.length += rows
        pages = self.pages_for(run.length)
        self.pool.free(run.pages[pages:])
        del run.pages[pages:]
        run.slots = run.slots[: pages * self.pool.page_size]

    def pages_for(self, rows: int) -> int:
        """Pages that so many rows of one sequence take."""
        return -(-rows // self.pool.page_size)

    def check_integrity(self) -> None:
        """Checks that every page is free or belongs to one sequence, which needs it.

        Raises:
            RasdError: naming what is wrong.
        """
        self.pool.check_integrity(page for run in self._runs.values() for page in run.pages)
        for sequence, run in self._runs.items():
            if len(run.pages) != self.pages_for(run.length):
                raise RasdError(f"sequence {sequence} holds {len(run.pages)} pages: {run.length}")

    def _run(self, sequence: int) -> _Run:
        run = self._runs.get(sequence)
        if run is None:
            raise InvalidRequest(f"sequence {sequence} is unknown to the drafter's cache")
        return run
