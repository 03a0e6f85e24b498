"""The bodies, queries and answers of `/v1/corpora` and `/v1/datastore`.

What can be said of a document alone (its id, its size, its tokens) is the datastore's to judge,
one by one; here only the shape of the whole is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import QueryParams

from rasd.api.auth import Caller
from rasd.api.refusals import at_most, show
from rasd.config import Name
from rasd.datastore import (
    MAX_REPLICAS,
    MAX_SHARDS,
    CorpusInfo,
    DatastoreStatus,
    NewDocument,
    Page,
    Scale,
    StoredDocument,
    Written,
)
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
        "description": "The last_id of the page before.",
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
        raise InvalidRequest(f"after must be a last_id; got {show(after)}", param="after")
    wanted = given.get("content", "false")
    if wanted not in ("true", "false"):
        raise InvalidRequest(f"content must be true or false; got {show(wanted)}", param="content")
    return Paging(int(digits), after, wanted == "true")


# --- answers ----------------------------------------------------------------------------------


def corpus_answer(corpus: CorpusInfo) -> dict[str, Any]:
    """A corpus."""
    return {"object": "corpus", **asdict(corpus)}


def corpora_answer(corpora: list[CorpusInfo], paging: Paging) -> dict[str, Any]:
    """A page of corpora, by name."""
    ordered = sorted(corpora, key=lambda corpus: corpus.name)
    left = [one for one in ordered if paging.after is None or one.name > paging.after]
    shown = left[: paging.limit]
    more = len(left) > len(shown)
    return _list(list(map(corpus_answer, shown)), shown[-1].name if more else None)


def documents_answer(page: Page) -> dict[str, Any]:
    """A page of documents, in the datastore's own order."""
    shown = [
        {"object": "document", "id": document.id, "token_count": document.tokens}
        for document in page.documents
    ]
    return _list(shown, page.after) | {"damaged": page.damaged}


def contents_answer(documents: list[StoredDocument], page: Page) -> dict[str, Any]:
    """A page of documents with what they were made of; ``documents`` are those still there."""
    shown = [
        document_answer(one) | ({} if one.text is None else {"tokens": None}) for one in documents
    ]
    return _list(shown, page.after) | {"damaged": page.damaged}


def document_answer(document: StoredDocument) -> dict[str, Any]:
    """A document with all its content."""
    return {
        "object": "document",
        "id": document.id,
        "text": document.text,
        "tokens": document.tokens,
        "metadata": document.metadata,
        "token_count": len(document.tokens),
    }


def written_answer(written: list[Written]) -> dict[str, Any]:
    """What became of each document, in order."""
    data: list[Mapping[str, str]] = [
        {"id": one.id, "change": one.change, **({"error": one.error} if one.error else {})}
        for one in written
    ]
    rejected = sum(one.change == "rejected" for one in written)
    return {"object": "list", "data": data, "rejected": rejected}


def deleted_answer(kind: str, id_: str) -> dict[str, Any]:
    """That something is gone, as OpenAI says it."""
    return {"id": id_, "object": f"{kind}.deleted", "deleted": True}


def status_answer(status: DatastoreStatus) -> dict[str, Any]:
    """The whole datastore."""
    return {
        "object": "datastore",
        **asdict(status),
        "corpora": list(map(corpus_answer, status.corpora)),
    }


def visible(status: DatastoreStatus, caller: Caller) -> DatastoreStatus:
    """What of it the caller may know.

    That is the corpora it may read. Shards tell how much there is in all; the version and whether
    partitions move tell when others are made or dropped. Only who may read everything sees those.
    """
    corpora = [corpus for corpus in status.corpora if caller.may_read(corpus.name)]
    if caller.corpora is None:
        return replace(status, corpora=corpora)
    return replace(status, corpora=corpora, shards=[], version=0, moving=False)


def _list(data: list[dict[str, Any]], last_id: str | None) -> dict[str, Any]:
    return {"object": "list", "data": data, "has_more": last_id is not None, "last_id": last_id}
