"""The ingress: OpenAI's HTTP surface and a Python handle, in front of one replica."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Gauge
from ray.serve.handle import DeploymentHandle

from actors.catalog import RemoteDatastore
from actors.channel import EngineChannel
from actors.cluster import keep_loaded, log_to_stderr
from actors.corpora import configured_corpora
from actors.proxy import check_proxy, proxy_host
from actors.replica import Replica
from actors.table import ShardTable
from rasd.api.choice import Piece
from rasd.api.http import build_app
from rasd.api.results import Result
from rasd.api.service import TextService
from rasd.config import AppConfig
from rasd.errors import Unavailable
from rasd.text import load_tokenizer

_log = logging.getLogger(__name__)

_RETRY_S: Final = 1.0
_POLL_DEADLINE_S: Final = 60.0

Prompt = str | Sequence[int] | Sequence[dict[str, str]]


class Router:
    """Serve deployment. Ready when its constructor returns; owns its replica's processes."""

    async def __init__(  # type: ignore[misc]
        self, config: AppConfig, secret: bytes, datastore: DeploymentHandle | None
    ) -> None:
        log_to_stderr()
        self._config = config
        self._table = ShardTable(0)
        self._awaited = configured_corpora(config.datastore)
        self._datastore = RemoteDatastore(datastore) if datastore is not None else None
        self._watching: asyncio.Task[None] | None = None
        self._service: TextService | None = None
        channel = EngineChannel(secret, patience_s=config.router.queue_deadline_s)
        self._replica = Replica(config, secret, channel)
        await check_proxy(config.router)
        tokenizer, target = await asyncio.gather(
            asyncio.to_thread(load_tokenizer, config.target.model, config.target.revision),
            self._replica.start(),
        )
        self._service = TextService(
            channel,
            tokenizer,
            config,
            target.info,
            self._corpora,
            self._datastore.resolve if self._datastore is not None else None,
            by_meaning=config.retrieval.dense is not None and self._datastore is not None,
            look=self._datastore.names if self._datastore is not None else None,
        )
        self._count_restarts(self._service.metrics.registry)
        if datastore is not None:
            self._watching = asyncio.create_task(self._watch_table(datastore))
        keep_loaded()
        _log.info("ready")

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve calls this after the constructor."""
        datastore = self._datastore
        return build_app(
            lambda: self.service,
            self._config.router,
            proxy_host=proxy_host,
            get_datastore=(lambda: datastore) if datastore is not None else None,
        )

    @property
    def service(self) -> TextService:
        """What answers.

        Raises:
            Unavailable: it is not there yet.
        """
        if self._service is None:
            raise Unavailable("the service is starting")
        return self._service

    async def generate(self, prompt: Prompt, **params: Any) -> Result:
        """See `TextService.generate`; for handles in the cluster, which are trusted."""
        return await self.service.generate(prompt, **params)

    async def stream(self, prompt: Prompt, **params: Any) -> AsyncGenerator[Piece, None]:
        """See `TextService.stream`; for handles with ``stream=True``."""
        async with aclosing(self.service.stream(prompt, **params)) as pieces:
            async for piece in pieces:
                yield piece

    async def engine_timings(self) -> dict[str, tuple[float, int]]:
        """Where the engine's time went so far (`rasd.engine.timings`)."""
        return await self._replica.engine_timings()

    async def check_health(self) -> None:
        """Serve calls this. Raises when only another replica can help."""
        if self._replica.failure is not None:
            raise self._replica.failure

    async def __del__(self) -> None:
        """Serve calls this when nothing runs any more, or patience ends; maybe half-way up."""
        if self._watching is not None:
            self._watching.cancel()
        if self._service is not None:
            self._service.begin_drain()
            self._service.close()
        self._replica.close()

    def _corpora(self) -> frozenset[str]:
        """What requests may name: what there is, and what the configuration has yet to make."""
        return self._table.corpora | self._awaited

    def _count_restarts(self, registry: CollectorRegistry) -> None:
        name, text = "rasd:stage_restarts", "How often a stage was lost and re-created"
        gauge = Gauge(name, text, ["model_name", "stage"], registry=registry)
        for stage, keeper in self._replica.keepers.items():
            counted = gauge.labels(self._config.router.served_model_name, stage)
            counted.set_function(partial(getattr, keeper, "restarts"))

    async def _watch_table(self, datastore: DeploymentHandle) -> None:
        """Follows the datastore. While it is gone, its shards are asked as before."""
        while True:
            try:
                async with asyncio.timeout(_POLL_DEADLINE_S):
                    table = await datastore.table.remote(self._table.version)
                if table is not None:
                    self._table = table
                    self._awaited -= table.corpora
                    await self._replica.set_table(table)
            except Exception as error:
                _log.warning("the datastore does not answer: %r", error)
                await asyncio.sleep(_RETRY_S)
