"""Machine code for products of float32 rows, rounded to 8 bits, with weights of 8 bits.

For drafts, which need not be exact: they are bound by the bytes of their weights. Only numba reads
this file.
"""

# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"
from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from rasd.forward.tiles import BLOCK, FLOATS, PANEL, TILE, WORDS, Tile, switch
from rasd.kv.primitives import FAST, as_float, compiled, has, pointer, take

INPUTS: Final = 64  # of which inputs are a multiple
SHIFT: Final = 128  # added to rounded inputs, which the machine wants without a sign

GEMM8_FIELDS: Final = (
    *("counter", "rows", "inputs", "panels", "group"),
    *("weights", "scales", "offsets", "x", "x_width", "out", "out_width", "bias"),
)
"""int64 each, as `GEMM_FIELDS`. Weights int8; of each output the float32 scale and bias, and what
sums begin with: int32, -`SHIFT` times the sum of its weights."""

_INFINITE: Final = np.int32(0x7F800000)  # bits of a float that is not finite, at least


class _Int8Tile(Tile):
    """Unsigned 8 bits in, float32 out.

    Args:
        scales: addresses of those of the panel's outputs and of the rows, and of biases.
    """

    sums = WORDS

    def __init__(self, builder: Any, rows: int, addresses: Any, scales: Any, steps: Any) -> None:
        super().__init__(builder, rows, addresses, steps)
        self._scales, self._row_scales, self._bias = scales

    def dot(self, total: Any, inputs: Any, weights: Any) -> Any:
        function = self._function("llvm.x86.avx512.vpdpbusd.512", WORDS, [WORDS, WORDS, WORDS])
        return self._builder.call(function, [total, inputs, weights])

    def store(self, row: int, register: int, total: Any) -> None:
        builder = self._builder
        scale = self._load(self._at(self._row_scales, 4 * row), FLOATS.element, 4)
        value = builder.fmul(builder.sitofp(total, FLOATS), self._spread(scale, FLOATS))
        value = builder.fmul(value, self._load(self._at(self._scales, 64 * register), FLOATS, 4))
        value = builder.fadd(value, self._load(self._at(self._bias, 64 * register), FLOATS, 4))
        self._keep(value, self._at(self._out[row], 64 * register), 4)


@intrinsic
def _tile(  # noqa: PLR0913
    typing: Any, rows, weights, first, x, out, scales, row_scales, bias, x_step, out_step, words
):
    """Products of 1 to `TILE` rows with a panel; see `Tile`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        addresses = [builder.inttoptr(arg, cgutils.voidptr_t) for arg in args[1:8]]
        switch(
            builder,
            args[0],
            lambda size: _Int8Tile(builder, size, addresses[:4], addresses[4:], args[8:]),
        )
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 11), code


@njit(fastmath=FAST, error_model="numpy")
def _round(x, bits, out):
    """A row in 8 bits, shifted; gives its scale, no number if some of it is not finite."""
    top = np.int32(0)
    for i in range(len(bits)):
        top = max(top, bits[i] & np.int32(0x7FFFFFFF))
    if top == 0 or top >= _INFINITE:
        out[:] = SHIFT
        return np.float32(0.0) if top == 0 else np.float32(np.nan)
    largest = as_float(top)
    inverse = np.float32(127.0) / largest
    for i in range(len(x)):
        out[i] = np.uint8(np.int32(np.rint(x[i] * inverse)) + np.int32(SHIFT))
    return largest / np.float32(127.0)


@njit
def _round_all(x, bits, rounded, scales, inputs):
    """The rows of x, of which only the inputs count."""
    for row in range(len(x)):
        scales[row] = _round(x[row, :inputs], bits[row, :inputs], rounded[row, :inputs])


@cache
def multiplies_int8() -> bool:
    """Whether this machine runs the code."""
    return has("avx512vnni")


@cache
def gemm8() -> Any:
    """A C function that takes `GEMM8_FIELDS` and works until no unit is left.

    x and out are float32. Each thread rounds the rows for itself: that costs little beside weights.
    """

    def kernel(fields):
        rows, inputs, panels, group = fields[1], fields[2], fields[3], fields[4]
        x = carray(pointer(fields[8]), (rows, fields[9]), np.float32)
        bits = carray(pointer(fields[8]), (rows, fields[9]), np.int32)
        width = inputs + 64  # rows that are a power of two apart share lines of the first cache
        rounded = np.empty((min(rows, BLOCK), width), np.uint8)
        row_scales = np.empty(BLOCK + TILE, np.float32)
        groups, known, unit = (panels + group - 1) // group, -1, take(fields)
        while unit < groups * ((rows + BLOCK - 1) // BLOCK):
            top, first = unit // groups * BLOCK, unit % groups * group
            count = min(rows - top, BLOCK)
            if top != known:
                _round_all(x[top : top + count], bits[top:], rounded, row_scales, inputs)
                known = top
            tiles = (count + TILE - 1) // TILE
            for panel in range(first, min(first + group, panels)):
                weights, at = fields[5] + panel * PANEL * inputs, panel * PANEL * 4
                for tile in range(tiles):
                    begin, end = tile * count // tiles, (tile + 1) * count // tiles
                    _tile(
                        end - begin,
                        weights,
                        fields[7] + at,
                        rounded.ctypes.data + begin * width,
                        fields[10] + (top + begin) * fields[11] * 4 + at,
                        fields[6] + at,
                        row_scales.ctypes.data + begin * 4,
                        fields[12] + at,
                        width,
                        fields[11] * 4,
                        inputs // 4,
                    )
            unit = take(fields)

    return compiled(kernel)
