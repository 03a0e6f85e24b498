"""Machine code for products of rows with bf16 weights, on CPUs that multiply bf16 themselves.

Few rows read all weights once, so memory is the limit, and oneDNN stays below half of it. Here
weights lie as the loop reads them: panels of `PANEL` outputs, in each panel pairs of inputs, in
each pair the outputs one after the other. A tile of up to `TILE` rows keeps its sums in registers
while a panel goes by. Sums are in float32 and of one order for any number of rows, so a row's
result does not depend on the rows beside it. Only numba reads this file.
"""

# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"
from __future__ import annotations

from functools import cache
from typing import Any, Final

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rasd.kv.primitives import compiled, take

PANEL: Final = 32  # outputs: two registers of sums
TILE: Final = 14  # rows: 28 sums, 2 registers of weights, 1 of inputs, of 32
INPUTS: Final = 32  # of which inputs are a multiple
BLOCK: Final = 252  # rows that go by a panel before the next; their inputs stay in the caches

GEMM_FIELDS: Final = (
    *("counter", "rows", "inputs", "panels", "group"),
    *("weights", "bias", "x", "x_width", "out", "out_width"),
)
"""int64 each: numbers and addresses; ``group``: panels a thread takes at once; widths: elements
from a row to the next."""

_AHEAD: Final = 2048  # bytes of weights asked from memory before they are needed
_UNROLLED: Final = {1: 4, 2: 2, 3: 2, 4: 2}
_LANES: Final = 16

_FLOATS = ir.VectorType(ir.FloatType(), _LANES)
_WORDS = ir.VectorType(ir.IntType(32), _LANES)
_HALVES = ir.VectorType(ir.IntType(16), _LANES)


class _BFloat(ir.Type):  # type: ignore[misc]
    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_PAIRS = ir.VectorType(_BFloat(), 2 * _LANES)


def _constant(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)


