"""Machine code for norms, the sums before them, and gates: one call instead of several of torch's.

After megabytes of weights nothing of torch's small operations is left in the caches: a norm of
one row takes it 130 µs. Rows are the units that threads take. Only numba reads this file.
"""

# mypy: disable-error-code="no-untyped-call, no-untyped-def, untyped-decorator"
from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numba import carray, njit

from rasd.kv.primitives import FAST, as_float, compiled, exp, narrow, pointer, take, widen

NORM_FIELDS: Final = (
    *("counter", "rows", "width", "eps", "x", "added", "gain", "total", "out", "out_width"),
)
"""``added`` may be 0, then nothing is added and ``total`` not written; ``out`` may be 0, then
nothing is normed; ``eps`` in bits; ``out_width``: elements from a row to the next, elsewhere they
are consecutive."""

GATE_FIELDS: Final = ("counter", "rows", "width", "x", "x_width", "out", "out_width")
"""``width`` of the gates, which are the first half of a row of x; widths: as in `gemm`."""

JOIN_FIELDS: Final = (
    *("counter", "rows", "width", "tokens", "vocabulary", "embedding"),
    *("sources", "features", "feature_width", "out", "out_width"),
)
"""int64 tokens; their embedding [vocabulary, width]; int64 rows of the features, or 0 for all in
order; the others float32, widths: as in `gemm`."""


@njit(fastmath=FAST, error_model="numpy")
def _norm(x, gain, eps, out):
    """A row over its root mean square, times a gain; rounded between, as models do."""
    squares = np.float32(0.0)
    for i in range(len(x)):
        value = widen(x[i])
        squares += value * value
    scale = np.float32(1.0) / np.sqrt(squares / np.float32(len(x)) + eps)
    for i in range(len(x)):
        out[i] = narrow(widen(narrow(widen(x[i]) * scale, x[0])) * widen(gain[i]), x[0])


@njit(fastmath=FAST)
def _sum(x, added, total):
    for i in range(len(x)):
        total[i] = narrow(widen(x[i]) + widen(added[i]), x[0])


@cache
def norm_kernel(kind: Any) -> Any:
    """Takes `NORM_FIELDS`; ``kind`` as in `rasd.kv.primitives.KINDS`."""

    def kernel(fields):
        shape, eps = (fields[1], fields[2]), as_float(np.int32(fields[3]))
        x = carray(pointer(fields[4]), shape, kind)
        added = carray(pointer(fields[5]), shape, kind)
        gain = carray(pointer(fields[6]), (fields[2],), kind)
        total = carray(pointer(fields[7]), shape, kind)
        out = carray(pointer(fields[8]), (fields[1], fields[9]), kind)
        row = take(fields)
        while row < fields[1]:
            if fields[5]:
                _sum(x[row], added[row], total[row])
                if fields[8]:
                    _norm(total[row], gain, eps, out[row, : fields[2]])
            else:
                _norm(x[row], gain, eps, out[row, : fields[2]])
            row = take(fields)

    return compiled(kernel)


@njit(fastmath=FAST, error_model="numpy")  # a check of the divisor would keep it from vectors
def _gate(gates, states, out):
    """silu of gates, times states; rounded between, as models do."""
    for i in range(len(gates)):
        gate = widen(gates[i])
        shrunk = exp(-abs(gate))
        above = gate if gate >= np.float32(0.0) else gate * shrunk
        opened = narrow(above / (np.float32(1.0) + shrunk), gates[0])
        out[i] = narrow(widen(opened) * widen(states[i]), gates[0])


@cache
def gate_kernel(kind: Any) -> Any:
    """Takes `GATE_FIELDS`; ``kind`` as in `rasd.kv.primitives.KINDS`."""

    def kernel(fields):
        x = carray(pointer(fields[3]), (fields[1], fields[4]), kind)
        out = carray(pointer(fields[5]), (fields[1], fields[6]), kind)
        width, row = fields[2], take(fields)
        while row < fields[1]:
            _gate(x[row, :width], x[row, width : 2 * width], out[row, :width])
            row = take(fields)

    return compiled(kernel)


@njit
def _join(token, features, out):
    """An embedded token, then features."""
    for i in range(len(token)):
        out[i] = widen(token[i])
    for i in range(len(features)):
        out[len(token) + i] = features[i]


@cache
def join_kernel(kind: Any) -> Any:
    """Takes `JOIN_FIELDS`; ``kind`` of the embedding."""

    def kernel(fields):
        rows, width = fields[1], fields[2]
        tokens = carray(pointer(fields[3]), (rows,), np.int64)
        embedding = carray(pointer(fields[5]), (fields[4], width), kind)
        sources = carray(pointer(fields[6]), (rows,), np.int64)
        features = carray(pointer(fields[7]), (rows, fields[8]), np.float32)
        out = carray(pointer(fields[9]), (rows, fields[10]), np.float32)
        row = take(fields)
        while row < rows:
            source = sources[row] if fields[6] else row
            _join(embedding[tokens[row]], features[source, :width], out[row, : 2 * width])
            row = take(fields)

    return compiled(kernel)
