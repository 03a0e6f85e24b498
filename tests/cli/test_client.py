"""The client: what is repeated, what is not, and how long."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from rasd import errors
from rasd.cli.client import Client, corpus_path, error_of
from rasd.errors import (
    ConfigError,
    Conflict,
    NotFound,
    Overloaded,
    RasdError,
    ServerError,
    StorageError,
    Unavailable,
)


class Answers(httpx.BaseTransport):
    """Gives one thing after the other: an answer, a status with Retry-After, or an exception."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        status, after = answer if isinstance(answer, tuple) else (answer, None)
        headers = {} if after is None else {"retry-after": after}
        body = {"ok": True} if status < 300 else {"error": {"message": "why", "param": "x"}}
        return httpx.Response(status, json=body, headers=headers)


def asking(
    monkeypatch: pytest.MonkeyPatch, *answers: Any, patience_s: float = 30.0
) -> tuple[Client, Answers, list[float]]:
    """A client, what it is answered, and the pauses it made, which take no time."""
    client, transport = Client("http://h", "key", patience_s=patience_s), Answers(*answers)
    client._http._transport = transport
    pauses: list[float] = []
    monkeypatch.setattr(client._stopped, "wait", lambda s: pauses.append(s))
    return client, transport, pauses


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_passes_is_waited_for(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    client, transport, pauses = asking(monkeypatch, status, (status, "7"), status, 200)
    assert client.call("GET", "/x") == {"ok": True}
    assert transport.asked == 4
    assert pauses[0] < pauses[2] < 2 and pauses[1] == 7


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequest),
        (401, errors.Unauthorized),
        (403, errors.Forbidden),
        (404, NotFound),
        (409, Conflict),
        (413, errors.PayloadTooLarge),
        (500, ServerError),
        (507, StorageError),
        (418, ServerError),
        (307, ServerError),
    ],
)
def test_what_stays_is_an_error(
    monkeypatch: pytest.MonkeyPatch, status: int, kind: type[RasdError]
) -> None:
    client, transport, _ = asking(monkeypatch, status, 200)
    with pytest.raises(kind, match=rf"why \({status}\)") as caught:
        client.call("GET", "/x")
    assert type(caught.value) is kind
    assert transport.asked == 1


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    client, transport, _ = asking(monkeypatch, (429, "60"), patience_s=30)
    with pytest.raises(Overloaded):
        client.call("GET", "/x")
    assert transport.asked == 1
    client, transport, _ = asking(monkeypatch, *[503] * 100, patience_s=0)
    with pytest.raises(Unavailable):
        client.call("GET", "/x")


def test_only_what_was_reached_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = httpx.ConnectError("refused")
    client, transport, _ = asking(monkeypatch, lost, 200)
    with pytest.raises(Unavailable, match="http://h does not answer: refused; is the service"):
        client.call("GET", "/x")
    assert transport.asked == 1
    client, transport, _ = asking(monkeypatch, 200, lost, httpx.ReadTimeout(""), 200)
    client.call("GET", "/x")
    assert client.call("GET", "/x") == {"ok": True}
    assert transport.asked == 4


def test_stopping_ends_the_waiting() -> None:
    client = Client("http://h", "")
    client._http._transport = Answers(503, 200)
    client.stop()
    began = time.monotonic()
    with pytest.raises(Unavailable):
        client.call("GET", "/x")
    assert time.monotonic() - began < 5


def test_answers_that_are_none_of_ours() -> None:
    client = Client("http://h", "")
    client._http._transport = Answers(httpx.Response(200, text="<html>"))
    with pytest.raises(ServerError, match="something else than JSON"):
        client.call("GET", "/x")
    for body in (b"<html>gateway</html>", b"\xff", b"{}", b"[]", b'{"error": "no"}', b""):
        error = error_of(httpx.Response(500, content=body))
        assert type(error) is ServerError and "(500)" in str(error)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://[::1"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError):
        Client(url, "")


def test_parts_of_a_path_stay_apart() -> None:
    path = corpus_path("..", "documents", "a/../b?c#d%2F é")
    assert path == "/v1/corpora/%2E%2E/documents/a%2F%2E%2E%2Fb%3Fc%23d%252F%20%C3%A9"
    assert httpx.Request("GET", f"http://h{path}").url.raw_path == path.encode()
