"""Products with weights that are laid out once for the machine they run on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

# oneDNN chooses one layout for all small numbers of rows; larger ones run as fast over it.
_LAYOUT_ROWS: Final = 16


class Linear:
    """``x @ weight.T + bias`` with a frozen weight.

    On a CPU the weight is kept only in oneDNN's blocked layout: against rows of a plain weight a
    product of few rows takes half the time in bf16 and a third in float32. Elsewhere, and in
    types oneDNN does not have there, it stays as it is.

    Args:
        weight: [outputs, inputs]; bias: [outputs] or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        weight = weight.detach()
        self.outputs, self.inputs = weight.shape
        self._bias = None if bias is None else bias.detach().contiguous()
        self._blocked = _takes(weight)
        self._weight: Tensor = weight.contiguous()
        if self._blocked:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, _LAYOUT_ROWS)

    @classmethod
    def of(cls, *modules: Any) -> Linear:
        """Several `torch.nn.Linear` of one input as one product, outputs side by side.

        Of a sharded model this rank's part: its rows where outputs are split, its columns where
        inputs are; those partial sums carry the bias on the first rank only.
        """
        weight = _joined([local(module.weight) for module in modules])
        if modules[0].bias is None:
            return cls(weight)
        bias = _joined([local(module.bias) for module in modules])
        partial = weight.shape[1] < modules[0].in_features
        if partial and torch.distributed.get_rank() > 0:
            bias = torch.zeros_like(bias)
        return cls(weight, bias)

    def __call__(self, x: Tensor) -> Tensor:
        """[T, inputs] to [T, outputs]."""
        if not self._blocked:
            return functional.linear(x, self._weight, self._bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise.default(
            x, self._weight, self._bias, "none", [], ""
        )
        return out


def local(weight: Any) -> Tensor:
    """This rank's part of a weight that may be sharded."""
    part: Tensor = weight.to_local() if hasattr(weight, "to_local") else weight
    return part.detach()


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _takes(weight: Tensor) -> bool:
    """Whether oneDNN has a layout of its own for this weight."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
