"""Machine code for products of small matrices, sums kept in registers. Only numba reads this file.

The right matrix is packed: in a row of it lie as many numbers of each column as a register's lane
multiplies at once, so two bf16 where the CPU multiplies bf16 itself (`PAIRS`), else one float32.
"""

# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"
from __future__ import annotations

from itertools import product
from typing import Any, Final

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from rasd.kv.primitives import BFloat, has

ROWS: Final = 6  # by four registers: 24 sums, 4 of the right and 1 of the left, of 32
COLUMNS: Final = 64
LANES: Final = 16

WIDE: Final = has("avx512f")
"""Whether registers are as wide and as many as tiles want."""
PAIRS: Final = has("avx512bf16")
"""Whether the CPU multiplies bf16."""

_INT, _WORD, _FLOAT = ir.IntType(64), ir.IntType(32), ir.FloatType()
_WORDS, _FLOATS = ir.VectorType(_WORD, LANES), ir.VectorType(_FLOAT, LANES)


_HALVES = ir.VectorType(BFloat(), 2 * LANES)


class _Tile:
    """Writes the code that adds a product of some rows by ``vectors`` registers to a result.

    Args:
        values: out, left and right as addresses; entries of a row of left, words; bytes from one
            row to the next of out, left and right.
    """

    def __init__(self, builder: Any, paired: bool, rows: int, vectors: int, values: Any) -> None:
        self._builder, self._paired, self._count, self._vectors = builder, paired, rows, vectors
        out, left, self._right, self._depth, out_step, left_step, self._right_step = values
        self._outs, self._lefts = self._rows(out, out_step), self._rows(left, left_step)

    def write(self) -> None:
        """The loop over a row of left."""
        builder = self._builder
        before = builder.block
        first = [[self._load(out, 64 * v, _FLOATS) for v in self._all()] for out in self._outs]
        loop, after = builder.append_basic_block("depth"), builder.append_basic_block("store")
        builder.branch(loop)
        builder.position_at_end(loop)
        index = builder.phi(_INT)
        sums = [[builder.phi(_FLOATS) for _ in self._all()] for _ in self._outs]
        new = self._step(index, sums)
        for row, begin, end in zip(sums, first, new, strict=True):
            for v in self._all():
                row[v].add_incoming(begin[v], before)
                row[v].add_incoming(end[v], loop)
        following = builder.add(index, _INT(1))
        index.add_incoming(_INT(0), before)
        index.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, self._depth), loop, after)
        builder.position_at_end(after)
        for out, row in zip(self._outs, new, strict=True):
            for v in self._all():
                builder.store(row[v], self._at(out, _INT(64 * v), _FLOATS), align=4)

    def _step(self, index: Any, sums: list[list[Any]]) -> list[list[Any]]:
        builder, kind = self._builder, _WORDS if self._paired else _FLOATS
        place = builder.gep(self._right, [builder.mul(index, self._right_step)])
        rights = [self._load(place, 64 * v, kind) for v in self._all()]
        new: list[list[Any]] = []
        for left, row in zip(self._lefts, sums, strict=True):
            one = self._at(left, builder.mul(index, _INT(4)), kind.element)
            spread = self._spread(builder.load(one, align=4), kind)
            new.append([self._add(row[v], spread, rights[v]) for v in self._all()])
        return new

    def _add(self, total: Any, left: Any, right: Any) -> Any:
        builder = self._builder
        if not self._paired:
            product = builder.fmul(left, right, flags=("contract",))
            return builder.fadd(total, product, flags=("contract",))
        kind = ir.FunctionType(_FLOATS, [_FLOATS, _HALVES, _HALVES])
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
        dot = cgutils.get_or_insert_function(builder.module, kind, name)
        halves = (builder.bitcast(side, _HALVES) for side in (left, right))
        return builder.call(dot, [total, *halves])

    def _spread(self, value: Any, kind: Any) -> Any:
        nothing = ir.Constant(kind, ir.Undefined)
        one = self._builder.insert_element(nothing, value, _WORD(0))
        return self._builder.shuffle_vector(one, nothing, ir.Constant(_WORDS, [0] * LANES))

    def _rows(self, address: Any, step: Any) -> list[Any]:
        builder = self._builder
        return [builder.gep(address, [builder.mul(step, _INT(row))]) for row in range(self._count)]

    def _all(self) -> range:
        return range(self._vectors)

    def _at(self, address: Any, offset: Any, kind: Any) -> Any:
        return self._builder.bitcast(self._builder.gep(address, [offset]), kind.as_pointer())

    def _load(self, address: Any, offset: int, kind: Any) -> Any:
        return self._builder.load(self._at(address, _INT(offset), kind), align=4)


