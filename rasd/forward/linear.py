"""Products with weights that are laid out once for the machine they run on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.nn import functional

from rasd.forward.gemm import GEMM_FIELDS, INPUTS, gemm, multiplies_bf16
from rasd.forward.tiles import PANEL
from rasd.kv.threads import Call

# oneDNN chooses one layout for all small numbers of rows; larger ones run as fast over it.
_LAYOUT_ROWS: Final = 16
_GROUP: Final = 2  # panels that a thread takes at once, if there are enough
_ALIASED: Final = 2048  # bytes; rows that are a multiple of it apart share lines of the first cache
_PADDING: Final = 32

Product = Callable[[Tensor], Tensor]
"""x [T, inputs] to x @ weight.T + bias, [T, outputs]."""


class Linear:
    """``x @ weight.T + bias`` with a frozen weight, kept only in the layout its products read.

    Args:
        weight: [outputs, inputs]; bias: [outputs] or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        weight = weight.detach()
        self.outputs, self.inputs = weight.shape
        self._product = _product(weight, None if bias is None else bias.detach().contiguous())

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

    @property
    def call(self) -> Call | None:
        """The kernel, where there is one."""
        return self._product.call if isinstance(self._product, Panels) else None

    def __call__(self, x: Tensor) -> Tensor:
        """[T, inputs] to [T, outputs]; elements of a row are consecutive, rows need not be."""
        return self._product(x)


class Panels:
    """A bf16 weight on a CPU that multiplies bf16: see `rasd.forward.gemm`.

    Products of up to 16 rows take two thirds of oneDNN's time, of more rows as long or less.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._outputs, inputs = weight.shape
        count = -(-self._outputs // PANEL)
        padded = weight.new_zeros((count * PANEL, inputs))
        padded[: self._outputs] = weight
        self._weight = aligned((count, inputs // 2, PANEL, 2), weight.dtype)
        self._weight.copy_(padded.view(count, PANEL, inputs // 2, 2).transpose(1, 2))
        self._bias = torch.zeros(count * PANEL)
        if bias is not None:
            self._bias[: self._outputs] = bias
        self.call = Call(gemm(), GEMM_FIELDS)
        self.call.set(inputs=inputs, panels=count, group=panels_at_once(count))
        self.call.set(weights=self._weight.data_ptr(), bias=self._bias.data_ptr())

    @staticmethod
    def take(weight: Tensor) -> bool:
        """Whether this machine and weight are served."""
        if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
            return False
        return weight.shape[1] % INPUTS == 0 and multiplies_bf16()

    def __call__(self, x: Tensor) -> Tensor:
        x = x if x.stride(-1) == 1 else x.contiguous()
        out = x.new_empty((len(x), len(self._bias)))
        self.call(
            rows=len(x),
            x=x.data_ptr(),
            x_width=x.stride(0),
            out=out.data_ptr(),
            out_width=out.shape[1],
        )
        return out[:, : self._outputs]


def new_rows(like: Tensor, rows: int, width: int) -> Tensor:
    """Uninitialised [rows, width]; rows lie so that a tile of them fits into the first cache."""
    aliased = width * like.element_size() % _ALIASED == 0
    return like.new_empty((rows, width + _PADDING * aliased))[:, :width]


def local(weight: Any) -> Tensor:
    """This rank's part of a weight that may be sharded."""
    part: Tensor = weight.to_local() if hasattr(weight, "to_local") else weight
    return part.detach()


def _product(weight: Tensor, bias: Tensor | None) -> Product:
    if Panels.take(weight):
        return Panels(weight, bias)
    if _takes(weight):
        return _blocked(weight, bias)
    weight = weight.contiguous()
    return lambda x: functional.linear(x, weight, bias)


def _blocked(weight: Tensor, bias: Tensor | None) -> Product:
    """In oneDNN's layout: with few rows a plain one takes two to three times as long."""
    blocked = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _LAYOUT_ROWS)
    product = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: cast(Tensor, product(x, blocked, bias, "none", [], ""))


def aligned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Uninitialised, at the beginning of a line of the caches."""
    flat = torch.empty(math.prod(shape) + 64, dtype=dtype)
    skipped = -flat.data_ptr() % 64 // dtype.itemsize
    return flat[skipped : skipped + math.prod(shape)].view(shape)


def panels_at_once(panels: int) -> int:
    """Panels that a thread takes at once, of so many: few enough to leave all threads some."""
    return max(min(_GROUP, panels // (4 * torch.get_num_threads())), 1)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _takes(weight: Tensor) -> bool:
    """Whether oneDNN has a layout of its own for this weight."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
