"""Kernels in torch's own threads, which are awake; a pool beside theirs would fight for cores."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
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
    library = _library()
    if library is None:
        return None
    call: Any = library.GOMP_parallel
    call.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    call.restype = None
    return call  # type: ignore[no-any-return]


@cache
def _library() -> ctypes.CDLL | None:
    for path in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*"):
        return ctypes.CDLL(str(path))
    return None


@cache
def barrier() -> int:
    """Address of a C function that returns when all threads of `run` have called it; 0 if no others
    run."""
    library = _library()
    if library is None:
        return 0
    return ctypes.cast(library.GOMP_barrier, ctypes.c_void_p).value or 0


class Call:
    """A kernel and its fields, of which some stay from call to call.

    Attributes:
        kernel: its address.
        names: which field is where.
        fields: int64[n].
    """

    def __init__(self, kernel: Any, names: Sequence[str]) -> None:
        self.kernel: int = kernel.address
        self.names = {name: index for index, name in enumerate(names)}
        self.fields = np.zeros(len(names), np.int64)
        self._at = self.fields.ctypes.data

    def set(self, **values: int) -> None:
        """Gives fields values that stay."""
        for name, value in values.items():
            self.fields[self.names[name]] = value

    def __call__(self, **values: int) -> None:
        """Runs the kernel over the fields, the first of which counts units taken."""
        self.set(counter=0, **values)
        run(self.kernel, self._at)