@intrinsic
def _tile(  # noqa: PLR0913
    typing: Any, like, rows, vectors, out, left, right, depth, out_step, left_step, right_step
):
    """`_Tile` of up to `ROWS` rows by 4 or 1 registers; in pairs if ``like`` is a uint16."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        addresses = [builder.inttoptr(arg, cgutils.voidptr_t) for arg in args[3:6]]
        values, paired = (*addresses, *args[6:]), like != types.float32
        end = builder.append_basic_block("end")
        which = builder.add(builder.mul(args[2], _INT(ROWS)), args[1])
        switch = builder.switch(which, end)
        for vectors, rows in product((1, COLUMNS // LANES), range(1, ROWS + 1)):
            block = builder.append_basic_block(f"rows{rows}by{vectors}")
            switch.add_case(_INT(vectors * ROWS + rows), block)
            builder.position_at_end(block)
            _Tile(builder, paired, rows, vectors, values).write()
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(like, *(types.int64,) * 9), code


@njit
def multiply_add(left, right, out, depth):
    """Adds left times right to out.

    Args:
        left: [m, at least depth * numbers in a word], uint16 for bf16 or float32.
        right: [at least depth, n], uint32 that hold two bf16, or float32; n is a multiple of
            `LANES`.
        out: float32[m, n].
        depth: words of a row of left.
    """
    width = out.shape[1]
    vectors = COLUMNS // LANES if width % COLUMNS == 0 else 1
    a, b, c = left.ctypes.data, right.ctypes.data, out.ctypes.data
    steps = out.strides[0], left.strides[0], right.strides[0]
    tiles = (len(out) + ROWS - 1) // ROWS
    for tile in range(tiles):
        r, end = tile * len(out) // tiles, (tile + 1) * len(out) // tiles
        for v in range(0, width // LANES, vectors):
            at, to, by = a + r * steps[1], c + r * steps[0] + 64 * v, b + 64 * v
            _tile(left[0, 0], end - r, vectors, to, at, by, depth, *steps)


@intrinsic
def word(typing: Any, first, second, like):
    """What a packed matrix like this one holds of two bf16; or the first number as float32."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if signature.args[2] != types.float32:
            low, high = (builder.zext(arg, _WORD) for arg in args[:2])
            return builder.or_(low, builder.shl(high, _WORD(16)))
        if signature.args[0] == types.float32:
            return args[0]
        return builder.bitcast(builder.shl(builder.zext(args[0], _WORD), _WORD(16)), _FLOAT)

    return like(first, second, like), code


@intrinsic
def largest(typing: Any, address):
    """The largest of `COLUMNS` float32 at an address, none of them no number."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first = builder.bitcast(builder.inttoptr(args[0], cgutils.voidptr_t), _FLOATS.as_pointer())
        top = builder.load(first, align=4)
        for v in range(1, COLUMNS // LANES):
            at = builder.gep(first, [_INT(v)], source_etype=_FLOATS)
            other = builder.load(at, align=4, typ=_FLOATS)
            top = builder.select(builder.fcmp_ordered(">", other, top), other, top)
        kind = ir.FunctionType(_FLOAT, [_FLOATS])
        reduce = cgutils.get_or_insert_function(
            builder.module, kind, "llvm.vector.reduce.fmax.v16f32"
        )
        return builder.call(reduce, [top], fastmath=("nnan",))

    return types.float32(types.int64), code
