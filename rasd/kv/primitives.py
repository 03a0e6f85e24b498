"""What kernels are written with: bf16 numbers, shared counters, addresses. Only numba reads it.

A kernel is a C function that takes int64s, addresses among them, and works until no unit is left;
threads may share them. bf16 is held as uint16; arithmetic is in float32.
"""

# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"
from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from llvmlite import binding, ir
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

# Not nnan, ninf: hidden slots have a score of -inf.
FAST: Final = {"reassoc", "contract", "nsz", "arcp", "afn"}
LOG2E: Final = np.float32(math.log2(math.e))

KINDS: Final[dict[torch.dtype, Any]] = {torch.bfloat16: np.uint16, torch.float32: np.float32}
"""How numpy holds what kernels can compute with."""


class BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's type of bf16, which llvmlite lacks."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloat)

    def __hash__(self) -> int:
        return hash(BFloat)


def has(feature: str) -> bool:
    """Whether this machine has an extension, in LLVM's words."""
    return bool(binding.get_host_cpu_features().get(feature))


def compiled(kernel: Any) -> Any:
    """Compiles ``void kernel(int64*)``; the machine code is kept on disk where that is possible."""
    signature = types.void(types.CPointer(types.int64))
    try:
        return cfunc(signature, cache=True)(kernel)
    except RuntimeError:  # numba's "no locator available": nowhere to write
        return cfunc(signature)(kernel)


@intrinsic
def take(typing: Any, counter: Any) -> Any:
    """Number of the next unit nobody has taken yet; atomically."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", args[0], ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), code


@intrinsic
def pointer(typing: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), code


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Moves the line at an address into the second cache."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, flag, flag, flag])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        where = builder.inttoptr(args[0], cgutils.voidptr_t)
        builder.call(function, [where, flag(0), flag(2), flag(1)])
        return context.get_dummy_value()

    return types.void(types.intp), code


@intrinsic
def widen(typing: Any, value: Any) -> Any:
    """float32 of a bf16 in a uint16, or of a float32."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if signature.args[0] == types.float32:
            return args[0]
        bits = builder.shl(builder.zext(args[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(value), code


@intrinsic
def as_float(typing: Any, bits: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), code


@intrinsic
def narrow(typing: Any, value: Any, like: Any) -> Any:
    """A float32 as the kind of number that ``like`` is, rounded to nearest even."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if signature.args[1] == types.float32:
            return args[0]
        wide = ir.IntType(32)
        bits = builder.bitcast(args[0], wide)
        high = builder.lshr(bits, ir.Constant(wide, 16))
        odd = builder.and_(high, ir.Constant(wide, 1))
        rounded = builder.add(bits, builder.add(odd, ir.Constant(wide, 0x7FFF)))
        return builder.trunc(builder.lshr(rounded, ir.Constant(wide, 16)), ir.IntType(16))

    return like(types.float32, like), code


@njit(fastmath=FAST, inline="always")
def exp(x):
    """e to a power that is not positive; vectorises, which the library's does not."""
    x = max(x * LOG2E, np.float32(-126.0))
    whole = np.floor(x)
    part = x - whole
    power = np.float32(1.8775767e-3)
    power = power * part + np.float32(8.9893397e-3)
    power = power * part + np.float32(5.5826318e-2)
    power = power * part + np.float32(2.4015361e-1)
    power = power * part + np.float32(6.9315308e-1)
    power = power * part + np.float32(0.99999994)
    return power * as_float((np.int32(whole) + np.int32(127)) << np.int32(23))
