"""The codec between processes: msgpack of known dataclasses, arrays as typed extensions.

No pickle. Decoding is strict: a message has a known kind, every field has its annotated type,
and an array one of few number types, with a shape that its bytes fill exactly. Whatever else
arrives raises `WireError` and nothing but that. Whether values make sense (parents point
backwards, a sequence is known) is for the receiver to check.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import cache
from secrets import compare_digest
from typing import Any, Final, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from rasd.engine.api import Gauges, Output
from rasd.engine.loop import Cancel, Submit
from rasd.errors import RasdError, WireError
from rasd.retrieval.dense.packed import PackedPassages
from rasd.retrieval.flat import PackedAnswers, PackedQueries
from rasd.stages import (
    DraftReply,
    DraftRequest,
    Features,
    VerifyReply,
    VerifyRequest,
)
from rasd.tree import Int32s

MAX_MESSAGE_BYTES: Final = 64 * 2**20
MAX_DIMENSIONS: Final = 2

# The extension code of a number type; bfloat16 travels as the bits in uint16.
_DTYPES: Final[dict[int, np.dtype[Any]]] = {
    1: np.dtype(np.int32),
    2: np.dtype(np.uint8),
    3: np.dtype(np.uint16),
    4: np.dtype(np.float32),
    5: np.dtype(np.float16),
}
_CODES: Final = {dtype: code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Failure:
    """A handler raised: ``kind`` is the name of an error of `rasd.errors`."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Reset:
    """To a stage: whoever asked before is gone; forget its sequences."""


@dataclass(frozen=True, slots=True)
class Done:
    """The answer where nothing is to be said."""


@dataclass(frozen=True, slots=True)
class Step:
    """Engine to router: what one step brought, to all sequences together."""

    outputs: list[Output]
    gauges: Gauges


@dataclass(frozen=True, slots=True)
class TargetLost:
    """Engine to router: the target at this address failed, or did not answer in time."""

    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class ShardQuery:
    """Engine to shard: search the partitions that this version of its slot gave it."""

    version: int
    step: int
    queries: PackedQueries


@dataclass(frozen=True, slots=True)
class DenseQuery:
    """Engine to shard: the ``count`` passages of these corpora nearest to a prompt int32[n]."""

    version: int
    prompt: Int32s
    corpora: tuple[str, ...]
    count: int


@dataclass(frozen=True, slots=True)
class DenseReply:
    """Shard to engine: best first; none while nothing is indexed."""

    passages: PackedPassages


@dataclass(frozen=True, slots=True)
class ShardReply:
    """Shard to engine. ``partial``: places of queries that read a file which does not serve."""

    step: int
    answers: PackedAnswers
    partial: tuple[int, ...] = ()


MESSAGES: Final[tuple[type, ...]] = (
    Failure,
    Reset,
    Done,
    VerifyRequest,
    VerifyReply,
    DraftRequest,
    DraftReply,
    Features,
    ShardQuery,
    ShardReply,
    DenseQuery,
    DenseReply,
    Submit,
    Cancel,
    Step,
    TargetLost,
)
_KINDS: Final = {kind: number for number, kind in enumerate(MESSAGES)}


def encode(message: object) -> bytearray:
    """One byte of kind, then msgpack.

    Raises:
        WireError: it is no known message, holds what cannot cross, or is over the limit.
    """
    kind = _KINDS.get(type(message))
    if kind is None:
        raise WireError(f"{type(message).__name__} is no message")
    buffer = bytearray([kind])
    try:
        _ENCODER.encode_into(message, buffer, 1)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise WireError(f"{type(message).__name__} cannot be encoded: {error}") from error
    if len(buffer) > MAX_MESSAGE_BYTES:
        raise WireError(
            f"{type(message).__name__} has {len(buffer)} bytes; the limit is {MAX_MESSAGE_BYTES}"
        )
    return buffer


def decode(data: bytes | bytearray | memoryview) -> Any:
    """The message in ``data``. Its arrays are its own and may be kept and written to.

    Raises:
        WireError: anything is off.
    """
    if not 0 < len(data) <= MAX_MESSAGE_BYTES:
        raise WireError(f"a message has 1 to {MAX_MESSAGE_BYTES} bytes; got {len(data)}")
    if data[0] >= len(MESSAGES):
        raise WireError(f"kind {data[0]} is unknown")
    try:
        return _decoder(data[0]).decode(memoryview(data)[1:])
    except WireError:
        raise
    except (msgspec.MsgspecError, RasdError, ValueError, OverflowError, RecursionError) as error:
        # RasdError: the message carries parameters that check themselves.
        raise WireError(f"{MESSAGES[data[0]].__name__} is malformed: {error}") from error


def admits(secret: bytes, shown: bytes) -> bool:
    """Whether a peer showed the application's secret; compared in constant time."""
    return compare_digest(secret, shown)


def _pack(value: object) -> object:
    """What msgpack has no word for: arrays become extensions, numpy scalars plain numbers."""
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} cannot cross")
    code = _CODES.get(value.dtype)
    if code is None or value.ndim > MAX_DIMENSIONS:
        raise TypeError(f"an array of {value.ndim} dimensions of {value.dtype} cannot cross")
    head = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
    return msgspec.msgpack.Ext(code, head + value.tobytes())


def _unpack(code: int, data: memoryview) -> NDArray[Any]:
    """Reads an array; copies, so that it is aligned, writable and does not hold the message."""
    dtype = _DTYPES.get(code)
    if dtype is None:
        raise WireError(f"extension {code} is unknown")
    dimensions = data[0] if len(data) else MAX_DIMENSIONS + 1
    body = 1 + 4 * dimensions
    if dimensions > MAX_DIMENSIONS or len(data) < body:
        raise WireError("an array has no valid shape")
    shape = struct.unpack_from(f"<{dimensions}I", data, 1)
    if math.prod(shape) * dtype.itemsize != len(data) - body:
        raise WireError(f"an array of shape {shape} does not fit its {len(data) - body} bytes")
    return np.frombuffer(data[body:], dtype).reshape(shape).copy()


def _check_dtype(kind: Any, value: object) -> object:
    """Compares an array with its annotation; msgspec itself refuses what is no array."""
    wanted = _annotated_dtype(kind)
    if isinstance(value, np.ndarray) and wanted is not None and value.dtype != wanted:
        raise WireError(f"expected an array of {wanted}; got {value.dtype}")
    return value


@cache
def _annotated_dtype(kind: Any) -> np.dtype[Any] | None:
    """int32 of ``NDArray[np.int32]``; None for ``NDArray[Any]``."""
    arguments = get_args(kind)
    scalar = get_args(arguments[1])[0] if len(arguments) == 2 else Any
    return None if scalar is Any else np.dtype(scalar)


@cache
def _decoder(kind: int) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(MESSAGES[kind], ext_hook=_unpack, dec_hook=_check_dtype)


_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_pack)
