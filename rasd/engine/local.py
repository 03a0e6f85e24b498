"""An engine in a thread of this process, seen from an event loop."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncGenerator

from rasd.engine.api import Gauges, Output, Request
from rasd.engine.engine import Engine
from rasd.engine.loop import Cancel, Command, Stop, Submit, run
from rasd.errors import Unavailable

logger = logging.getLogger(__name__)


class ThreadedEngine:
    """An `EngineClient`. Owns the engine from construction on; one event loop uses it.

    If the engine fails, running and later requests raise `Unavailable`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._gauges = engine.gauges()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: dict[int, asyncio.Queue[Output | None]] = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, name="rasd-engine", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether the engine's thread runs."""
        return not self._stopped

    def gauges(self) -> Gauges:
        """The load after the newest step."""
        return self._gauges

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        """Yields outputs until one has ``finish``. Closing the generator cancels the sequence.

        Raises:
            Unavailable: the engine stopped or failed.
        """
        self._loop = asyncio.get_running_loop()
        outputs: asyncio.Queue[Output | None] = asyncio.Queue()
        self._queues[request.sequence] = outputs
        finished = self._stopped  # from now on its last word reaches the queue
        try:
            if finished:
                raise Unavailable("the engine stopped")
            self._commands.put(Submit(request))
            while not finished:
                output = await outputs.get()
                if output is None:
                    raise Unavailable("the engine stopped")
                finished = output.finish is not None
                yield output
        finally:
            del self._queues[request.sequence]
            if not finished:
                self._commands.put(Cancel(request.sequence))

    def close(self, timeout_s: float = 60.0) -> None:
        """Ends everything as cancelled and joins the thread."""
        self._commands.put(Stop())
        self._thread.join(timeout_s)

    # --- the engine's thread ----------------------------------------------------------------

    def _serve(self) -> None:
        try:
            run(self._engine, self)
        except Exception:
            logger.exception("the engine failed")
        finally:
            self._stopped = True  # before the last word, so that whoever comes later knows
            self._tell([None])

    def receive(self, timeout_s: float) -> list[Command]:
        """As `Mailbox`."""
        commands: list[Command] = []
        try:
            if timeout_s > 0:
                commands.append(self._commands.get(timeout=timeout_s))
            while True:
                commands.append(self._commands.get_nowait())
        except queue.Empty:
            return commands

    def send(self, outputs: list[Output], gauges: Gauges) -> None:
        """As `Mailbox`."""
        self._gauges = gauges
        if outputs:
            self._tell([*outputs])

    def _tell(self, outputs: list[Output | None]) -> None:
        """Hands outputs to the event loop, all at once; None means that no more will come."""
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._deliver, outputs)
        except RuntimeError:  # the loop is closed: nobody listens any more
            return

    def _deliver(self, outputs: list[Output | None]) -> None:
        for output in outputs:
            if output is None:
                for waiting in self._queues.values():
                    waiting.put_nowait(None)
            elif output.sequence in self._queues:
                self._queues[output.sequence].put_nowait(output)
