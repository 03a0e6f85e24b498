"""An engine without a model, and what the tests of the HTTP surface stand on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI

from rasd.api.http import build_app
from rasd.api.names import Look
from rasd.api.service import TextService
from rasd.config import AppConfig, RouterConfig, SpeculationConfig
from rasd.datastore import Datastore
from rasd.engine.api import Gauges, Output, Request, Statistics
from rasd.errors import Unavailable
from rasd.params import Speculation
from rasd.stages import Logprobs, TargetInfo
from tests.tokenizers import byte_tokenizer

TOKENIZER = byte_tokenizer()
END = TOKENIZER.eos_token_id
CONTEXT = 256
MODEL = "rasd"
INFO = TargetInfo(len(TOKENIZER), CONTEXT, kv_slots=4096, page_size=16, feature_size=8)


def tokens_of(text: str) -> list[int]:
    """Token ids of a text, without BOS."""
    return TOKENIZER(text, add_special_tokens=False).input_ids


@dataclass
class FakeEngine:
    """Says ``text`` to every request, ``step`` tokens at a time, then ends the turn.

    ``pace`` is awaited before each step; what it raises, the engine raises. ``finish`` replaces
    the reason of the last output, and ``code`` is that of its error.
    """

    text: str = "Hello, world"
    step: int = 3
    ready: bool = True
    finish: str | None = None
    code: str = ""
    pace: Callable[[Request, int], Any] | None = None
    started: list[Request] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    answer: Callable[[Request], list[int]] | None = None

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        self.started.append(request)
        done = False
        try:
            async for output in self._steps(request):
                done = output.finish is not None
                yield output
        finally:
            (self.ended if done else self.cancelled).append(request.sequence)

    async def _steps(self, request: Request) -> AsyncGenerator[Output, None]:
        said = self.answer(request) if self.answer else [*tokens_of(self.text), END]
        reason = "stop" if len(said) <= request.params.max_tokens else "length"
        said = said[: request.params.max_tokens]
        statistics = Statistics()
        for at in range(0, len(said), self.step):
            if self.pace is not None:
                await self.pace(request, at // self.step)
            new = said[at : at + self.step]
            statistics = _grown(statistics, len(new))
            last = at + self.step >= len(said)
            yield Output(
                sequence=request.sequence,
                tokens=new,
                sources=[1] * (len(new) - 1) + [0],
                statistics=statistics,
                logprobs=_logprobs(request, new),
                finish=(self.finish or reason) if last else None,
                error="some detail" if last and self.finish == "error" else "",
                error_code=self.code if last else "",
            )

    def gauges(self) -> Gauges:
        running = len(self.started) - len(self.ended) - len(self.cancelled)
        return Gauges(running, 0, 16 * running, 64, 10 * len(self.started), len(self.started))


def _grown(old: Statistics, tokens: int) -> Statistics:
    steps = old.steps + 1
    return Statistics(
        steps=steps,
        tokens=old.tokens + tokens,
        nodes=8 * steps,
        accepted_nodes=old.accepted_nodes + tokens - 1,
        drafted={"draft": 6 * steps, "prompt": 0, "corpus": 4 * steps},
        accepted={"draft": old.accepted_nodes + tokens - 1, "prompt": 0, "corpus": steps},
        partial_steps=steps,
    )


def _logprobs(request: Request, tokens: list[int]) -> list[Logprobs]:
    count = request.params.logprobs
    if count is None:
        return []
    top = -np.arange(1, count + 1, dtype=np.float32)
    return [Logprobs(-0.5, np.arange(10, 10 + count, dtype=np.int32), top) for _ in tokens]


class Hold:
    """A ``pace`` that stops sequences until they are let go."""

    def __init__(self, after: int = 0) -> None:
        self.after = after
        self.waiting = 0
        self.event = asyncio.Event()

    async def __call__(self, request: Request, step: int) -> None:
        if step >= self.after:
            self.waiting += 1
            try:
                await self.event.wait()
            finally:
                self.waiting -= 1


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    """Waits for a condition, at most so long."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"did not happen in {timeout_s} s: {what}") from None


@dataclass
class Site:
    """A service with its application."""

    engine: FakeEngine
    service: TextService
    app: FastAPI

    def client(self, peer: str = "127.0.0.1", **headers: str) -> httpx.AsyncClient:
        """A client inside this process, which seems to come from ``peer``."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=(peer, 1))
        return httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers, timeout=30
        )

    def settled(self) -> bool:
        """Whether nothing runs, waits, or was forgotten."""
        self.service.gate.check_integrity()
        known = len(self.engine.ended) + len(self.engine.cancelled)
        idle = (self.service.gate.running, self.service.gate.waiting) == (0, 0)
        return idle and known == len(self.engine.started)


def make_site(
    engine: FakeEngine | None = None,
    corpora: tuple[str, ...] = ("docs", "laws"),
    proxy_host: str | None = None,
    datastore: Datastore | None = None,
    look: Look | None = None,
    mode: Speculation = "rasd",
    **config: Any,
) -> Site:
    """A service over a fake engine."""
    engine = engine or FakeEngine()
    settings = RouterConfig(**config)
    whole = AppConfig(router=settings, speculation=SpeculationConfig(mode=mode))
    service = TextService(engine, TOKENIZER, whole, INFO, lambda: corpora, look=look)
    app = build_app(
        lambda: service,
        settings,
        proxy_host=lambda: proxy_host,
        get_datastore=None if datastore is None else lambda: datastore,
    )
    return Site(engine, service, app)


def make_starting_app() -> FastAPI:
    """An application whose service is not there yet."""

    def get_service() -> TextService:
        raise Unavailable("the engine is starting")

    return build_app(get_service, RouterConfig())


@asynccontextmanager
async def serving(site: Site) -> AsyncGenerator[str, None]:
    """The site behind a real server on a free loopback port; gives its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(site.app, log_level="critical", lifespan="on")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started, "the server starts")
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            await asyncio.wait_for(task, 10)


def events_of(body: str) -> list[str]:
    """The data of each event of a stream."""
    assert body.endswith("\n\n")
    blocks = body[:-2].split("\n\n")
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]
