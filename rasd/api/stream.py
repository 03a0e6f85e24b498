"""Server-sent events, as OpenAI streams them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rasd.api.answers import error_body, status_of, to_json
from rasd.api.choice import Piece
from rasd.api.wire import Wire

log = logging.getLogger("rasd.api")

SEND_DEADLINE_S: Final = 60.0
"""How long one write may wait for a client that does not read."""


class EventStream(Response):
    """An answer in pieces.

    The status waits for the first piece, so that a request which is refused, or fails before any
    text, gets a plain error. A failure after that is an event with ``error``, and the stream ends
    there: without a ``finish_reason`` for what did not finish, and without ``[DONE]``.
    """

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncGenerator[Piece, None], wire: Wire, request_id: str) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._pieces = pieces
        self._wire = wire
        self._request_id = request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._pieces) as pieces:
            first = await anext(pieces)
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            await _send(send, _events(self._wire.chunks(first)))
            try:
                async for piece in pieces:
                    await _send(send, _events(self._wire.chunks(piece)))
            except TimeoutError:
                raise  # the client does not read; it will not read an error either
            except Exception as error:
                await _send(send, self._failure(error), more=False)
                return
        await _send(send, _events(self._wire.last()) + b"data: [DONE]\n\n", more=False)

    def _failure(self, error: Exception) -> bytes:
        if status_of(error) == 500:
            log.error("request %s failed with %s", self._request_id, type(error).__name__)
        return _events([error_body(error, self._request_id)])


def _events(chunks: Iterable[object]) -> bytes:
    return b"".join(b"data: " + to_json(chunk) + b"\n\n" for chunk in chunks)


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    if body or not more:
        async with asyncio.timeout(SEND_DEADLINE_S):
            await send({"type": "http.response.body", "body": body, "more_body": more})
