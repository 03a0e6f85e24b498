"""Refusing: from a JSON object to a checked body, every fault named with what was given."""

from __future__ import annotations

import asyncio
import reprlib
from typing import Any, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError
from starlette.requests import Request

from rasd.api.body import body_of, parse_json
from rasd.errors import InvalidRequest, UnsupportedParameter

B = TypeVar("B", bound=BaseModel)

LARGE_BODY: Final = 256 * 1024
"""From here on a body is parsed beside the event loop, which streams must not wait for."""

SCHEMAS: Final = "#/components/schemas/{model}"

# OpenAI's parameters that we do not have, each with the values that ask for nothing.
_NEUTRAL: Final[dict[str, tuple[object, ...]]] = {
    "audio": (),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True,),
    "prediction": (),
    "prompt_cache_key": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": (),
    "tool_choice": ("none",),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}


async def read_body(request: Request, kind: type[B], *, openai: bool = False) -> B:
    """The checked body of a request; see `parse_json` and `parse_body`."""

    def parse() -> B:
        return parse_body(kind, parse_json(content, content_type), openai=openai)

    content, content_type = body_of(request.scope), request.headers.get("content-type")
    return parse() if len(content) < LARGE_BODY else await asyncio.to_thread(parse)


def body_schema(model: str) -> dict[str, Any]:
    """Names a body for the OpenAPI page."""
    schema = {"$ref": SCHEMAS.format(model=model)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def parse_body(kind: type[B], raw: dict[str, Any], *, openai: bool) -> B:
    """A checked body. With ``openai``, its parameters may be there if they ask for nothing.

    Raises:
        UnsupportedParameter: a key we do not act on.
        InvalidRequest: a value of the wrong type.
    """
    known = {key: value for key, value in raw.items() if key in kind.model_fields}
    for key in (key for key in raw if key not in known):
        _refuse_unless_neutral(key, raw[key], choices=raw.get("n"), openai=openai)
    try:
        return kind.model_validate(known)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        # Where a value may have several types, the deepest fault is of the type that was meant.
        fault = max(faults, key=lambda fault: len(fault["loc"]))
        raise _refusal(fault["type"], list(fault["loc"]), fault["msg"], fault["input"]) from None


def _refuse_unless_neutral(key: str, value: object, choices: object, *, openai: bool) -> None:
    if openai and key == "best_of":
        neutral: tuple[object, ...] = (1 if choices is None else choices,)
    elif openai and key in _NEUTRAL:
        neutral = _NEUTRAL[key]
    else:
        raise UnsupportedParameter(f"unknown parameter {key!r:.100}", param=key[:100])
    if value is not None and not any(type(value) is type(x) and value == x for x in neutral):
        raise UnsupportedParameter(
            f"{key} is not supported by this server; got {show(value)}", param=key
        )


_UNION_TAGS: Final = ("str", "list[TextPart]")


def _refusal(kind: str, path: list[int | str], message: str, value: object) -> Exception:
    # Pydantic names the member of a union in the path, too.
    name = ".".join(str(part) for part in path if part not in _UNION_TAGS)[:100]
    param = str(path[0]) if path else None
    if kind == "missing":
        return InvalidRequest(f"{name} is required", param=param)
    if kind == "extra_forbidden":
        return UnsupportedParameter(f"unknown parameter {name!r}", param=name)
    return InvalidRequest(f"{name}: {message}; got {show(value)}", param=param)


def at_most(name: str, limit: int) -> BeforeValidator:
    """Refuses long values before each entry is looked at, and a fault noted for each."""

    def check(value: object) -> object:
        if isinstance(value, dict | list) and len(value) > limit:
            raise InvalidRequest(
                f"{name} holds at most {limit} entries; got {len(value)}", param=name
            )
        return value

    return BeforeValidator(check)


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 80


def show(value: object) -> str:
    """A value for a message: short, and not deep."""
    return _repr.repr(value)
