"""A running service, asked over HTTP: errors of the same tree, retries where they help."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec

from rasd.errors import (
    ConfigError,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RasdError,
    ServerError,
    StorageError,
    Unauthorized,
    Unavailable,
)

_ERRORS: Final[dict[int, type[RasdError]]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: PayloadTooLarge,
    429: Overloaded,
    503: Unavailable,
    504: DeadlineExceeded,
    507: StorageError,
}
_CREATED: Final = 201
_RETRIED: Final = frozenset({429, 502, 503, 504})
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 30.0
_TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0)
_WRITE_TIMEOUT: Final = httpx.Timeout(180.0, connect=10.0)
"""Above the server's own deadlines, whose answers say more."""

_PAGE: Final = 1000


class Client:
    """The service at an address. Safe to use from several threads.

    Every call may be repeated without harm, so what fails for now is: while the service is
    overloaded or restarts, and, once it has answered at all, while it cannot be reached.

    Args:
        url: such as ``http://127.0.0.1:8000``.
        key: API key; empty where none is needed.
        patience_s: how long a call is repeated.

    Raises:
        ConfigError: the address or the key cannot be one.
    """

    def __init__(self, url: str, key: str, *, patience_s: float = 0.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"the address must begin with http:// or https://; got {url!r}")
        if not (key.isascii() and key.isprintable()):
            raise ConfigError("the API key holds characters that no key has")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = httpx.Client(base_url=url, headers=headers)
        except httpx.InvalidURL as error:
            raise ConfigError(f"{url!r} is no address: {error}") from error
        self.url = url
        self._patience_s = patience_s
        self._reached = False
        self._stopped = threading.Event()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        self._http.close()

    def stop(self) -> None:
        """Ends all waiting between repetitions; calls on their way go on."""
        self._stopped.set()

    def call(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str | int] | None = None,
    ) -> dict[str, Any]:
        """The answer to a request. ``body`` is JSON, or what becomes it.

        Raises:
            RasdError: of the kind that the service's status stands for, with its message.
        """
        return _json(self._ask(method, path, body, query))

    def create(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """Makes a corpus: what it is now, and whether it is new. Raises as `call`."""
        answer = self._ask("POST", "/v1/corpora", body, None)
        return _json(answer), answer.status_code == _CREATED

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] | None,
        query: Mapping[str, str | int] | None,
    ) -> httpx.Response:
        content = msgspec.json.encode(body) if isinstance(body, Mapping) else body
        headers = {} if content is None else {"Content-Type": "application/json"}
        timeout = _TIMEOUT if method == "GET" else _WRITE_TIMEOUT
        give_up = time.monotonic() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            asked_s = 0.0
            try:
                answer = self._http.request(
                    method, path, content=content, headers=headers, params=query, timeout=timeout
                )
            except httpx.TransportError as error:
                failure: RasdError = Unavailable(self._describe(error))
                if not self._reached:
                    raise failure from error
            else:
                self._reached = True
                if answer.is_success:
                    return answer
                failure = error_of(answer)
                if answer.status_code not in _RETRIED:
                    raise failure
                asked_s = _retry_after(answer)
            # Spread out, so that many who were refused together do not come back together.
            wait_s = max(asked_s, pause_s * random.uniform(0.5, 1.0))  # noqa: S311
            if time.monotonic() + wait_s > give_up or self._stopped.wait(wait_s):
                raise failure
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def pages(self, path: str, **more: str | int) -> Iterator[dict[str, Any]]:
        """The pages of a listing in order; ``more`` is asked for besides."""
        query: dict[str, str | int] = {"limit": _PAGE, **more}
        while True:
            page = self.call("GET", path, query=query)
            yield page
            if not page["has_more"]:
                return
            query["after"] = page["last_id"]

    def _describe(self, error: httpx.TransportError) -> str:
        hint = "" if self._reached else "; is the service running, and is RASD_URL right?"
        return f"{self.url} does not answer: {str(error) or type(error).__name__}{hint}"


def corpus_path(name: str, *more: str) -> str:
    """The route of a corpus, or of what is below it. Parts are escaped, dots included."""
    # Clients and proxies fold "." and ".." away, and take a slash for a separator.
    parts = [quote(part, safe="").replace(".", "%2E") for part in (name, *more)]
    return "/".join(["/v1/corpora", *parts])


def error_of(answer: httpx.Response) -> RasdError:
    """The error that an answer stands for."""
    try:
        told = msgspec.json.decode(answer.content)["error"]
        message, param = str(told["message"]), told.get("param")
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError, AttributeError):
        message, param = answer.text.strip()[:200] or answer.reason_phrase, None
    message = f"{message} ({answer.status_code})"
    kind = _ERRORS.get(answer.status_code, ServerError)
    made = kind(message)
    if isinstance(made, InvalidRequest) and isinstance(param, str):
        made.param = param
    return made


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        return msgspec.json.decode(answer.content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ServerError(f"{answer.url} answers with something else than JSON") from error


def _retry_after(answer: httpx.Response) -> float:
    digits = answer.headers.get("retry-after", "")
    return float(digits) if digits.isdecimal() and len(digits) < 6 else 0.0
