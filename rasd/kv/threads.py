"""Kernels in torch's own threads, which are awake; a pool beside theirs would fight for cores."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch


def run(kernel: int, fields: int) -> None:
    """Runs a kernel at an address over fields at an address, in as many threads as torch uses."""
    threads = torch.get_num_threads()
    parallel = _parallel() if threads > 1 else None
    if parallel is None:
        _ALONE(kernel)(fields)
    else:
        parallel(kernel, fields, threads, 0)


_ALONE: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@cache
def _parallel() -> Callable[[int, int, int, int], None] | None:
    """The entry of the OpenMP library that torch brought along; None if it has another."""
    for path in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*"):
        call: Any = ctypes.CDLL(str(path)).GOMP_parallel
        call.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        call.restype = None
        return call  # type: ignore[no-any-return]
    return None
