"""A transformers model as a body: its own modules, over our cache and attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from rasd.kv import PLAN_ARGUMENT, PagedCache, Plan


class Modules:
    """Runs a model's own forward, which may scale logits, for the rows needed.

    Hooks the model until it is closed.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._hidden: list[Tensor] = []
        # The alternative, output_hidden_states, would hook and keep every layer. In some models
        # the base is bypassed, in others the name get_decoder looks for is a plain layer.
        decoder = model.get_decoder()
        body = decoder if isinstance(decoder, PreTrainedModel) else model.base_model
        self._hook = body.register_forward_hook(
            lambda module, inputs, output: self._hidden.append(output[0])
        )

    def close(self) -> None:
        """Takes the hook off."""
        self._hook.remove()

    def __call__(
        self, tokens: Tensor, plan: Plan, cache: PagedCache, rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Logits [R, V] of ``rows`` int64[R], or of all; and last hidden states [T, H]."""
        self._hidden.clear()
        output = self._model(
            input_ids=tokens[None],
            position_ids=plan.position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=_selection(rows),
            **{PLAN_ARGUMENT: plan},
        )
        logits = output.logits[0]
        return (logits if rows is None else logits[: len(rows)]), self._hidden.pop()[0]


def _selection(rows: Tensor | None) -> int | Tensor:
    """Which rows get logits, as transformers wants it: 0 is all, n the last n."""
    if rows is None:
        return 0
    return rows if len(rows) else 1
