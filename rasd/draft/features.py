"""Features that wait for their tokens, in bounded memory.

Knows positions and rows only. Rows of one sequence form one run of consecutive positions: what
lies before a gap could never be used again, because a drafter needs every row up to the newest.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rasd.draft import kernels
from rasd.errors import RasdError


@dataclass(slots=True)
class _Run:
    """Rows of positions ``start`` to ``end``; the pieces are never empty."""

    start: int
    end: int
    pieces: list[Tensor] = field(default_factory=list)


class FeatureBuffer:
    """Holds at most ``per_sequence`` rows of one sequence and ``total`` of all.

    Over the first limit the sequence's oldest rows go; over the second the whole run of the
    sequence that was given rows the longest ago. Both start cold later. Not thread-safe.
    """

    def __init__(self, width: int, dtype: torch.dtype, *, per_sequence: int, total: int) -> None:
        self._width = width
        self._dtype = dtype
        self._per_sequence = per_sequence
        self._total = total
        self._held = 0
        self._runs: OrderedDict[int, _Run] = OrderedDict()  # the least recently fed first

    @property
    def held(self) -> int:
        """Rows in memory."""
        return self._held

    def put(self, sequence: int, start: int, rows: NDArray[Any]) -> bool:
        """Takes rows of the positions from ``start`` on; copies them.

        Positions already held are ignored: a restarted target sends them again. Rows behind a
        gap replace what is held. False where the rows are not float32[n, d] or bfloat16 bits as
        uint16[n, d], or not finite; such rows are dropped, for they would spoil the cache.
        """
        if start < 0:
            return False
        spare = len(rows) - self._per_sequence  # would be forgotten at once
        if spare > 0:
            start, rows = start + spare, rows[spare:]
        if not self._usable(rows):
            return False
        run = self._runs.get(sequence)
        if run is not None and start > run.end:
            self.drop(sequence)
            run = None
        if run is None:
            run = _Run(start, start)
        fresh = rows[run.end - start :]
        if len(fresh) == 0:
            return True
        run.pieces.append(_as_tensor(fresh).to(self._dtype))
        run.end += len(fresh)
        self._held += len(fresh)
        self._runs[sequence] = run
        self._runs.move_to_end(sequence)
        self._forget_before(sequence, run.end - self._per_sequence)
        while self._held > self._total:
            self.drop(next(iter(self._runs)))
        return True

    def span(self, sequence: int) -> tuple[int, int]:
        """Positions held: from the first to behind the last; (0, 0) if there are none."""
        run = self._runs.get(sequence)
        return (run.start, run.end) if run is not None else (0, 0)

    def take(self, sequence: int, start: int, stop: int) -> Tensor:
        """Returns the rows [stop - start, d] of these positions, which are held.

        They are forgotten, and so is everything before them.
        """
        run = self._runs[sequence]
        rows = torch.cat(run.pieces)[start - run.start : stop - run.start]
        self._forget_before(sequence, stop)
        return rows

    def drop(self, sequence: int) -> None:
        """Forgets the rows of a sequence; an unknown one is ignored."""
        run = self._runs.pop(sequence, None)
        if run is not None:
            self._held -= run.end - run.start

    def clear(self) -> None:
        """Forgets everything."""
        self._runs.clear()
        self._held = 0

    def check_integrity(self) -> None:
        """Compares the counters with what is held.

        Raises:
            RasdError: they differ.
        """
        for sequence, run in self._runs.items():
            rows = sum(len(piece) for piece in run.pieces)
            if not 0 < rows == run.end - run.start <= self._per_sequence:
                raise RasdError(f"sequence {sequence} holds {rows} rows for {run}")
        held = sum(run.end - run.start for run in self._runs.values())
        if held != self._held or held > self._total:
            raise RasdError(f"{held} rows are held, {self._held} counted, {self._total} allowed")

    def _forget_before(self, sequence: int, position: int) -> None:
        run = self._runs[sequence]
        gone = min(position, run.end) - run.start
        if gone <= 0:
            return
        self._held -= gone
        run.start += gone
        if run.start == run.end:
            del self._runs[sequence]
            return
        while gone >= len(run.pieces[0]):
            gone -= len(run.pieces.pop(0))
        if gone:
            run.pieces[0] = run.pieces[0][gone:].clone()  # a view would keep the rest alive

    def _usable(self, rows: NDArray[Any]) -> bool:
        if rows.ndim != 2 or rows.shape[1] != self._width:
            return False
        if rows.dtype == np.float32:
            return bool(np.isfinite(rows).all())
        return rows.dtype == np.uint16 and kernels.finite(np.ascontiguousarray(rows))


def _as_tensor(rows: NDArray[Any]) -> Tensor:
    # The copy makes it writable, which torch insists on, and frees the message's buffer.
    tensor = torch.from_numpy(rows.copy())
    return tensor.view(torch.bfloat16) if rows.dtype == np.uint16 else tensor
