"""Memory by address, for compiled code.

Addresses, because compiled code cannot take a list of arrays whose length is known only at run
time, and because arrays in tuples count references at every step. Nothing is checked: whoever
makes an address keeps what lies there, and knows its bounds.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

# Intrinsics are compiled into their callers, whose caches do not notice a change here: a different
# one gets a different name.


def _pointer(item: Any) -> Any:
    """An intrinsic that makes an int64 address a pointer to ``item``."""

    def typed(context: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(item)(types.int64), code

    return intrinsic(typed)


uint32s_at: Final = _pointer(types.uint32)
uint64s_at: Final = _pointer(types.uint64)
int64s_at: Final = _pointer(types.int64)


@intrinsic  # type: ignore[untyped-decorator]
def living_below(context: Any, blocks: Any, rank: Any) -> Any:
    """int64: how many suffixes of lower rank live; ``blocks`` is where `Live.blocks` lies."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, rank = arguments
        one = rank.type(1)
        block = builder.shl(builder.lshr(rank, rank.type(6)), one)
        words = builder.inttoptr(address, rank.type.as_pointer())
        before = builder.load(builder.gep(words, [block]))
        word = builder.load(builder.gep(words, [builder.add(block, one)]))
        lower = builder.sub(builder.shl(one, builder.and_(rank, rank.type(63))), one)
        return builder.add(before, builder.ctpop(builder.and_(word, lower)))

    return types.int64(types.int64, types.int64), code


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(context: Any, address: Any) -> Any:
    """Asks for the memory at an address, which is on its way when it is read later."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, small = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, small, small, small])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        flags = [small(0), small(3), small(1)]  # for reading, into all caches, data
        builder.call(ask, [builder.inttoptr(arguments[0], byte), *flags])
        return context.get_dummy_value()

    return types.void(types.int64), code
