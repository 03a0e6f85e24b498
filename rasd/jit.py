"""How the hot loops are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compiles at the first call, runs without the GIL, keeps the machine code on disk.

    A compiled function may call only those of its own file: the cache does not notice changes
    in others. Where no directory takes the cache, each process compiles anew.
    """
    try:
        return cast(F, njit(nogil=True, cache=True)(function))
    except RuntimeError:  # numba's "no locator available": nowhere to write
        return cast(F, njit(nogil=True)(function))
