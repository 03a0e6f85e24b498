"""One forward over the trees and prompt chunks of many sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rasd.kv import Append, PagedCache, Plan
from rasd.stages import Work

Int64s = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a forward gives.

    Attributes:
        logits: per work float[R, V], rows of nodes ``decided - 1`` and later; [0, V] where
            nothing is drawn.
        hidden: [T, H], last hidden states of all nodes, after the final norm.
        starts: where each work's nodes begin among the T.
        attended: layers whose attention ran, in order.
    """

    logits: list[Tensor]
    hidden: Tensor
    starts: list[int]
    attended: list[int]

    def features(self, rows: Int64s) -> NDArray[Any]:
        """A copy of some hidden states, as `rasd.stages.Features` has them."""
        bits = self.hidden.dtype == torch.bfloat16
        states = self.hidden.view(torch.uint16) if bits else self.hidden
        if states.device.type == "cpu":  # where picking rows costs torch more than the copy
            picked = states.numpy()[rows]
        else:
            picked = states[torch.from_numpy(rows).to(states.device)].cpu().numpy()
        return picked if bits else picked.astype(np.float32, copy=False)


class Body(Protocol):
    """Runs a model's layers over rows of a plan: our packed decoder, or transformers' modules."""

    def __call__(
        self, tokens: Tensor, plan: Plan, cache: PagedCache, rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Logits [R, V] of ``rows`` int64[R], or of all; and last hidden states [T, H]."""
        ...

    def close(self) -> None:
        """Leaves the model as it was."""
        ...


class Runner:
    """Runs a body over a cache, and leaves new nodes uncommitted. Owns neither."""

    def __init__(self, body: Body, cache: PagedCache, device: torch.device) -> None:
        self._body, self._cache, self._device = body, cache, device

    @torch.inference_mode()
    def forward(self, works: Sequence[Work]) -> Outputs:
        """Appends the works' nodes to the cache and computes them all at once.

        Args:
            works: well-formed, of sequences open in the cache, at most one of each.

        Raises:
            KVExhausted: the nodes do not fit; nothing has changed, as after any other fault.
        """
        plan = self._cache.plan([Append(work.sequence, work.parents) for work in works])
        ids = np.concatenate([work.tokens for work in works], dtype=np.int64)
        starts, counts, rows = _rows(works)
        needed = None if len(rows) == len(ids) else torch.from_numpy(rows).to(self._device)
        tokens = torch.from_numpy(ids).to(self._device)
        try:
            logits, hidden = self._body(tokens, plan, self._cache, needed)
        except BaseException:
            self._cache.commit_all({work.sequence: [] for work in works})
            raise
        return Outputs(list(torch.split(logits, counts)), hidden, starts, plan.attended)


def _rows(works: Sequence[Work]) -> tuple[list[int], list[int], Int64s]:
    """Where each work begins, how many logits it needs, and the rows of all those."""
    starts: list[int] = []
    counts: list[int] = []
    rows: list[int] = []
    stop = 0
    for work in works:
        starts.append(stop)
        stop += len(work.tokens)
        first = starts[-1] + work.decided - 1 if work.draw else stop
        counts.append(stop - first)
        rows.extend(range(first, stop))
    return starts, counts, np.asarray(rows, np.int64)
