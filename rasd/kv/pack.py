"""Machine code that packs keys and values for products; see `rasd.kv.tile`. Only numba reads it.

Packing is what a product of few rows costs, so it is done in registers where words are copied and
not widened: sixteen keys are turned by 8 words at a time, values are joined by two.
"""

# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import literally, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from rasd.kv.primitives import prefetch
from rasd.kv.tile import COLUMNS, LANES, word

LINE: Final = 64  # bytes that memory gives at once
WORDS: Final = 8  # of a key that are turned at once; sixteen times so many fill eight registers

_INT, _WORD, _HALF = ir.IntType(64), ir.IntType(32), ir.IntType(16)
_BOTH = range(LANES)


def _shuffle(builder: Any, one: Any, other: Any, order: Any) -> Any:
    mask = ir.Constant(ir.VectorType(_WORD, len(order)), list(order))
    return builder.shuffle_vector(one, other, mask)


def _parts(order: tuple[int, ...]) -> list[int]:
    """An order of two registers' words of which each four keep to themselves; it says theirs."""
    return [at % 4 + at // 4 * LANES + part for part in range(0, LANES, 4) for at in order]


_LOW, _HIGH = _parts((0, 4, 1, 5)), _parts((2, 6, 3, 7))
_LOWS, _HIGHS = _parts((0, 1, 4, 5)), _parts((2, 3, 6, 7))
_EVEN = [16 * side + 8 * part + at for side in (0, 1) for part in (0, 1) for at in range(4)]
_ODD = [at + 4 for at in _EVEN]


def _turned(builder: Any, rows: list[Any]) -> list[Any]:
    """Eight registers, of sixteen rows of eight words, to a register for each word.

    In the first four lie rows 0 to 3, each followed by the fourth after it; then 8 to 11 likewise.
    """
    quarters: list[list[Any]] = []
    for a, b, c, d in (rows[:4], rows[4:]):
        low = _shuffle(builder, a, b, _LOW), _shuffle(builder, c, d, _LOW)
        high = _shuffle(builder, a, b, _HIGH), _shuffle(builder, c, d, _HIGH)
        quarters.append(
            [_shuffle(builder, *two, order) for two in (low, high) for order in (_LOWS, _HIGHS)]
        )
    both = list(zip(*quarters, strict=True))
    return [_shuffle(builder, one, other, order) for order in (_EVEN, _ODD) for one, other in both]


@intrinsic
def _turn_words(typing: Any, base, places, to):
    """Writes `WORDS` words of sixteen rows as columns of a row each of `COLUMNS` words.

    Args:
        base: address; ``places``: address of int64[16], where the rows lie behind it, in bytes.
        to: address of the first column.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, places, to = (builder.inttoptr(arg, cgutils.voidptr_t) for arg in args)
        kind = ir.VectorType(_WORD, WORDS)

        def row(index: int) -> Any:
            at = builder.gep(places, [_INT(8 * index)])
            at = builder.load(builder.bitcast(at, _INT.as_pointer()), align=8)
            at = builder.bitcast(builder.gep(base, [at]), kind.as_pointer())
            return builder.load(at, align=4)

        rows = [
            _shuffle(builder, row(index), row(index + 4), _BOTH)
            for index in (0, 1, 2, 3, 8, 9, 10, 11)
        ]
        for index, column in enumerate(_turned(builder, rows)):
            at = builder.gep(to, [_INT(4 * COLUMNS * index)])
            builder.store(column, builder.bitcast(at, column.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), code


@intrinsic
def _join(typing: Any, one, other, to):
    """Writes the words of two rows of sixteen bf16, all by address."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        half, whole = ir.VectorType(_HALF, LANES), ir.VectorType(_HALF, 2 * LANES)
        one, other, to = (builder.inttoptr(arg, cgutils.voidptr_t) for arg in args)
        sides = [
            builder.load(builder.bitcast(at, half.as_pointer()), align=2) for at in (one, other)
        ]
        order = [at + side * LANES for at in range(LANES) for side in (0, 1)]
        pairs = _shuffle(builder, sides[0], sides[1], order)
        builder.store(pairs, builder.bitcast(to, whole.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), code


@njit
def find(states, slots, first, count, places):
    """Where a block's rows lie in a store, in bytes; behind the last it is found again.

    Of a block without rows places stay as they were: whatever they say may be read.
    """
    step = states.strides[0]
    for j in range(count):
        places[j] = slots[first + j] * step
    if count > 0:
        places[count:] = places[count - 1]


@njit
def fetch(states, slots, first, count, dim):
    """Asks memory for a block that is read next, while another is computed with."""
    literally(dim)
    step = 64 // states.itemsize
    for j in range(count):
        slot = slots[first + j]
        for d in range(0, dim, step):
            prefetch(states[slot, d:].ctypes.data)


@njit
def pack_keys(keys, places, count, packed, per, dim):
    """[dim / per, COLUMNS] of the keys at places; ``per`` numbers in a word."""
    literally(dim)
    base, at, to = keys.ctypes.data, places.ctypes.data, packed.ctypes.data
    if keys.itemsize * per == packed.itemsize and dim // per % WORDS == 0:
        for p in range(0, dim // per, WORDS):
            for j in range(0, count, LANES):
                _turn_words(base + 4 * p, at + 8 * j, to + 4 * (p * COLUMNS + j))
    else:
        for j in range(count):
            key = keys[places[j] // keys.strides[0]]
            for p in range(dim // per):
                packed[p, j] = word(key[p * per], key[p * per + per - 1], packed[0, 0])


@njit
def pack_values(stores, places, ahead, count, packed, per, dim):
    """[COLUMNS / per, dim] of the values at places; the last word may hold one twice.

    Asks memory for the keys and values ahead: storing what is packed takes longer.
    """
    literally(dim)
    keys, values = stores
    other, base, to = keys.ctypes.data, values.ctypes.data, packed.ctypes.data
    for p in range((count + per - 1) // per):
        one, two = places[p * per], places[p * per + per - 1]
        for at in range(0, dim * values.itemsize, LINE):
            for j in range(p * per, p * per + per):
                prefetch(other + ahead[j] + at)
                prefetch(base + ahead[j] + at)
        if per == 2:
            for d in range(0, dim, LANES):
                _join(base + one + 2 * d, base + two + 2 * d, to + 4 * (p * dim + d))
        else:
            value = values[one // values.strides[0]]
            for d in range(dim):
                packed[p, d] = word(value[d], value[d], packed[0, 0])
