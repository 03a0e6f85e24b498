"""The HTTP routes: OpenAI's completions and chat, models, the datastore, probes and metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rasd import __version__
from rasd.api.answers import ErrorAnswer, to_json
from rasd.api.auth import Keyring
from rasd.api.body import BodyMiddleware
from rasd.api.corpora import CorporaRoutes, GetDatastore
from rasd.api.corpora_protocol import BODIES
from rasd.api.datastore_metrics import DatastoreMetrics
from rasd.api.guard import Guard, caller_of, request_id_of
from rasd.api.metrics import CONTENT_TYPE
from rasd.api.protocol import ChatBody, CompletionBody
from rasd.api.refusals import SCHEMAS, body_schema, read_body
from rasd.api.results import collect
from rasd.api.service import TextService
from rasd.api.stream import EventStream
from rasd.api.wire import ChatWire, CompletionWire, Wire
from rasd.config import RouterConfig
from rasd.errors import NotFound, Unavailable

GetService = Callable[[], TextService]


def build_app(
    get_service: GetService,
    config: RouterConfig,
    *,
    proxy_host: Callable[[], str | None] = lambda: None,
    get_datastore: GetDatastore | None = None,
) -> FastAPI:
    """The application. Further routes may be added; the guard stands before them, too.

    Args:
        get_service: called by each request; may raise `Unavailable` while there is none yet.
        config: keys and limits.
        proxy_host: where an HTTP proxy in front listens, if that hides its clients' addresses;
            decides who is local (see `rasd.api.auth.is_local`).
        get_datastore: as ``get_service``; None where the application has no datastore.
    """
    app = FastAPI(
        title="RASD",
        version=__version__,
        summary="OpenAI-compatible text generation",
        responses={status: {"model": ErrorAnswer} for status in ("4XX", "5XX")},
    )
    _add_generation(app, get_service)
    _add_models(app, get_service)
    metrics = DatastoreMetrics(config.served_model_name, get_datastore)
    CorporaRoutes(get_datastore, metrics).add_to(app)
    _add_operations(app, get_service, metrics)
    # Passed on to the guard, so that every error is made in one place.
    app.add_exception_handler(HTTPException, _raise)
    app.add_exception_handler(RequestValidationError, _raise)
    app.add_middleware(BodyMiddleware, max_bytes=config.max_body_bytes)
    app.add_middleware(Guard, keyring=Keyring(config.api_keys), proxy_host=proxy_host)
    _document_bodies(app)
    return app


def _add_generation(app: FastAPI, get_service: GetService) -> None:
    @app.post("/v1/completions", openapi_extra=body_schema("CompletionBody"))
    async def completions(request: Request) -> Response:
        """Continue a text."""
        return await _generate(request, get_service(), CompletionBody, CompletionWire)

    @app.post("/v1/chat/completions", openapi_extra=body_schema("ChatBody"))
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation."""
        return await _generate(request, get_service(), ChatBody, ChatWire)


async def _generate(
    request: Request,
    service: TextService,
    body_type: type[CompletionBody | ChatBody],
    wire_type: type[CompletionWire | ChatWire],
) -> Response:
    body = await read_body(request, body_type, openai=True)
    service.check_model(body.model)
    request_id = request_id_of(request.scope)
    job = await service.prepare(body.ask(), caller_of(request.scope), request_id)
    wire: Wire = wire_type(job, service.config.served_model_name, service.texts, body.include_usage)
    if body.stream:
        return EventStream(service.run(job), wire, request_id)
    return _json(wire.whole(await collect(service.run(job), job.choices)))


def _add_models(app: FastAPI, get_service: GetService) -> None:
    def card(service: TextService) -> dict[str, Any]:
        return {
            "id": service.config.served_model_name,
            "object": "model",
            "created": service.created,
            "owned_by": "rasd",
            "max_model_len": service.intake.context,
        }

    @app.get("/v1/models")
    async def models() -> Response:
        """List the model served here."""
        return _json({"object": "list", "data": [card(get_service())]})

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> Response:
        """Describe the model."""
        service = get_service()
        service.check_model(model)
        return _json(card(service))


def _add_operations(app: FastAPI, get_service: GetService, datastore: DatastoreMetrics) -> None:
    @app.get("/health")
    async def health() -> Response:
        """Answer while the process lives."""
        return _json({"status": "alive"})

    @app.get("/ready")
    async def ready() -> Response:
        """Answer 200 only while a request would start; else 503 with the reason."""
        reason = get_service().not_ready
        if reason is not None:
            raise Unavailable(reason)
        return _json({"status": "ready"})

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Counts and times of this replica and of the datastore, for Prometheus."""
        own = get_service().metrics.render()
        shared = await datastore.render(caller_of(request.scope))
        return Response(own + shared, media_type=CONTENT_TYPE)


async def _raise(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == 404:
        raise NotFound(f"there is no route {request.method} {request.url.path!r:.200}")
    raise error


def _json(content: Any) -> Response:
    return Response(to_json(content), media_type="application/json")


def _document_bodies(app: FastAPI) -> None:
    """Puts the bodies' schemas into the OpenAPI page; the handlers check bodies themselves."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        _, schemas = models_json_schema(
            [(kind, "validation") for kind in (CompletionBody, ChatBody, *BODIES)],
            ref_template=SCHEMAS,
        )
        document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]
