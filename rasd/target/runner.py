"""One forward over the trees and prompt chunks of many sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from rasd.kv import PLAN_ARGUMENT, Append, PagedCache
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


class Runner:
    """Runs a model over a cache, and leaves new nodes uncommitted. Owns neither.

    Logits are computed by the model's own forward, which may scale them, for the rows needed.
    """

    def __init__(self, model: Any, cache: PagedCache, device: torch.device) -> None:
        self._model, self._cache, self._device = model, cache, device
        self._hidden: list[Tensor] = []
        # The alternative, output_hidden_states, would hook and keep every layer. In some models
        # the base is bypassed, in others the name get_decoder looks for is a plain layer.
        decoder = model.get_decoder()
        body = decoder if isinstance(decoder, PreTrainedModel) else model.base_model
        self._hook = body.register_forward_hook(
            lambda module, inputs, output: self._hidden.append(output[0])
        )

    def close(self) -> None:
        """Leaves the model as it was."""
        self._hook.remove()

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
        self._hidden.clear()
        try:
            output = self._model(
                input_ids=torch.from_numpy(ids)[None].to(self._device),
                position_ids=plan.position_ids,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=self._selection(rows, len(ids)),
                **{PLAN_ARGUMENT: plan},
            )
        except BaseException:
            self._cache.commit_all({work.sequence: [] for work in works})
            raise
        logits = output.logits[0, : len(rows)].split(counts)
        return Outputs(list(logits), self._hidden.pop()[0], starts, plan.attended)

    def _selection(self, rows: Int64s, nodes: int) -> int | Tensor:
        """Which rows get logits, as transformers wants it: 0 is all, n the last n."""
        if len(rows) == nodes:
            return 0
        if len(rows) == 0:
            return 1
        return torch.from_numpy(rows).to(self._device)


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
