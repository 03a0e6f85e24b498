"""The outermost layer: numbers requests, checks keys, and turns every failure into an answer."""

from __future__ import annotations

import logging
import secrets
import time
import traceback
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rasd.api.answers import error_response, status_of
from rasd.api.auth import Caller, Keyring, is_local

log = logging.getLogger("rasd.api")

_CALLER: Final = "rasd.caller"
_REQUEST_ID: Final = "rasd.request_id"


class Guard:
    """Nothing inside it runs for a request without a right to be here.

    Args:
        proxy_host: see `rasd.api.auth.is_local`; called per request, for it may change.
    """

    def __init__(
        self, app: ASGIApp, keyring: Keyring, proxy_host: Callable[[], str | None]
    ) -> None:
        self.app = app
        self.keyring = keyring
        self.proxy_host = proxy_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Never the client's own number: two clients could choose the same.
        request_id = scope[_REQUEST_ID] = secrets.token_hex(16)
        status, started = 499, time.monotonic()

        async def forward(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            scope[_CALLER] = self._identify(scope)
            await self.app(scope, receive, forward)
        except Exception as error:
            if status_of(error) == 500:
                _log_fault(request_id, error)
            if status != 499:
                # The server then cuts the connection: a broken answer must not look whole.
                raise RuntimeError(f"request {request_id} failed while it was answered") from None
            await error_response(error, request_id)(scope, receive, forward)
        finally:
            caller = scope.get(_CALLER)
            log.info(
                "request %s by %s: %s %.100r -> %d in %.3f s",
                request_id,
                caller.name if caller else "-",
                scope["method"],
                scope["path"],
                status,
                time.monotonic() - started,
            )

    def _identify(self, scope: Scope) -> Caller:
        headers = Headers(scope=scope)
        forwarded = [
            address.strip()
            for name in ("x-forwarded-for", "x-real-ip", "forwarded")
            for value in headers.getlist(name)
            for address in value.split(",")
        ]
        client, server = scope.get("client"), scope.get("server")
        local = is_local(
            client[0] if client else None,
            server=server[0] if server else None,
            host=headers.get("host"),
            forwarded=forwarded,
            proxy_host=self.proxy_host(),
        )
        shown = headers.get("authorization")
        return self.keyring.identify(
            None if shown is None else shown.encode("latin-1"),
            local=local,
            path=scope["path"].removeprefix(scope.get("root_path", "")),
        )


def caller_of(scope: Scope) -> Caller:
    """Who sent the request; for any route behind the `Guard`."""
    caller: Caller = scope[_CALLER]
    return caller


def request_id_of(scope: Scope) -> str:
    """Our own number of the request."""
    request_id: str = scope[_REQUEST_ID]
    return request_id


def _log_fault(request_id: str, error: Exception) -> None:
    # Where it happened, but not the message, which may quote what the client wrote.
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("request %s failed with %s\n%s", request_id, type(error).__name__, frames)
