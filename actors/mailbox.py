"""The mailbox of the engine's loop, on a socket: requests come in, what steps brought goes out."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from typing import Final

import zmq

from actors.outbox import Outbox
from actors.rpc import bind, open_socket
from actors.wire import Step, TargetLost, admits, decode, encode
from rasd.engine.api import Gauges, Output
from rasd.engine.loop import Cancel, Command, Submit
from rasd.errors import WireError

_log = logging.getLogger(__name__)

# Nobody wakes the loop for an action from another thread: it looks this often while idle.
_GLANCE_S: Final = 0.05

Action = Callable[[], None]


class SocketMailbox:
    """A `rasd.engine.loop.Mailbox` on a socket, for one router. Used by one thread but for `do`.

    Nothing is dropped on the way out: what a slow router has not read is bounded by the lengths
    of its requests, and waits. Outputs are joined as `Outbox` says.

    Attributes:
        refused: messages that were malformed, unexpected, or lacked the secret.
        seen_s: when the loop last looked, by `time.monotonic`.
    """

    def __init__(self, host: str, secret: bytes, interval_s: float = 0.0) -> None:
        self.refused = 0
        self.seen_s = time.monotonic()
        self._outbox = Outbox(interval_s)
        self._gauges = Gauges(0, 0, 0, 0)
        self._secret = secret
        self._router: bytes | None = None
        self._actions: queue.SimpleQueue[Action] = queue.SimpleQueue()
        self._socket = open_socket(zmq.ROUTER)
        self._socket.hwm = 0
        self.address = bind(self._socket, host)

    def do(self, action: Action) -> None:
        """Runs ``action`` in the loop's thread, between steps. Any thread may call."""
        self._actions.put(action)

    def act(self, timeout_s: float = 0.0) -> None:
        """Runs the actions that are here; waits for the first at most ``timeout_s``."""
        self.seen_s = time.monotonic()
        try:
            self._actions.get(timeout_s > 0, timeout_s)()
            while True:
                self._actions.get_nowait()()
        except queue.Empty:
            return

    def receive(self, timeout_s: float) -> list[Command]:
        """See `Mailbox`; may return before anything has come."""
        self.act()
        commands: list[Command] = []
        patience_ms = int(1000 * min(timeout_s, _GLANCE_S))
        while self._socket.poll(0 if commands else patience_ms):
            command = self._read(self._socket.recv_multipart())
            if command is not None:
                commands.append(command)
        return commands

    def send(self, outputs: list[Output], gauges: Gauges) -> None:
        """See `Mailbox`."""
        self._gauges = gauges
        now = self._outbox.put(outputs)
        if now or not self._outbox.holds:
            self._tell(Step(now, gauges))

    def tell_lost(self, message: TargetLost) -> None:
        """Sends it behind everything that waits."""
        self._tell(Step(self._outbox.take(), self._gauges))
        self._tell(message)

    def _tell(self, message: Step | TargetLost) -> None:
        if self._router is not None:  # it has shown itself
            self._socket.send_multipart([self._router, self._secret, encode(message)])

    def close(self) -> None:
        """What was not sent is lost."""
        self._socket.close()

    def _read(self, frames: list[bytes]) -> Command | None:
        try:
            if len(frames) != 3 or not admits(self._secret, frames[1]):
                raise WireError("a message lacks the secret")
            command = decode(frames[2])
            if not isinstance(command, Submit | Cancel):
                raise WireError(f"{type(command).__name__} is not expected here")
        except WireError as error:
            self.refused += 1
            _log.warning("a message is refused: %s", error)
            return None
        self._router = frames[0]
        if isinstance(command, Submit):
            self._outbox.expect(command.request)
        return command
