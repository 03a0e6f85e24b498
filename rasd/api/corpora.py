"""The routes of the datastore: corpora, their documents, and how many shards serve them.

Reading needs the right to read the corpus, changing anything `manage` besides. Rights are checked
first, so that nobody learns of a corpus that is not for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import unquote_to_bytes

from fastapi import FastAPI, Request
from starlette.responses import Response

from rasd.api.answers import to_json
from rasd.api.corpora_answers import (
    CorporaAnswer,
    CorpusAnswer,
    DeletedAnswer,
    DocumentAnswer,
    DocumentsAnswer,
    StatusAnswer,
    WrittenAnswer,
    visible,
)
from rasd.api.corpora_errors import for_client
from rasd.api.corpora_protocol import (
    CONTENT,
    PAGING,
    CorpusBody,
    DocumentsBody,
    IdsBody,
    ScaleBody,
    parse_paging,
)
from rasd.api.datastore_metrics import DatastoreMetrics
from rasd.api.guard import caller_of
from rasd.api.refusals import body_schema, read_body
from rasd.datastore import Datastore, DocumentInfo, StoredDocument, Written
from rasd.errors import DeadlineExceeded, InvalidRequest, NotFound, RasdError

T = TypeVar("T")

GetDatastore = Callable[[], Datastore]

CALL_DEADLINE_S: Final = 120.0

PAGE_TOKENS: Final = 256 * 1024
"""Tokens of documents, at most or in a single one, on a page with content."""

_LARGE: Final = 32 * 1024
"""Tokens from which on documents become JSON beside the event loop."""

_AT_ONCE: Final = 16


class CorporaRoutes:
    """The handlers.

    Args:
        get_datastore: called by each request; may raise `Unavailable` while there is none yet.
            None where the application has none.
        metrics: counts what is written.
    """

    def __init__(self, get_datastore: GetDatastore | None, metrics: DatastoreMetrics) -> None:
        self._get_datastore = get_datastore
        self._metrics = metrics

    def add_to(self, app: FastAPI) -> None:
        """Adds all routes."""
        corpora, corpus, whole = "/v1/corpora", "/v1/corpora/{name}", "/v1/datastore"
        documents, document = f"{corpus}/documents", f"{corpus}/documents/{{id:path}}"
        made = {"responses": {201: {"model": CorpusAnswer}}, **_takes("CorpusBody")}
        paged, with_content = _asks(*PAGING), _asks(*PAGING, CONTENT)
        routes: list[tuple[str, str, Callable[..., Any], type, dict[str, Any]]] = [
            ("GET", corpora, self.corpora, CorporaAnswer, paged),
            ("POST", corpora, self.create, CorpusAnswer, made),
            ("GET", corpus, self.corpus, CorpusAnswer, {}),
            ("DELETE", corpus, self.drop, DeletedAnswer, {}),
            ("GET", documents, self.documents, DocumentsAnswer, with_content),
            ("POST", documents, self.add, WrittenAnswer, _takes("DocumentsBody")),
            ("POST", f"{documents}/delete", self.delete_many, WrittenAnswer, _takes("IdsBody")),
            ("GET", document, self.document, DocumentAnswer, {}),
            ("DELETE", document, self.delete, DeletedAnswer, {}),
            ("GET", whole, self.status, StatusAnswer, {}),
            ("PUT", f"{whole}/scale", self.scale, StatusAnswer, _takes("ScaleBody")),
        ]
        for method, path, handler, answer, more in routes:
            app.add_api_route(path, handler, methods=[method], response_model=answer, **more)

    # --- corpora --------------------------------------------------------------------------------

    async def corpora(self, request: Request) -> Response:
        """List the corpora this key may read, by name."""
        paging = parse_paging(request.query_params)
        caller = caller_of(request.scope)
        there = await _within(self._datastore.corpora())
        return _json(CorporaAnswer.of([one for one in there if caller.may_read(one.name)], paging))

    async def create(self, request: Request) -> Response:
        """Make an empty corpus: 201, or 200 if it is there already, made the same way."""
        caller = caller_of(request.scope)
        caller.check_manage()
        body = await read_body(request, CorpusBody)
        caller.check_manage(body.name)
        known = await self._is_there(body.name)
        made = await _within(self._datastore.create(body.name, body.partitions), body.name)
        return _json(CorpusAnswer.of(made), 200 if known else 201)

    async def corpus(self, request: Request, name: str) -> Response:
        """Describe a corpus."""
        caller_of(request.scope).check_read(name)
        return _json(CorpusAnswer.of(await _within(self._datastore.corpus(name), name)))

    async def drop(self, request: Request, name: str) -> Response:
        """Remove a corpus with everything in it."""
        caller_of(request.scope).check_manage(name)
        await _within(self._datastore.drop(name), name)
        self._metrics.forget(name)
        return _json(DeletedAnswer(id=name, object="corpus.deleted"))

    # --- documents ------------------------------------------------------------------------------

    async def documents(self, request: Request, name: str) -> Response:
        """List documents, in an order of their own that writes do not change.

        Documents in the files that ``damaged`` names are not among them.
        """
        caller_of(request.scope).check_read(name)
        paging = parse_paging(request.query_params, content=True)
        page = await _within(self._datastore.page(name, paging.after, paging.limit), name)
        if not paging.content:
            return _json(DocumentsAnswer.listed(page))
        fit = _fitting(page.documents)
        if fit < len(page.documents):
            page = await _within(self._datastore.page(name, paging.after, fit), name)
        found: list[StoredDocument] = []
        for start in range(0, len(page.documents), _AT_ONCE):
            some = page.documents[start : start + _AT_ONCE]
            answers = await asyncio.gather(*(self._get_if_there(name, one.id) for one in some))
            found += [one for one in answers if one is not None]
        return await asyncio.to_thread(_json, DocumentsAnswer.whole(page, found))

    async def add(self, request: Request, name: str) -> Response:
        """Add or replace documents, at most 1000 in one call.

        Each counts on its own: the answer says in order what became of it, and why it was
        rejected. All accepted ones are durable then. A call may be repeated: adding what is
        there already changes nothing.
        """
        caller_of(request.scope).check_manage(name)
        body = await read_body(request, DocumentsBody)
        return self._written(name, await _within(self._datastore.add(name, body.new()), name))

    async def delete_many(self, request: Request, name: str) -> Response:
        """Delete documents by id, at most 1000 in one call. Missing ones are no error."""
        caller_of(request.scope).check_manage(name)
        body = await read_body(request, IdsBody)
        return self._written(name, await _within(self._datastore.delete(name, body.ids), name))

    async def document(self, request: Request, name: str, id: str) -> Response:
        """Give a document with all its content. Its id may hold slashes."""
        caller_of(request.scope).check_read(name)
        _check_id(request, id)
        found = await _within(self._datastore.get(name, id), name)
        if len(found.tokens) < _LARGE:
            return _json(DocumentAnswer.of(found))
        return await asyncio.to_thread(_json, DocumentAnswer.of(found))

    async def delete(self, request: Request, name: str, id: str) -> Response:
        """Delete a document. Its id may hold slashes."""
        caller_of(request.scope).check_manage(name)
        _check_id(request, id)
        written = await _within(self._datastore.delete(name, [id]), name)
        self._metrics.wrote(name, written)
        if written[0].change == "rejected":
            raise InvalidRequest(written[0].error, param="id")
        if written[0].change == "missing":
            raise NotFound(f"there is no document {id!r:.200} in {name!r}", param="id")
        return _json(DeletedAnswer(id=id, object="document.deleted"))

    # --- the whole ------------------------------------------------------------------------------

    async def status(self, request: Request) -> Response:
        """Describe the datastore: corpora this key may read, shards, and how they are scaled."""
        status = await _within(self._datastore.status())
        return _json(StatusAnswer.of(visible(status, caller_of(request.scope))))

    async def scale(self, request: Request) -> Response:
        """Set how many shards serve, and replicas of each, until the next deployment."""
        caller = caller_of(request.scope)
        caller.check_manage()
        body = await read_body(request, ScaleBody)
        status = await _within(self._datastore.scale(body.scale()))
        return _json(StatusAnswer.of(visible(status, caller)))

    @property
    def _datastore(self) -> Datastore:
        if self._get_datastore is None:
            raise NotFound("this application has no datastore; its configuration says null")
        return self._get_datastore()

    async def _is_there(self, name: str) -> bool:
        try:
            await _within(self._datastore.corpus(name), name)
        except NotFound:
            return False
        return True

    async def _get_if_there(self, name: str, id_: str) -> StoredDocument | None:
        try:
            return await _within(self._datastore.get(name, id_), name)
        except NotFound:
            return None  # deleted since it was listed

    def _written(self, name: str, written: list[Written]) -> Response:
        self._metrics.wrote(name, written)
        return _json(WrittenAnswer.of(written))


def _takes(body: str) -> dict[str, Any]:
    """What a route with a body says of itself."""
    return {"openapi_extra": body_schema(body)}


def _asks(*parameters: dict[str, Any]) -> dict[str, Any]:
    """What a route with a query says of itself."""
    return {"openapi_extra": {"parameters": list(parameters)}}


async def _within(call: Awaitable[T], corpus: str | None = None) -> T:
    try:
        async with asyncio.timeout(CALL_DEADLINE_S):
            return await call
    except RasdError as error:
        raise for_client(error, corpus) from None
    except TimeoutError:
        raise DeadlineExceeded(
            f"the datastore did not answer within {CALL_DEADLINE_S:g} s"
        ) from None


def _fitting(documents: Sequence[DocumentInfo]) -> int:
    """How many of the first fit on a page with content; at least one."""
    total = 0
    for count, document in enumerate(documents):
        total += document.tokens
        if count and total > PAGE_TOKENS:
            return count
    return len(documents)


def _check_id(request: Request, id_: str) -> None:
    # Servers put U+FFFD in the place of bytes that are no UTF-8: that would be another id.
    if "\ufffd" not in id_:
        return
    try:
        unquote_to_bytes(request.scope["raw_path"]).decode()
    except UnicodeDecodeError:
        raise InvalidRequest("the id in the path is not UTF-8", param="id") from None


def _json(content: Any, status: int = 200) -> Response:
    return Response(to_json(content), status, media_type="application/json")
