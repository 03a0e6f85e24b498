"""One choice on its way: the engine's outputs become text, ended by stop strings or a deadline."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

from rasd.api.metrics import Metrics
from rasd.api.origins import Resolve, named
from rasd.engine.api import EngineClient, Output, Request, Statistics
from rasd.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    RasdError,
    RequestError,
    ServerError,
    Unavailable,
)
from rasd.quotes import Quote, Quotes
from rasd.stages import Logprobs
from rasd.text import TextStream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# What the engine says under these codes is meant for the client.
_FOR_CLIENTS: Final[dict[str, type[RequestError | ServerError]]] = {
    kind.code: kind for kind in (InvalidRequest, Overloaded, Unavailable, DeadlineExceeded)
}

log = logging.getLogger("rasd.api")


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step brought to one choice.

    Attributes:
        choice: which one; those of the first prompt come first.
        text: may be empty while characters, or what may become a stop string, are held back.
        tokens: those that count as the answer's, with the ones that made it stop.
        logprobs: per token where asked for, else empty.
        finish: set exactly once, on the last piece of the choice.
        statistics: totals so far.
        origins: where its retrieved tokens stand, on the last piece of a choice that asks.
    """

    choice: int
    text: str
    tokens: list[int]
    statistics: Statistics
    logprobs: list[Logprobs] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None
    origins: list[Quote] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Run:
    """What all choices of one request share.

    ``arrived`` is of `time.monotonic`; ``deadline``, ``limit_s`` after the start, of the loop.
    ``resolve`` finds ids of documents, if anybody can.
    """

    request_id: str
    engine: EngineClient
    tokenizer: PreTrainedTokenizerFast
    metrics: Metrics
    arrived: float
    deadline: float
    limit_s: float
    resolve: Resolve | None = None


async def pieces_of(run: Run, request: Request, choice: int) -> AsyncGenerator[Piece, None]:
    """Runs one sequence. Closing the generator cancels it, and so does a stop string.

    Raises:
        DeadlineExceeded: the request ran too long.
        ServerError: the engine could not go on.
        Unavailable: the engine is gone, or cancelled it on its own account.
    """
    stream = TextStream(run.tokenizer, request.params.stop)
    clock, quotes = _Clock(run), Quotes(request.params.corpora or ())
    async with aclosing(run.engine.generate(request)) as outputs:
        while True:
            output = await _next(run, outputs)
            piece = _piece(stream, output, choice)
            clock.count(output, len(piece.tokens))
            quotes.add(output.origin, len(piece.tokens))
            if piece.finish is not None:
                break
            yield piece
    # Only now, so that a sequence ended by a stop string costs no more steps.
    run.metrics.finished(piece.finish)
    if request.params.return_origins:
        piece = replace(piece, origins=await named(quotes, run.resolve))
    yield piece


async def merge(sources: Sequence[AsyncGenerator[Piece, None]]) -> AsyncGenerator[Piece, None]:
    """All pieces, as they come. The first failure ends, and cancels, all."""
    if len(sources) == 1:  # the common case needs no task between engine and client
        async with aclosing(sources[0]) as only:
            async for piece in only:
                yield piece
        return
    # Not bounded: it can never hold more than the answers, whose length is.
    queue: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
    pumps = [asyncio.create_task(_pump(source, queue)) for source in sources]
    try:
        running = len(pumps)
        while running:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(
    source: AsyncGenerator[Piece, None], queue: asyncio.Queue[Piece | Exception | None]
) -> None:
    try:
        async with aclosing(source):
            async for piece in source:
                queue.put_nowait(piece)
    except Exception as error:  # carried to whoever reads the queue
        queue.put_nowait(error)
    else:
        queue.put_nowait(None)


async def _next(run: Run, outputs: AsyncGenerator[Output, None]) -> Output:
    try:
        async with asyncio.timeout_at(run.deadline):
            output = await anext(outputs)
    except TimeoutError:
        raise DeadlineExceeded(f"the request ran longer than {run.limit_s:g} s") from None
    except StopAsyncIteration:
        log.error("request %s: the engine ended a sequence without a reason", run.request_id)
        raise ServerError(f"internal error in request {run.request_id}") from None
    if output.finish == "error":
        raise _failure(run, output)
    if output.finish == "cancelled":
        raise Unavailable("the engine is shutting down")
    return output


def _failure(run: Run, output: Output) -> RasdError:
    kind = _FOR_CLIENTS.get(output.error_code)
    if kind is not None:
        return kind(output.error)
    log.error("request %s: the engine failed: %s", run.request_id, output.error)
    return ServerError(f"internal error in request {run.request_id}")


def _piece(stream: TextStream, output: Output, choice: int) -> Piece:
    finish = output.finish if output.finish in ("stop", "length") else None
    # The token that ends a text counts, but is not part of it.
    shown = output.tokens[:-1] if finish == "stop" else output.tokens
    delta = stream.push(shown, final=finish is not None)
    count = delta.tokens if delta.stopped else len(output.tokens)
    return Piece(
        choice=choice,
        text=delta.text,
        tokens=output.tokens[:count],
        statistics=output.statistics,
        logprobs=output.logprobs[:count],
        finish="stop" if delta.stopped else finish,
    )


class _Clock:
    """Feeds the metrics of one choice: counts by step, and times between tokens."""

    def __init__(self, run: Run) -> None:
        self._metrics = run.metrics
        self._last = run.arrived
        self._first = True
        self._statistics = Statistics()

    def count(self, output: Output, tokens: int) -> None:
        self._metrics.step(tokens, self._statistics, output.statistics)
        self._statistics = output.statistics
        if not tokens:
            return
        now = time.monotonic()
        if self._first:
            self._metrics.first_token(now - self._last)
        else:
            self._metrics.next_tokens(tokens, now - self._last)
        self._first, self._last = False, now
