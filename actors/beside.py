"""What a server answers, and a second thread of it for what takes long."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Final

import zmq

from actors.wire import Failure, encode
from rasd.errors import RasdError, StageUnavailable

_log = logging.getLogger(__name__)

MAX_WAITING: Final = 64
"""So many may wait for their turn; more are refused."""

_MAX_ERROR_CHARS: Final = 1000
_Job = tuple[Sequence[bytes], Callable[[], bytes | bytearray | None]]


def attempt(answer: Callable[[], object | None]) -> tuple[bytearray | None, Exception | None]:
    """An answer as it crosses, or the error that it says instead."""
    try:
        message = answer()
        return (None if message is None else encode(message)), None
    except Exception as error:
        _log.warning(
            "a request failed: %s",
            type(error).__name__,
            exc_info=not isinstance(error, RasdError),
        )
        return encode(Failure(type(error).__name__, str(error)[:_MAX_ERROR_CHARS])), error


class Beside:
    """Works in one thread, in the order of arrival. Belongs to the thread that serves.

    Attributes:
        socket: here the frames of each answer come out, to be sent on.
    """

    def __init__(self) -> None:
        """Starts nothing yet."""
        place = f"inproc://beside-{secrets.token_hex(8)}"
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self.socket: zmq.Socket[bytes] = context.socket(zmq.PULL)
        self._out: zmq.Socket[bytes] = context.socket(zmq.PUSH)
        self.socket.linger = self._out.linger = 0
        self.socket.bind(place)
        self._out.connect(place)
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._stopped = False

    def start(self) -> None:
        """From now on only its thread uses the other end of ``socket``."""
        threading.Thread(target=self._run, name="beside", daemon=True).start()

    def take(self, head: Sequence[bytes], make: Callable[[], bytes | bytearray | None]) -> None:
        """Will send ``head`` and what ``make`` returns, or nothing for None. It must not raise.

        Raises:
            StageUnavailable: `MAX_WAITING` others wait.
        """
        if self._jobs.qsize() >= MAX_WAITING:
            raise StageUnavailable(f"{MAX_WAITING} others wait to be answered")
        self._jobs.put((head, make))

    def stop(self) -> None:
        """Drops what waits; the thread ends after what it does now. Does not wait."""
        self._stopped = True
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None and not self._stopped:
            head, make = job
            answer = make()
            if answer is not None:
                with suppress(zmq.Again):  # nobody sends on any more
                    self._out.send_multipart([*head, answer], zmq.NOBLOCK)
        self._out.close()
