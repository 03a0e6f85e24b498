"""What stands between products: norms, sums and gates of rows; by a kernel where it pays."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rasd.forward.kernels import GATE_FIELDS, NORM_FIELDS, gate_kernel, norm_kernel
from rasd.forward.linear import local, new_rows
from rasd.kv.primitives import KINDS
from rasd.kv.threads import Call


class Norm:
    """Root mean square norm with a gain; the identity where the module is one.

    Attributes:
        call: the kernel, where there is one; ``kind``: its numbers' type.
    """

    def __init__(self, module: nn.Module) -> None:
        self._gain: Tensor | None = None
        self._eps = 0.0
        self.call: Call | None = None
        self.kind: torch.dtype | None = None
        if not isinstance(module, nn.Identity):
            gain = local(module.weight).contiguous()
            self._gain, self._eps = gain, float(module.variance_epsilon)  # type: ignore[arg-type]
            self.kind = gain.dtype
            if _serves(gain):
                bits = int(np.float32(self._eps).view(np.int32))
                self.call = Call(norm_kernel(KINDS[gain.dtype]), NORM_FIELDS)
                self.call.set(eps=bits, width=len(gain), gain=gain.data_ptr())

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, H] normed."""
        if self._gain is None:
            return x
        if self.call is None or x.dtype != self._gain.dtype or x.ndim != 2:
            return functional.rms_norm(x, self._gain.shape, self._gain, self._eps)
        return self._run(x.contiguous(), None)[1]

    def after(self, x: Tensor, added: Tensor | None) -> tuple[Tensor, Tensor]:
        """x + added, both [T, H], and that normed."""
        if added is None:
            return x, self(x)
        if self.call is None or self._gain is None or x.dtype != self._gain.dtype:
            total = x + added
            return total, self(total)
        return self._run(x.contiguous(), added.contiguous())

    def _run(self, x: Tensor, added: Tensor | None) -> tuple[Tensor, Tensor]:
        """The sum, or x where nothing is added, and that normed; by the kernel."""
        total = x if added is None else torch.empty_like(x)
        out = new_rows(x, *x.shape)
        self.call(  # type: ignore[misc]
            rows=len(x),
            x=x.data_ptr(),
            added=0 if added is None else added.data_ptr(),
            total=total.data_ptr(),
            out=out.data_ptr(),
            out_width=out.stride(0),
        )
        return total, out


class Gate:
    """silu of the first half of every row times its second half.

    Attributes:
        call, kind: as `Norm`'s.
    """

    def __init__(self, like: Tensor) -> None:
        self.kind = like.dtype
        self.call = Call(gate_kernel(KINDS[like.dtype]), GATE_FIELDS) if _serves(like) else None

    def __call__(self, states: Tensor) -> Tensor:
        """[T, 2 * n] to [T, n]."""
        if self.call is None or states.dtype != self.kind or states.stride(1) != 1:
            gate, up = states.chunk(2, -1)
            return functional.silu(gate).mul_(up)
        out = new_rows(states, len(states), states.shape[1] // 2)
        self.call(
            rows=len(states),
            width=out.shape[1],
            x=states.data_ptr(),
            x_width=states.stride(0),
            out=out.data_ptr(),
            out_width=out.stride(0),
        )
        return out


def _serves(like: Tensor) -> bool:
    return like.device.type == "cpu" and like.dtype in KINDS