class _Tile:
    """Writes the code of one tile: ``rows`` rows by a panel.

    Args:
        values: weights, bias, x, out as addresses in bytes; bytes from a row of x to the next,
            and of out; pairs of inputs.
    """

    def __init__(self, builder: Any, rows: int, values: Any) -> None:
        self._builder, self._rows = builder, rows
        module, void, flag = builder.module, ir.VoidType(), ir.IntType(32)
        as_function = cgutils.get_or_insert_function
        dot = ir.FunctionType(_FLOATS, [_FLOATS, _PAIRS, _PAIRS])
        self._dot = as_function(module, dot, "llvm.x86.avx512bf16.dpbf16ps.512")
        narrow = ir.FunctionType(ir.VectorType(_BFloat(), _LANES), [_FLOATS])
        self._narrow = as_function(module, narrow, "llvm.x86.avx512bf16.cvtneps2bf16.512")
        fetch = ir.FunctionType(void, [cgutils.voidptr_t, flag, flag, flag])
        self._fetch = as_function(module, fetch, "llvm.prefetch.p0")
        self._weights, self._bias, x, out, x_step, out_step, self._count = values
        self._x = [self._at(x, builder.mul(x_step, _constant(row))) for row in range(rows)]
        self._out = [self._at(out, builder.mul(out_step, _constant(row))) for row in range(rows)]

    def write(self) -> None:
        """The loop over pairs of inputs, then the results."""
        builder, unrolled = self._builder, _UNROLLED.get(self._rows, 1)
        before = builder.block
        first = [self._load(self._at(self._bias, 64 * j), _FLOATS, 4) for j in range(2)]
        loop = builder.append_basic_block("pairs")
        after = builder.append_basic_block("results")
        builder.branch(loop)
        builder.position_at_end(loop)
        pair = builder.phi(ir.IntType(64))
        pair.add_incoming(_constant(0), before)
        sums = [[builder.phi(_FLOATS) for _ in range(2)] for _ in range(self._rows)]
        new: list[list[Any]] = [list(row) for row in sums]
        for step in range(unrolled):
            self._pair(builder.add(pair, _constant(step)), new)
        for row, its in zip(sums, new, strict=True):
            for j in range(2):
                row[j].add_incoming(first[j], before)
                row[j].add_incoming(its[j], loop)
        following = builder.add(pair, _constant(unrolled))
        pair.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, self._count), loop, after)
        builder.position_at_end(after)
        self._store(new)

    def _pair(self, pair: Any, sums: list[list[Any]]) -> None:
        builder = self._builder
        place = self._at(self._weights, builder.mul(pair, _constant(4 * PANEL)))
        weights = []
        for j in range(2):
            weights.append(builder.bitcast(self._load(self._at(place, 64 * j), _WORDS, 64), _PAIRS))
            far = self._at(place, 64 * j + _AHEAD)
            builder.call(self._fetch, [far, *(ir.Constant(ir.IntType(32), n) for n in (0, 3, 1))])
        at = builder.mul(pair, _constant(4))
        for row in range(self._rows):
            both = self._load(self._at(self._x[row], at), ir.IntType(32), 4)
            spread = builder.bitcast(self._spread(both), _PAIRS)
            for j in range(2):
                sums[row][j] = builder.call(self._dot, [sums[row][j], spread, weights[j]])

    def _spread(self, word: Any) -> Any:
        nothing, zero = ir.Constant(_WORDS, ir.Undefined), ir.Constant(ir.IntType(32), 0)
        one = self._builder.insert_element(nothing, word, zero)
        return self._builder.shuffle_vector(one, nothing, ir.Constant(_WORDS, [0] * _LANES))

    def _store(self, sums: list[list[Any]]) -> None:
        builder = self._builder
        for out, row in zip(self._out, sums, strict=True):
            for j in range(2):
                narrow = builder.bitcast(builder.call(self._narrow, [row[j]]), _HALVES)
                to = builder.bitcast(self._at(out, 32 * j), _HALVES.as_pointer())
                builder.store(narrow, to, align=2)

    def _at(self, address: Any, offset: Any) -> Any:
        offset = _constant(offset) if isinstance(offset, int) else offset
        return self._builder.gep(address, [offset])

    def _load(self, address: Any, kind: Any, align: int) -> Any:
        typed = self._builder.bitcast(address, kind.as_pointer())
        return self._builder.load(typed, align=align)


@intrinsic
def _tile(typing: Any, rows: Any, weights, bias, x, out, x_step, out_step, pairs) -> Any:  # noqa: PLR0913
    """Products of 1 to `TILE` rows with a panel; see `_Tile`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        addresses = [builder.inttoptr(arg, cgutils.voidptr_t) for arg in args[1:5]]
        end = builder.append_basic_block("end")
        switch = builder.switch(args[0], end)
        for size in range(1, TILE + 1):
            block = builder.append_basic_block(f"rows{size}")
            switch.add_case(_constant(size), block)
            builder.position_at_end(block)
            _Tile(builder, size, (*addresses, *args[5:])).write()
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 8), code


@cache
def multiplies_bf16() -> bool:
    """Whether this machine runs the code."""
    return bool(binding.get_host_cpu_features().get("avx512bf16"))


@cache
def gemm() -> Any:
    """A C function that takes `GEMM_FIELDS` and works until no unit is left.

    Weights are uint16 as `panels` of `rasd.forward.linear` lays them out; bias float32, as many
    as outputs; x and out bf16. Compiled once per machine: seconds; afterwards it is on disk.
    """

    def kernel(fields):
        rows, inputs, panels, group = fields[1], fields[2], fields[3], fields[4]
        x_step, out_step, pairs = 2 * fields[8], 2 * fields[10], inputs // 2
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
                    _tile(end - begin, w, b, x, out, x_step, out_step, pairs)
            unit = take(fields)

    return compiled(kernel)
