"""Sends what must be refused, and looks at the form of the refusal."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.api.fakes import MODEL, make_site

PLAIN: dict[str, Any] = {"model": MODEL, "prompt": "hi"}
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
JSON = {"content-type": "application/json"}
# Any path may be sent any body; both are checked the same way.
SITE = make_site()


def shaped(status: int, text: str) -> dict[str, Any]:
    """The error of an answer, after a look at its form."""
    error: dict[str, Any] = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert 0 < len(error["message"]) <= 1000
    assert error["type"] != "server_error"
    assert 400 <= status < 500
    return error


async def refused(
    body: bytes | dict[str, Any], path: str = COMPLETIONS, headers: dict[str, str] = JSON
) -> tuple[int, dict[str, Any]]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    started = len(SITE.engine.started)
    async with SITE.client() as client:
        began = time.monotonic()
        answer = await client.post(path, content=content, headers=headers)
        took = time.monotonic() - began
    assert took < 10, f"took {took:.2f} s"
    assert len(SITE.engine.started) == started
    assert SITE.settled()
    return answer.status_code, shaped(answer.status_code, answer.text)
