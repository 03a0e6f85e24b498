"""Memory by address, for compiled code.

Addresses, because compiled code cannot take a list of arrays whose length is known only at run
time, and because arrays in tuples count references at every step. Nothing is checked: whoever
makes an address keeps what lies there, and knows its bounds.
"""

from __future__ import annotations

from typing import Any, Final

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
