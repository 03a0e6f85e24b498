"""The bodies and queries of `/v1/corpora` and `/v1/datastore`.

What can be said of a document alone (its id, its size, its tokens) is the datastore's to judge,
one by one; here only the shape of the whole is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import QueryParams

from rasd.api.refusals import at_most, show
from rasd.config import Name
from rasd.datastore import MAX_REPLICAS, MAX_SHARDS, NewDocument, Scale
from rasd.errors import InvalidRequest, UnsupportedParameter

MAX_DOCUMENTS: Final = 1000
"""Documents or ids in one call."""

MAX_PAGE: Final = 1000

_DEFAULT_PAGE: Final = 100


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class CorpusBody(_Strict):
    """Body of ``POST /v1/corpora``. ``partitions`` is fixed once made; null is the default."""

    name: Name
    partitions: Annotated[int, Field(ge=1, le=1024)] | None = None


class DocumentBody(_Strict):
    """A document: ``text`` or ``tokens``, and a JSON object to keep beside it."""

    id: str
    text: str | None = None
    tokens: Annotated[list[int], Field(fail_fast=True)] | None = None
    metadata: dict[str, Any] | None = None


_Documents = Annotated[
    list[DocumentBody],
    Field(fail_fast=True, min_length=1, max_length=MAX_DOCUMENTS),
    at_most("documents", MAX_DOCUMENTS),
]
_Ids = Annotated[
    list[str],
    Field(fail_fast=True, min_length=1, max_length=MAX_DOCUMENTS),
    at_most("ids", MAX_DOCUMENTS),
]


class DocumentsBody(_Strict):
    """Body of ``POST /v1/corpora/{name}/documents``."""

    documents: _Documents

    def new(self) -> list[NewDocument]:
        """For `rasd.datastore.Catalog.add`."""
        return [
            NewDocument(one.id, one.text, one.tokens, one.metadata or {}) for one in self.documents
        ]


class IdsBody(_Strict):
    """Body of ``POST /v1/corpora/{name}/documents/delete``."""

    ids: _Ids


class ScaleBody(_Strict):
    """Body of ``PUT /v1/datastore/scale``: slots, and processes that hold each."""

    shards: Annotated[int, Field(ge=1, le=MAX_SHARDS)]
    replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS)]

    def scale(self) -> Scale:
        """For `rasd.datastore.Datastore.scale`."""
        return Scale(self.shards, self.replicas)


BODIES: Final = (CorpusBody, DocumentsBody, IdsBody, ScaleBody)

PAGING: Final[list[dict[str, Any]]] = [
    {
        "name": "limit",
        "in": "query",
        "description": "Entries at most.",
        "schema": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_PAGE,
            "default": _DEFAULT_PAGE,
        },
    },
    {
        "name": "after",
        "in": "query",
        "description": "The id of the last entry of the page before, its last_id.",
        "schema": {"type": "string"},
    },
]
"""The query of a listing, for the OpenAPI page."""

CONTENT: Final[dict[str, Any]] = {
    "name": "content",
    "in": "query",
    "description": (
        "Whether entries hold their text, or tokens where there is none, and metadata. A page of "
        "large documents is then shorter than its limit."
    ),
    "schema": {"type": "boolean", "default": False},
}


@dataclass(frozen=True, slots=True)
class Paging:
    """Which part of a listing is asked for. ``after`` None starts at the beginning."""

    limit: int
    after: str | None
    content: bool = False


def parse_paging(query: QueryParams, *, content: bool = False) -> Paging:
    """The ``limit`` and ``after`` of a listing, and ``content`` of one that has it.

    Raises:
        InvalidRequest: one is given twice or is out of range.
        UnsupportedParameter: there is anything else.
    """
    given: dict[str, str] = {}
    for name, value in query.multi_items():
        if name not in ("limit", "after") and not (content and name == "content"):
            raise UnsupportedParameter(f"unknown parameter {name!r:.100}", param=name[:100])
        if name in given:
            raise InvalidRequest(f"{name} is given twice", param=name)
        given[name] = value
    digits = given.get("limit", str(_DEFAULT_PAGE))
    # int() would take "１", " 1", "1_0" and "+1".
    plain = digits.isascii() and digits.isdecimal() and len(digits) <= 10
    if not plain or not 1 <= int(digits) <= MAX_PAGE:
        raise InvalidRequest(
            f"limit must be between 1 and {MAX_PAGE}; got {show(digits)}", param="limit"
        )
    after = given.get("after")
    if after == "" or (after and "\0" in after):
        raise InvalidRequest(f"after must be an id; got {show(after)}", param="after")
    wanted = given.get("content", "false")
    if wanted not in ("true", "false"):
        raise InvalidRequest(f"content must be true or false; got {show(wanted)}", param="content")
    return Paging(int(digits), after, wanted == "true")
