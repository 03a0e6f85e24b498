"""Bodies that are no proper JSON, and texts that are unusual but proper."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.api.fakes import END, TOKENIZER, make_site
from tests.api.refusing import CHATS, COMPLETIONS, JSON, PLAIN, SITE, refused, shaped

BODIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not JSON"),
    "truncated": (b'{"model": "rasd", "pro', "not JSON"),
    "trailing comma": (b'{"model": "rasd",}', "not JSON"),
    "two objects": (b"{} {}", "not JSON"),
    "comment": (b"{} // no", "not JSON"),
    "array": (b"[]", "must be a JSON object; got an array"),
    "string": (b'"hi"', "must be a JSON object; got a string"),
    "number": (b"7", "must be a JSON object; got a number"),
    "null": (b"null", "must be a JSON object; got null"),
    "duplicate key": (b'{"model": "rasd", "prompt": "a", "prompt": "b"}', "'prompt' occurs twice"),
    "nested duplicate": (b'{"logit_bias": {"1": 1, "1": 2}}', "'1' occurs twice"),
    "deep array": (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    "deep object": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
    "unclosed depth": (b'{"prompt":' + b"[" * 100_000, "nested too deeply"),
    "depth that parses": (
        b'{"model": "rasd", "prompt": ' + b"[" * 500 + b"]" * 500 + b"}",
        "prompt must be",
    ),
    "5,000 digits": (b'{"max_tokens": ' + b"9" * 5000 + b"}", "at most 4300 digits"),
    "300 digits": (
        b'{"model": "rasd", "prompt": "a", "max_tokens": ' + b"9" * 300 + b"}",
        "between 1 and",
    ),
    "5,000 digits with a point": (b'{"top_p": ' + b"9" * 5000 + b".0}", "must be finite"),
    "NaN": (b'{"temperature": NaN}', "finite; got NaN"),
    "Infinity": (b'{"temperature": Infinity}', "finite; got Infinity"),
    "-Infinity": (b'{"temperature": -Infinity}', "finite; got -Infinity"),
    "1e999": (b'{"temperature": 1e999}', "finite; got 1e999"),
    "invalid UTF-8": (b'{"prompt": "\xff\xfe"}', "not UTF-8: byte 12"),
    "overlong UTF-8": (b'{"prompt": "\xc0\x80"}', "not UTF-8"),
    "encoded surrogate": (b'{"prompt": "\xed\xa0\x80"}', "not UTF-8"),
    "UTF-16": ('{"prompt": "hi"}'.encode("utf-16"), "not UTF-8"),
    "UTF-16 without mark": ('{"prompt": "hi"}'.encode("utf-16-le"), "not JSON"),
    "BOM": (b"\xef\xbb\xbf{}", "not JSON"),
    "lone surrogate": (b'{"prompt": "\\ud800"}', "lone surrogate at character 0"),
    "surrogates swapped": (b'{"prompt": "a\\udc00\\ud800"}', "lone surrogate at character 1"),
    "surrogate in a key": (b'{"\\ud800": 1}', "lone surrogate"),
    "surrogate in a message": (
        b'{"messages": [{"role": "user", "content": "\\udfff"}]}',
        "'messages' holds a lone surrogate",
    ),
    "NUL": (b'{"prompt": "a\\u0000b"}', "'prompt' holds a NUL"),
    "raw NUL": (b'{"prompt": "a\x00b"}', "not JSON"),
    "NUL in stop": (b'{"stop": ["\\u0000"]}', "'stop' holds a NUL"),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", [COMPLETIONS, CHATS])
async def test_malformed_bodies(name: str, path: str) -> None:
    body, message = BODIES[name]
    if path == CHATS and message in ("prompt must be", "between 1 and"):
        message = "unknown parameter 'prompt'"
    status, error = await refused(body, path)
    assert status == 400
    assert message in error["message"]


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/json-patch+json",
    ],
)
async def test_wrong_content_types(kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    status, error = await refused(json.dumps(PLAIN).encode(), headers=headers)
    assert (status, "application/json" in error["message"]) == (400, True)


async def test_json_with_a_charset_is_json() -> None:
    async with SITE.client() as client:
        for kind in ("application/json; charset=utf-8", "Application/JSON"):
            answer = await client.post(
                COMPLETIONS, content=json.dumps(PLAIN), headers={"content-type": kind}
            )
            assert answer.status_code == 200


@pytest.mark.parametrize(
    "text",
    [
        "🙂👩‍👩‍👧",
        "é vs é",
        "<|end|><|user|>",
        "\t\r\n",
        "\ufeff\u200b\u2028",
        "\U0010ffff",
        "\\u0000",
    ],
)
async def test_unusual_text_makes_the_round_trip(text: str) -> None:
    site = make_site()
    site.engine.answer = lambda request: [*tokens_of_text(text), END]
    async with site.client() as client:
        answer = await client.post(COMPLETIONS, json={**PLAIN, "prompt": text, "max_tokens": 100})
        streamed = await client.post(
            COMPLETIONS, json={**PLAIN, "prompt": text, "max_tokens": 100, "stream": True}
        )
    prompt = site.engine.started[0].prompt.tolist()
    assert END not in prompt and prompt[1:] == tokens_of_text(text)
    assert answer.json()["choices"][0]["text"] == text
    events = [line[6:] for line in streamed.text.split("\n\n") if line and "[DONE]" not in line]
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == text


def tokens_of_text(text: str) -> list[int]:
    """As `tokens_of`, with names of special tokens read as text."""
    return TOKENIZER(text, add_special_tokens=False, split_special_tokens=True).input_ids


@given(st.binary(max_size=200))
def test_any_bytes(body: bytes) -> None:
    async def once() -> None:
        async with SITE.client() as client:
            answer = await client.post(COMPLETIONS, content=body, headers=JSON)
        shaped(answer.status_code, answer.text)

    asyncio.run(once())
