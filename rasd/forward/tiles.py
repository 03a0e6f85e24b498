"""Code of tiles for products by machine code of our own: rows by a panel of weights.

Weights lie as the loop reads them: panels of `PANEL` outputs, in each panel words of inputs, in
each word the outputs one after the other; a word is 32 bits of inputs, two of bf16 or four of 8.
A tile of up to `TILE` rows keeps its sums in registers while a panel goes by. A row's sums are of
one order for any number of rows. Only numba reads this file, through `gemm` and `gemm8`.
"""

# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from llvmlite import ir
from numba.core import cgutils

PANEL: Final = 32  # outputs: two registers of sums
TILE: Final = 14  # rows: 28 sums, 2 registers of weights, 1 of inputs, of 32
BLOCK: Final = 252  # rows that go by a panel before the next; their inputs stay in the caches

_AHEAD: Final = 2048  # bytes of weights asked from memory before they are needed
_UNROLLED: Final = {1: 4, 2: 2, 3: 2, 4: 2}
_LANES: Final = 16
_REGISTERS: Final = PANEL // _LANES

FLOATS: Final = ir.VectorType(ir.FloatType(), _LANES)
WORDS: Final = ir.VectorType(ir.IntType(32), _LANES)


class Tile:
    """Writes the code of one tile. What inputs and results are, subclasses say.

    Args:
        addresses: in bytes: of weights, of what sums begin with, of x and of out.
        steps: bytes from a row of x to the next, and of out; words of a row of x.
    """

    sums: Any

    def __init__(
        self, builder: Any, rows: int, addresses: Sequence[Any], steps: Sequence[Any]
    ) -> None:
        self._builder, self._rows = builder, rows
        flag = ir.IntType(32)
        self._fetch = self._function(
            "llvm.prefetch.p0", ir.VoidType(), [cgutils.voidptr_t, flag, flag, flag]
        )
        self._weights, self._first, x, out = addresses
        x_step, out_step, self._count = steps
        self._x = [self._at(x, builder.mul(x_step, _constant(row))) for row in range(rows)]
        self._out = [self._at(out, builder.mul(out_step, _constant(row))) for row in range(rows)]

    def dot(self, total: Any, inputs: Any, weights: Any) -> Any:
        """The sums [16] with products of two registers of words added."""
        raise NotImplementedError

    def store(self, row: int, register: int, total: Any) -> None:
        """Writes the results of 16 sums of a row."""
        raise NotImplementedError

    def write(self) -> None:
        """The loop over words, then the results."""
        builder, unrolled = self._builder, _UNROLLED.get(self._rows, 1)
        before = builder.block
        first = [self._load(self._at(self._first, 64 * j), self.sums, 4) for j in range(_REGISTERS)]
        loop = builder.append_basic_block("words")
        after = builder.append_basic_block("results")
        builder.branch(loop)
        builder.position_at_end(loop)
        word = builder.phi(ir.IntType(64))
        word.add_incoming(_constant(0), before)
        sums = [[builder.phi(self.sums) for _ in range(_REGISTERS)] for _ in range(self._rows)]
        new: list[list[Any]] = [list(row) for row in sums]
        for step in range(unrolled):
            self._word(builder.add(word, _constant(step)), new)
        for row, its in zip(sums, new, strict=True):
            for j in range(_REGISTERS):
                row[j].add_incoming(first[j], before)
                row[j].add_incoming(its[j], loop)
        following = builder.add(word, _constant(unrolled))
        word.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, self._count), loop, after)
        builder.position_at_end(after)
        for place, its in enumerate(new):
            for j in range(_REGISTERS):
                self.store(place, j, its[j])

    def _word(self, word: Any, sums: list[list[Any]]) -> None:
        builder = self._builder
        place = self._at(self._weights, builder.mul(word, _constant(4 * PANEL)))
        weights = []
        for j in range(_REGISTERS):
            weights.append(self._load(self._at(place, 64 * j), WORDS, 64))
            far = self._at(place, 64 * j + _AHEAD)
            builder.call(self._fetch, [far, *(ir.Constant(ir.IntType(32), n) for n in (0, 0, 1))])
        at = builder.mul(word, _constant(4))
        for row in range(self._rows):
            inputs = self._spread(self._load(self._at(self._x[row], at), ir.IntType(32), 4), WORDS)
            for j in range(_REGISTERS):
                sums[row][j] = self.dot(sums[row][j], inputs, weights[j])

    def _spread(self, value: Any, kind: Any) -> Any:
        nothing, zero = ir.Constant(kind, ir.Undefined), ir.Constant(ir.IntType(32), 0)
        one = self._builder.insert_element(nothing, value, zero)
        return self._builder.shuffle_vector(one, nothing, ir.Constant(WORDS, [0] * _LANES))

    def _function(self, name: str, result: Any, arguments: Sequence[Any]) -> Any:
        kind = ir.FunctionType(result, arguments)
        return cgutils.get_or_insert_function(self._builder.module, kind, name)

    def _at(self, address: Any, offset: Any) -> Any:
        offset = _constant(offset) if isinstance(offset, int) else offset
        return self._builder.gep(address, [offset])

    def _load(self, address: Any, kind: Any, align: int) -> Any:
        typed = self._builder.bitcast(address, kind.as_pointer())
        return self._builder.load(typed, align=align)

    def _keep(self, value: Any, address: Any, align: int) -> None:
        self._builder.store(
            value, self._builder.bitcast(address, value.type.as_pointer()), align=align
        )


def switch(builder: Any, rows: Any, tile: Any) -> None:
    """Code of tiles of 1 to `TILE` rows, chosen at run time; ``tile(rows)`` makes one."""
    end = builder.append_basic_block("end")
    switch = builder.switch(rows, end)
    for size in range(1, TILE + 1):
        block = builder.append_basic_block(f"rows{size}")
        switch.add_case(_constant(size), block)
        builder.position_at_end(block)
        tile(size).write()
        builder.branch(end)
    builder.position_at_end(end)


def _constant(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)
