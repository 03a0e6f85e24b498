"""Errors as OpenAI's API says them: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from http import HTTPStatus
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from rasd.errors import (
    Overloaded,
    RasdError,
    RequestError,
    SegmentError,
    ServerError,
    StoreLocked,
    Unauthorized,
    Unavailable,
)

MAX_MESSAGE: Final = 1000
RETRY_AFTER_S: Final = 1.0

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """``message`` is for people, ``code`` for programs; ``param`` is what is at fault."""

    message: str
    type: str
    param: str | None
    code: str


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """Every answer of a status from 400 on."""

    error: ErrorDetail


def fields_of(value: Any) -> dict[str, Any]:
    """A dataclass by the names of its fields; what is in them stays as it is."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


# Made once: `json.dumps` makes one per call where its settings are not the default.
_JSON: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=fields_of)


def to_json(content: Any) -> bytes:
    """Compact JSON; dataclasses are objects. Lone surrogates, which UTF-8 has not, are escaped."""
    return _JSON.encode(content).encode()


def status_of(error: Exception) -> int:
    """The HTTP status of an error; 500 for whatever is no request's fault and not foreseen."""
    if isinstance(error, RequestError | ServerError):
        return error.status
    if isinstance(error, HTTPException):
        return error.status_code
    return 500


def error_body(error: Exception, request_id: str) -> ErrorAnswer:
    """The error for the client. What is not meant for clients becomes a number to ask about."""
    status = status_of(error)
    message, param, code = f"internal error in request {request_id}", None, "server_error"
    if isinstance(error, RequestError | ServerError):
        message, code = str(error), error.code
        param = error.param if isinstance(error, RequestError) else None
    elif isinstance(error, SegmentError):
        message, code = str(error), "damaged"
    elif isinstance(error, HTTPException):
        message = str(error.detail)
        code = HTTPStatus(status).phrase.lower().replace(" ", "_").replace("'", "")
    if len(message) > MAX_MESSAGE:
        message = message[: MAX_MESSAGE - 3] + "..."
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return ErrorAnswer(ErrorDetail(message, kind, param, code))


def error_response(error: Exception, request_id: str) -> Response:
    """The whole answer to a request that failed before anything was sent."""
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Overloaded):
        headers["Retry-After"] = _seconds(error.retry_after_s)
    elif isinstance(error, Unavailable | StoreLocked):
        headers["Retry-After"] = _seconds(RETRY_AFTER_S)
    return Response(
        to_json(error_body(error, request_id)),
        status_of(error),
        headers,
        media_type="application/json",
    )


def code_of(error: BaseException) -> str:
    """A short name for counts and logs, free of anything a client wrote."""
    if isinstance(error, RequestError | ServerError):
        return error.code
    return type(error).__name__ if isinstance(error, RasdError) else "server_error"


def _seconds(value: float) -> str:
    # The header takes whole seconds; rounding down would invite a retry that is too early.
    return str(max(1, math.ceil(value)))
