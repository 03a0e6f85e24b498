"""Machine code for products of rows with bf16 weights, on CPUs that multiply bf16 themselves.

Few rows read all weights once, so memory is the limit, and oneDNN stays below half of it; weights
do not pass by the shared cache. Sums are in float32, and a row's do not depend on the rows beside
it. Only numba reads this file.
"""

# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"
from __future__ import annotations

from functools import cache
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rasd.forward.tiles import BLOCK, FLOATS, PANEL, TILE, Tile, switch
from rasd.kv.primitives import BFloat, compiled, has, take

INPUTS: Final = 32  # of which inputs are a multiple

GEMM_FIELDS: Final = (
    *("counter", "rows", "inputs", "panels", "group"),
    *("weights", "bias", "x", "x_width", "out", "out_width"),
)
"""int64 each: numbers and addresses; ``group``: panels a thread takes at once; widths: elements
from a row to the next."""


_PAIRS = ir.VectorType(BFloat(), 32)
_NARROW = ir.VectorType(BFloat(), 16)
_HALVES = ir.VectorType(ir.IntType(16), 16)


class _Bf16Tile(Tile):
    """bf16 in and out."""

    sums = FLOATS

    def dot(self, total: Any, inputs: Any, weights: Any) -> Any:
        function = self._function(
            "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, [FLOATS, _PAIRS, _PAIRS]
        )
        pairs = (self._builder.bitcast(side, _PAIRS) for side in (inputs, weights))
        return self._builder.call(function, [total, *pairs])

    def store(self, row: int, register: int, total: Any) -> None:
        function = self._function("llvm.x86.avx512bf16.cvtneps2bf16.512", _NARROW, [FLOATS])
        narrow = self._builder.bitcast(self._builder.call(function, [total]), _HALVES)
        self._keep(narrow, self._at(self._out[row], 32 * register), 2)


@intrinsic
def _tile(typing: Any, rows, weights, bias, x, out, x_step, out_step, words) -> Any:  # noqa: PLR0913
    """Products of 1 to `TILE` rows with a panel; see `Tile`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        addresses = [builder.inttoptr(arg, cgutils.voidptr_t) for arg in args[1:5]]
        switch(builder, args[0], lambda size: _Bf16Tile(builder, size, addresses, args[5:]))
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 8), code


@cache
def multiplies_bf16() -> bool:
    """Whether this machine runs the code."""
    return has("avx512bf16")


@cache
def gemm() -> Any:
    """A C function that takes `GEMM_FIELDS` and works until no unit is left.

    Weights are uint16 as `panels` of `rasd.forward.linear` lays them out; bias float32, as many
    as outputs; x and out bf16. Compiled once per machine: seconds; afterwards it is on disk.
    """

    def kernel(fields):
        rows, inputs, panels, group = fields[1], fields[2], fields[3], fields[4]
        x_step, out_step, words = 2 * fields[8], 2 * fields[10], inputs // 2
        groups = (panels + group - 1) // group
        unit = take(fields)
        while unit < groups * ((rows + BLOCK - 1) // BLOCK):
            top = unit // groups * BLOCK
            count = min(rows - top, BLOCK)
            tiles = (count + TILE - 1) // TILE
            first = unit % groups * group
            for panel in range(first, min(first + group, panels)):
                w, b = fields[5] + panel * PANEL * inputs * 2, fields[6] + panel * PANEL * 4
                for tile in range(tiles):
                    begin, end = top + tile * count // tiles, top + (tile + 1) * count // tiles
                    x = fields[7] + begin * x_step
                    out = fields[9] + begin * out_step + panel * PANEL * 2
                    _tile(end - begin, w, b, x, out, x_step, out_step, words)
            unit = take(fields)

    return compiled(kernel)
