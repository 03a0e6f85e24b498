"""Kernels one after another in one call: between two of them threads wait for each other alone.

A call of its own for each kernel costs more than the kernel does where rows are few: Python's work,
and threads that are woken. Only numba reads what is compiled.
"""

# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from rasd.kv.primitives import compiled, pointer
from rasd.kv.threads import Call, barrier

PROGRAM_FIELDS: Final = ("counter", "count", "table", "barrier")
"""``count`` of the kernels; int64[count, 2], addresses of each and of its fields; of the function
that waits, or 0."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A kernel of a program, and the values of its fields beside those its call has."""

    call: Call
    fields: Mapping[str, int] = field(default_factory=dict)


class Program:
    """Runs stages in order.

    Attributes:
        fields: int64[stages, most fields], to be changed between calls.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.fields = np.zeros((len(stages), max(len(s.call.fields) for s in stages)), np.int64)
        self._named: dict[str, tuple[list[int], list[int]]] = {}
        self._stages = stages
        table = np.zeros((len(stages), 2), np.int64)
        for row, stage in enumerate(stages):
            call = stage.call
            self.fields[row, : len(call.fields)] = call.fields
            for name, column in call.names.items():
                rows, columns = self._named.setdefault(name, ([], []))
                rows.append(row)
                columns.append(column)
            self.put(row, **stage.fields)
            table[row] = call.kernel, self.fields[row].ctypes.data
        self._table = table
        self._run = Call(_kernel(), PROGRAM_FIELDS)
        self._run.set(table=table.ctypes.data, barrier=barrier())

    def set(self, name: str, value: int) -> None:
        """Gives the field to all stages that have one of this name."""
        self.fields[self._named[name]] = value

    def put(self, stage: int, **values: int) -> None:
        """Gives fields to one stage."""
        names = self._stages[stage].call.names
        for name, value in values.items():
            self.fields[stage, names[name]] = value

    def __call__(self, count: int) -> None:
        """Runs the first ``count`` stages."""
        self.fields[:, 0] = 0
        self._run(count=count)


@intrinsic
def _invoke(typing: Any, address: Any, fields: Any) -> Any:
    """Calls ``void f(int64*)``."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t])
        function = builder.inttoptr(args[0], kind.as_pointer())
        builder.call(function, [builder.inttoptr(args[1], cgutils.voidptr_t)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@cache
def _kernel() -> Any:
    def kernel(fields):
        table = carray(pointer(fields[2]), (fields[1], 2), np.int64)
        for stage in range(fields[1]):
            _invoke(table[stage, 0], table[stage, 1])
            if fields[3]:
                _invoke(fields[3], 0)  # takes nothing, and does not look

    return compiled(kernel)
