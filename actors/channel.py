"""The engine seen from the router: it may die and come back while requests run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import zmq
import zmq.asyncio

from actors.rpc import CONNECTION_ENDS, configure
from actors.wire import Step, TargetLost, admits, decode, encode
from rasd.engine.api import Gauges, Output, Request, Statistics
from rasd.engine.loop import Cancel, Command, Submit
from rasd.errors import Unavailable, WireError

_log = logging.getLogger(__name__)

_NO_LOAD: Final = Gauges(0, 0, 0, 0)


@dataclass(slots=True)
class _Flight:
    """A running request: what it has so far, and what nobody has read yet.

    ``before`` are the totals of engines that are gone; the engine of the moment counts anew.
    """

    request: Request
    tokens: list[int] = field(default_factory=list)
    totals: Statistics = field(default_factory=Statistics)
    before: Statistics = field(default_factory=Statistics)
    ended: bool = False
    unread: asyncio.Queue[Output | Unavailable] = field(default_factory=asyncio.Queue)

    def resumed(self) -> Request:
        """The request with what it has already."""
        output = np.concatenate([self.request.output, np.asarray(self.tokens, np.int32)])
        return replace(self.request, output=output.astype(np.int32))

    def take(self, output: Output) -> None:
        """The engine brought this."""
        self.tokens += output.tokens
        self.ended = output.finish is not None
        self.totals = self.before + output.statistics
        self.unread.put_nowait(replace(output, statistics=self.totals))


class EngineChannel:
    """An `EngineClient` that survives its engine. Belongs to one event loop.

    It holds every request's tokens. Its owner says where the engine is (`connect`) and whether
    it can work (`available`); after a new engine is connected, every request goes on where it
    was. Requests wait for an engine at most ``patience_s``, then fail.

    Attributes:
        on_engine_lost: called when the connection breaks.
        on_target_lost: called when the engine says that its target failed.
        resubmitted: requests that were given to another engine than their first.
    """

    def __init__(self, secret: bytes, *, patience_s: float) -> None:
        self.on_engine_lost: Callable[[str], None] = lambda reason: None
        self.on_target_lost: Callable[[TargetLost], None] = lambda message: None
        self.resubmitted = 0
        self._secret = secret
        self._patience_s = patience_s
        self._available = False
        self._given_up = False
        self._end_of_patience: asyncio.TimerHandle | None = None
        self._gauges = _NO_LOAD
        self._flights: dict[int, _Flight] = {}
        self._context = zmq.asyncio.Context(zmq.Context.instance())
        self._socket: zmq.asyncio.Socket | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # --- for the service --------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a request sent now would start."""
        return self._available

    def gauges(self) -> Gauges:
        """The newest known load."""
        return self._gauges

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        """See `EngineClient`."""
        if self._given_up:
            raise Unavailable("the engine is restarting")
        flight = self._flights[request.sequence] = _Flight(request)
        finished = False
        try:
            self._send(Submit(request))
            while not finished:
                output = await flight.unread.get()
                if isinstance(output, Unavailable):
                    raise output
                finished = output.finish is not None
                yield output
        finally:
            del self._flights[request.sequence]
            if not finished:
                self._send(Cancel(request.sequence))

    # --- for the owner ----------------------------------------------------------------------

    def connect(self, address: str) -> None:
        """There is a new engine; every request goes on there."""
        self.disconnect()
        socket = self._socket = self._context.socket(zmq.DEALER)
        configure(socket)
        socket.hwm = 0  # the engine may be busy; running requests are limited elsewhere
        socket.reconnect_ivl = -1
        monitor = socket.get_monitor_socket(CONNECTION_ENDS)
        socket.connect(address)
        for flight in self._flights.values():
            if flight.ended:  # only its reader is behind
                continue
            flight.before = flight.totals
            self.resubmitted += 1
            self._send(Submit(flight.resumed()))
        self._tasks = [
            asyncio.create_task(self._read(socket)),
            asyncio.create_task(self._watch(monitor)),
        ]

    def disconnect(self) -> None:
        """There is no engine; nothing of it is heard any more."""
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        if self._socket is not None:
            self._socket.disable_monitor()
            self._socket.close()
            self._socket = None

    @property
    def available(self) -> bool:
        """Whether engine and target can work."""
        return self._available

    @available.setter
    def available(self, value: bool) -> None:
        if value == self._available:
            return
        self._available = value
        self._given_up = False
        if self._end_of_patience is not None:
            self._end_of_patience.cancel()
            self._end_of_patience = None
        if not value:
            loop = asyncio.get_running_loop()
            self._end_of_patience = loop.call_later(self._patience_s, self._give_up)

    def close(self) -> None:
        """Ends every request."""
        self._give_up()
        self.disconnect()

    # --- inside -----------------------------------------------------------------------------

    def _give_up(self) -> None:
        self._given_up = True
        for flight in self._flights.values():
            flight.unread.put_nowait(
                Unavailable(f"the engine did not come back within {self._patience_s:g} s")
            )

    def _send(self, command: Command) -> None:
        if self._socket is not None:
            # Without a limit on the queue a send never waits, so its future is done.
            self._socket.send_multipart([self._secret, encode(command)])

    async def _read(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frames: list[Any] = await socket.recv_multipart()
            try:
                if len(frames) != 2 or not admits(self._secret, frames[0]):
                    raise WireError("a message lacks the secret")
                self._take(decode(frames[1]))
            except WireError as error:
                _log.error("the engine's message is refused: %s", error)
                self.on_engine_lost(str(error))
                return

    def _take(self, message: object) -> None:
        if isinstance(message, Step):
            self._gauges = message.gauges
            for output in message.outputs:
                flight = self._flights.get(output.sequence)
                if flight is not None:
                    flight.take(output)
        elif isinstance(message, TargetLost):
            self.on_target_lost(message)
        else:
            raise WireError(f"{type(message).__name__} is not expected here")

    async def _watch(self, monitor: zmq.asyncio.Socket) -> None:
        try:
            await monitor.recv_multipart()
            self.on_engine_lost("the connection to the engine broke")
        finally:
            monitor.close()
