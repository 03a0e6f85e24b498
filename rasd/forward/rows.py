"""What stands between products: norms, sums and gates of rows; by a kernel where it pays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rasd.forward.kernels import NORM_FIELDS, norm_kernel
from rasd.forward.linear import local
from rasd.kv.primitives import KINDS
from rasd.kv.threads import run


class Norm:
    """Root mean square norm with a gain; the identity where the module is one."""

    def __init__(self, module: nn.Module) -> None:
        self._gain: Tensor | None = None
        self._eps = 0.0
        self._call: _Call | None = None
        if not isinstance(module, nn.Identity):
            gain = local(module.weight).contiguous()
            self._gain, self._eps = gain, float(module.variance_epsilon)  # type: ignore[arg-type]
            if _serves(gain):
                bits = int(np.float32(self._eps).view(np.int32))
                self._call = _Call(norm_kernel(KINDS[gain.dtype]), NORM_FIELDS)
                self._call.set(eps=bits, width=len(gain), gain=gain.data_ptr())

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, H] normed."""
        if self._gain is None:
            return x
        if self._call is None or x.dtype != self._gain.dtype or x.ndim != 2:
            return functional.rms_norm(x, self._gain.shape, self._gain, self._eps)
        x = x.contiguous()
        out = torch.empty_like(x)
        self._call(rows=len(x), x=x.data_ptr(), added=0, total=0, out=out.data_ptr())
        return out

    def after(self, x: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
        """x + added, both [T, H], and that normed."""
        if self._call is None or self._gain is None or x.dtype != self._gain.dtype:
            total = x + added
            return total, self(total)
        x, added = x.contiguous(), added.contiguous()
        total, out = torch.empty_like(x), torch.empty_like(x)
        self._call(
            rows=len(x),
            x=x.data_ptr(),
            added=added.data_ptr(),
            total=total.data_ptr(),
            out=out.data_ptr(),
        )
        return total, out


def gated(states: Tensor) -> Tensor:
    """silu of the first half of every row times its second half; [T, 2 * n] to [T, n]."""
    gate, up = states.chunk(2, -1)
    return functional.silu(gate).mul_(up)


class _Call:
    """A kernel and its fields, of which some stay from call to call."""

    def __init__(self, kernel: Any, names: Sequence[str]) -> None:
        self._kernel = kernel.address
        self._names = {name: index for index, name in enumerate(names)}
        self._fields = np.zeros(len(names), np.int64)
        self._at = self._fields.ctypes.data

    def set(self, **values: int) -> None:
        for name, value in values.items():
            self._fields[self._names[name]] = value

    def __call__(self, **values: int) -> None:
        self.set(counter=0, **values)
        run(self._kernel, self._at)


def _serves(like: Tensor) -> bool:
    return like.device.type == "cpu" and like.dtype in KINDS
