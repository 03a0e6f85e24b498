"""Products with weights in 8 bits, for what need not be exact."""

from __future__ import annotations

import torch
from torch import Tensor

from rasd.forward.gemm8 import GEMM8_FIELDS, INPUTS, SHIFT, gemm8, multiplies_int8
from rasd.forward.linear import aligned, panels_at_once
from rasd.forward.tiles import PANEL
from rasd.kv.threads import Call


class Rounded:
    """About ``x @ weight.T + bias``: the weight in 8 bits with a scale per output.

    Rows of x are rounded to 8 bits, each with a scale, as they come. What is not finite in a row
    makes all of its outputs no number.

    Args:
        weight: [outputs, inputs], on the CPU; bias: [outputs] or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.outputs, self.inputs = weight.shape
        count, inputs = -(-self.outputs // PANEL), -(-self.inputs // INPUTS) * INPUTS
        padded = torch.zeros((count * PANEL, inputs))
        padded[: self.outputs, : self.inputs] = weight.detach()
        self._scales = padded.abs().amax(1).clamp_min(1e-12) / 127
        rounded = (padded / self._scales[:, None]).round().to(torch.int8)
        self._offsets = -SHIFT * rounded.sum(1, dtype=torch.int32)
        self._weight = aligned((count, inputs // 4, PANEL, 4), torch.int8)
        self._weight.copy_(rounded.view(count, PANEL, inputs // 4, 4).transpose(1, 2))
        self._bias = torch.zeros(count * PANEL)
        if bias is not None:
            self._bias[: self.outputs] = bias.detach()
        self._padding = inputs - self.inputs
        self._call = Call(gemm8(), GEMM8_FIELDS)
        self._call.set(inputs=inputs, panels=count, group=panels_at_once(count))
        self._call.set(weights=self._weight.data_ptr(), scales=self._scales.data_ptr())
        self._call.set(offsets=self._offsets.data_ptr(), bias=self._bias.data_ptr())

    @property
    def call(self) -> Call | None:
        """The kernel, where it takes rows as they are."""
        return None if self._padding else self._call

    @staticmethod
    def serves(device: torch.device) -> bool:
        """Whether this machine has the instructions."""
        return device.type == "cpu" and multiplies_int8()

    def __call__(self, x: Tensor) -> Tensor:
        """float32[T, inputs] to float32[T, outputs]."""
        if self._padding:
            x = torch.nn.functional.pad(x, (0, self._padding))
        x = x if x.stride(-1) == 1 else x.contiguous()
        out = x.new_empty((len(x), len(self._scales)))
        self._call(
            rows=len(x),
            x=x.data_ptr(),
            x_width=x.stride(0),
            out=out.data_ptr(),
            out_width=out.shape[1],
        )
        return out[:, : self.outputs]
