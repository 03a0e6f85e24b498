"""Bodies: read within a limit, parsed without surprises, and watched for the client's leaving."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rasd.errors import BodyTimeout, InvalidRequest, PayloadTooLarge

BODY_DEADLINE_S: Final = 60.0

_BODY: Final = "rasd.body"


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


class BodyMiddleware:
    """Reads each body whole, up to a limit, and cancels the handler when the client leaves.

    The inner application finds the bytes with `body_of`. Its task is cancelled on disconnect, in
    any phase: while waiting, generating or sending. (Servers differ here: plain uvicorn only
    reports a disconnect to those who ask, Ray Serve cancels.)
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_DEADLINE_S):
                scope[_BODY] = await _read(Headers(scope=scope), receive, self.max_bytes)
        except TimeoutError:
            raise BodyTimeout(
                f"the body did not arrive within {BODY_DEADLINE_S:g} s", param=None
            ) from None
        except ClientGone:
            return
        await _run_while_connected(self.app, scope, receive, send)


def body_of(scope: Scope) -> bytes:
    """The body that `BodyMiddleware` read."""
    body: bytes = scope[_BODY]
    return body


async def _read(headers: Headers, receive: Receive, limit: int) -> bytes:
    """The whole body.

    Raises:
        PayloadTooLarge: it is, or says it is, longer than ``limit``; what came is thrown away.
        ClientGone: the client left.
    """
    declared = headers.get("content-length", "")
    if declared.isdecimal() and _as_int(declared, limit) > limit:
        raise PayloadTooLarge(f"the body has {declared[:20]} bytes; at most {limit} are allowed")
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(chunk)
        if size > limit:
            raise PayloadTooLarge(f"the body has more than {limit} bytes, which is the limit")
        chunks.append(chunk)
    return b"".join(chunks)


def _as_int(digits: str, limit: int) -> int:
    return int(digits) if len(digits) <= 20 else limit + 1


async def _run_while_connected(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    task = asyncio.current_task()
    finished = left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        # After the last byte every connection "disconnects"; that cancels nothing.
        if task is not None and not finished:
            left = True
            task.cancel()

    async def forward(message: Message) -> None:
        nonlocal finished
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            finished = True
        await send(message)

    watcher = asyncio.create_task(watch())
    try:
        await app(scope, _nothing_more, forward)
    except asyncio.CancelledError:
        # Somebody else may have cancelled, too; then it goes on.
        if not left or task is None or task.cancelling() > 1:
            raise
    finally:
        watcher.cancel()
        if left and task is not None:
            task.uncancel()


async def _nothing_more() -> Message:
    # The body is in the scope, and a disconnect comes as a cancellation.
    await asyncio.get_running_loop().create_future()
    return {"type": "http.disconnect"}


def parse_json(body: bytes, content_type: str | None) -> dict[str, Any]:
    """A JSON object, with everything refused that parsers disagree about.

    Refused are other types than JSON, other encodings than UTF-8, a byte-order mark, NaN and
    infinities (numbers too large for a float, too), a key that occurs twice, lone surrogates,
    NUL, and depth or digits without end.

    Raises:
        InvalidRequest: naming what is wrong.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise InvalidRequest(f"content-type must be application/json; got {kind or 'none'!r}")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8: byte {error.start} is not valid") from None
    try:
        parsed = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_unique,
        )
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"the body is not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None
    except ValueError:  # the interpreter's own limit, for conversion takes quadratic time
        limit = sys.get_int_max_str_digits()
        raise InvalidRequest(f"an integer has at most {limit} digits") from None
    if not isinstance(parsed, dict):
        raise InvalidRequest(f"the body must be a JSON object; got {_JSON_NAMES[type(parsed)]}")
    # Only an escape can make the two; the text itself is valid UTF-8 without control characters.
    if "\\u" in text:
        for key, value in parsed.items():
            _check_strings(key, value)
    return parsed


_JSON_NAMES: Final[dict[type, str]] = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


def _refuse_constant(name: str) -> float:
    raise InvalidRequest(f"numbers must be finite; got {name}")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise InvalidRequest(f"numbers must be finite; got {digits[:40]}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise InvalidRequest(f"the key {twice!r:.100} occurs twice", param=twice[:100])
    return result


def _check_strings(key: str, value: Any) -> None:
    for text in _strings({key: value}):
        if "\0" in text:
            raise InvalidRequest(f"{key!r:.100} holds a NUL character", param=key[:100])
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"{key!r:.100} holds a lone surrogate at character {error.start}",
                param=key[:100],
            ) from None


def _strings(value: Any) -> Iterator[str]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item)
            stack.extend(item.values())
