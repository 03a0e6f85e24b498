"""Every message comes back as it went, and nothing but `WireError` comes of anything else."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actors import wire
from actors.channel import _Flight
from actors.wire import MESSAGES, WireError, admits, decode, encode
from rasd.engine.api import Request
from rasd.params import SamplingParams
from rasd.stages import Features, Verified, VerifyRequest, Work

PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 2**24),
    temperature=st.floats(0, 100),
    logit_bias=st.dictionaries(st.integers(0, 2**31 - 1), st.floats(-100, 100), max_size=3),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    stop=st.lists(st.text(min_size=1, max_size=5), max_size=2).map(tuple),
    corpora=st.none() | st.lists(st.text(max_size=5), max_size=2).map(tuple),
)


def arrays(dtype: Any) -> st.SearchStrategy[Any]:
    return hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4))


def values(kind: Any) -> st.SearchStrategy[Any]:
    """A strategy for anything that an annotation of a message may say."""
    if kind is SamplingParams:
        return PARAMS
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{f.name: values(hints[f.name]) for f in dataclasses.fields(kind)})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is np.ndarray:
        scalar = get_args(arguments[1])[0]
        return arrays(np.float32) | arrays(np.uint16) if scalar is Any else arrays(scalar)
    if origin is list:
        return st.lists(values(arguments[0]), max_size=2)
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is Union or arguments:
        return st.one_of([st.none() if a is type(None) else values(a) for a in arguments])
    return {int: st.integers(-(2**63), 2**63 - 1), float: st.floats(allow_nan=False)}.get(
        kind, st.from_type(kind)
    )


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return type(b) is np.ndarray and a.dtype == b.dtype and np.array_equal(a, b, True)
    if dataclasses.is_dataclass(a):
        names = [f.name for f in dataclasses.fields(a)]
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in names)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


MESSAGE = st.one_of([values(kind) for kind in MESSAGES])


@given(MESSAGE)
def test_messages_come_back_as_they_went(message: Any) -> None:
    assert same(message, decode(bytes(encode(message))))


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_random_bytes_raise_wire_errors_only(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data)


@given(MESSAGE, st.data())
@settings(max_examples=300)
def test_damaged_messages_raise_wire_errors_only(message: Any, data: st.DataObject) -> None:
    body = encode(message)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(0, len(body)))]
    try:
        decode(body)  # some damage leaves another valid message
    except WireError:
        pass


def test_arrays_are_owned_and_writable() -> None:
    rows = decode(encode(Features(1, 2, np.ones((3, 4), np.float32)))).rows
    rows[0, 0] = 5
    assert rows.flags.aligned and rows.flags.owndata


@pytest.mark.parametrize(
    "array",
    [np.zeros(2), np.zeros(2, object), np.zeros((1, 1, 1), np.int32), np.zeros(2, ">i4")],
)
def test_only_listed_arrays_cross(array: Any) -> None:
    with pytest.raises(WireError, match="cannot cross"):
        encode(Features(1, 2, array))


def test_a_field_has_its_type() -> None:
    array = np.zeros(1, np.float32)
    with pytest.raises(WireError, match="expected an array of int32"):
        decode(encode(VerifyRequest(1, [], [], [Work(1, array, array, 1, True)])))  # type: ignore[arg-type]
    with pytest.raises(WireError, match="Expected `int`"):
        decode(encode(VerifyRequest("1", [], [], [])))  # type: ignore[arg-type]


def test_parameters_are_checked_on_arrival() -> None:
    params = SamplingParams()
    object.__setattr__(params, "temperature", -1.0)
    with pytest.raises(WireError, match="temperature must be at least 0"):
        decode(encode(wire.Submit(Request(1, np.ones(1, np.int32), params))))


def test_messages_and_kinds_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_MESSAGE_BYTES", 100)
    message = Features(1, 2, np.zeros((10, 10), np.float32))
    with pytest.raises(WireError, match="the limit is 100"):
        encode(message)
    with pytest.raises(WireError, match="1 to 100 bytes"):
        decode(bytes(101))
    with pytest.raises(WireError, match="is no message"):
        encode(Verified(1, np.zeros(0, np.int32), np.zeros(0, np.int32)))
    with pytest.raises(WireError, match="unknown"):
        decode(b"\xff\x00")


def test_an_array_fills_its_shape_exactly() -> None:
    body = encode(Features(1, 2, np.zeros((3, 5), np.float32)))
    at = body.index(bytes([2, 3, 0, 0, 0, 5, 0, 0, 0]))
    body[at + 1] = 4
    with pytest.raises(WireError, match="does not fit"):
        decode(body)


def test_the_secret() -> None:
    assert admits(b"secret", b"secret")
    assert not admits(b"secret", b"secreT") and not admits(b"secret", b"")


def test_a_request_stays_its_tenants_with_another_engine() -> None:
    request = Request(1, np.ones(1, np.int32), SamplingParams(seed=1), tenant="anna")
    flight = _Flight(request, tokens=[5, 6])
    again = decode(encode(wire.Submit(flight.resumed()))).request
    assert (again.tenant, again.output.tolist()) == ("anna", [5, 6])
