"""Request and reply over ZeroMQ, for the path that every step takes.

A server answers in one thread, in the order of arrival, and in another what takes long; a client
belongs to one thread and may have many requests in flight. Every message shows the application's
secret. A peer that is killed is noticed when its connection breaks, a frozen one or a torn
network by missing heartbeats.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, Final, Generic, TypeVar
from weakref import WeakValueDictionary

import zmq

from actors.beside import Beside, attempt
from actors.wire import MAX_MESSAGE_BYTES, Failure, admits, decode, encode
from rasd import errors
from rasd.errors import RasdError, StageTimeout, StageUnavailable, WireError

A = TypeVar("A")

HEARTBEAT_S: Final = 1.0
SILENCE_S: Final = 10.0
STOP_POLL_MS: Final = 200
# Whatever ends a connection; `open_socket` forbids a second one.
CONNECTION_ENDS: Final = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED


def open_socket(kind: int) -> zmq.Socket[bytes]:
    """A socket with this project's limits; nothing lingers when it is closed."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    configure(socket)
    return socket


def configure(socket: zmq.Socket[Any]) -> None:
    """Limits on messages, and how soon a silent peer is given up."""
    socket.linger = 0
    socket.ipv6 = True
    socket.maxmsgsize = MAX_MESSAGE_BYTES
    socket.heartbeat_ivl = int(1000 * HEARTBEAT_S)
    socket.heartbeat_timeout = int(1000 * SILENCE_S)
    socket.handshake_ivl = int(1000 * SILENCE_S)
    socket.connect_timeout = int(1000 * SILENCE_S)


def bind(socket: zmq.Socket[Any], host: str) -> str:
    """Binds a free port of one address, never of all; returns where peers connect to."""
    where = f"tcp://[{host}]" if ":" in host else f"tcp://{host}"
    return f"{where}:{socket.bind_to_random_port(where)}"


class Server:
    """Answers messages of known types. `serve` runs in one thread; `stop` may come from any.

    A handler that returns None sends nothing. Its error is replied and the server lives on,
    unless ``fatal`` says that it leaves the handler's state in doubt: then `serve` raises it.
    Handlers in ``slow`` have a thread of their own, so that no other message waits for them; their
    errors are never fatal.

    Attributes:
        refused: messages dropped or refused because they were malformed or lacked the secret.
    """

    def __init__(
        self,
        host: str,
        secret: bytes,
        handlers: Mapping[type, Callable[[Any], object | None]],
        *,
        slow: Mapping[type, Callable[[Any], object | None]] | None = None,
        fatal: Callable[[Exception], bool] = lambda error: False,
    ) -> None:
        self._secret = secret
        self._handlers = {**handlers, **(slow or {})}
        self._slow = frozenset(slow or ())
        self._beside = Beside() if slow else None
        self._fatal = fatal
        self._stopped = threading.Event()
        self._socket = open_socket(zmq.ROUTER)
        self.address = bind(self._socket, host)
        self._readers: dict[Any, Callable[[], None]] = {self._socket: self._answer_one}
        if self._beside is not None:
            self._readers[self._beside.socket] = self._send_one
        self.refused = 0

    def also_read(self, socket: zmq.Socket[Any], reader: Callable[[], None]) -> None:
        """Owns ``socket`` too: calls ``reader`` in the serving thread when it can be read."""
        self._readers[socket] = reader

    def serve(self) -> None:
        """Answers until `stop`; then closes its sockets."""
        poller = zmq.Poller()
        for socket in self._readers:
            poller.register(socket, zmq.POLLIN)
        if self._beside is not None:
            self._beside.start()
        try:
            while not self._stopped.is_set():
                for socket, _ in poller.poll(STOP_POLL_MS):
                    self._readers[socket]()
        finally:
            if self._beside is not None:
                self._beside.stop()
            for socket in self._readers:
                socket.close()

    def stop(self) -> None:
        """Ends `serve` within `STOP_POLL_MS`, or when the running handler is done."""
        self._stopped.set()

    def _answer_one(self) -> None:
        frames = self._socket.recv_multipart()
        if len(frames) != 4 or len(frames[2]) != 8 or not admits(self._secret, frames[1]):
            self.refused += 1
            return
        peer, _, number, body = frames
        head = [peer, self._secret, number]
        reply, error = attempt(partial(self._handle, head, body))
        if reply is not None:
            self._socket.send_multipart([*head, reply])
        if error is not None and self._fatal(error):
            raise error

    def _send_one(self) -> None:
        if self._beside is not None:
            self._socket.send_multipart(self._beside.socket.recv_multipart())

    def _handle(self, head: list[bytes], body: bytes) -> object | None:
        try:
            message = decode(body)
            handler = self._handlers[type(message)]
        except (WireError, KeyError) as error:
            self.refused += 1
            raise WireError(f"not expected here: {error}") from error
        if self._beside is None or type(message) not in self._slow:
            return handler(message)
        self._beside.take(head, lambda: attempt(partial(handler, message))[0])
        return None


class Client:
    """One connection to a `Server`; belongs to one thread.

    A broken connection is final: what stood behind it is re-created at another address.

    Attributes:
        late: answers that came when nobody held their `Call` any more.
    """

    def __init__(self, address: str, secret: bytes) -> None:
        self.address = address
        self.late = 0
        self._secret = secret
        self._numbers = count(1)
        self._calls: WeakValueDictionary[bytes, Call[Any]] = WeakValueDictionary()
        self._gone = ""
        self._socket = open_socket(zmq.DEALER)
        self._socket.reconnect_ivl = -1
        self._monitor = self._socket.get_monitor_socket(CONNECTION_ENDS)
        self._socket.connect(address)

    def call(self, message: object, answer: type[A]) -> Call[A]:
        """Sends a request that will be answered with an ``answer``. Never blocks.

        Raises:
            StageUnavailable: the connection is gone, or a thousand requests are unsent.
            WireError: the message cannot cross.
        """
        return self.send(encode(message), answer)

    def send(self, body: bytes | bytearray, answer: type[A]) -> Call[A]:
        """`call` for a message that is encoded already, because several peers get it."""
        take_in([self], 0)
        self.check()
        call = Call(self, answer)
        number = next(self._numbers).to_bytes(8, "little")
        try:
            self._socket.send_multipart([self._secret, number, body], zmq.NOBLOCK)
        except zmq.Again as error:
            raise StageUnavailable(f"{self.address} takes no more requests") from error
        self._calls[number] = call
        return call

    @property
    def gone(self) -> bool:
        """Whether no answer can come any more, as far as has been taken in."""
        return bool(self._gone)

    def check(self) -> None:
        """Raises `StageUnavailable` if it is `gone`."""
        if self._gone:
            raise StageUnavailable(f"{self.address}: {self._gone}")

    def close(self) -> None:
        """Answers still on their way are lost."""
        if not self._socket.closed:
            self._gone = "closed"
            self._socket.disable_monitor()
            self._monitor.close()
            self._socket.close()

    @property
    def sockets(self) -> list[zmq.Socket[Any]]:
        """What to poll; nothing once the client is closed."""
        return [] if self._gone else [self._socket, self._monitor]

    def read(self) -> None:
        """Takes in what is here, without waiting.

        The monitor is read first: when it tells of the end, every answer has arrived before.
        """
        if self._socket.closed:
            return
        if self._monitor.poll(0):
            self._gone = "the connection broke"
        while self._socket.poll(0):
            self._take(self._socket.recv_multipart())

    def _take(self, frames: list[bytes]) -> None:
        if len(frames) != 3 or not admits(self._secret, frames[0]):
            return
        call = self._calls.pop(frames[1], None)
        if call is None:
            self.late += 1
        else:
            call.settle(frames[2])


class Call(Generic[A]):
    """A `Pending` answer of a `Client`, to be waited for in the client's thread."""

    def __init__(self, client: Client, answer: type[A]) -> None:
        self.client = client
        self._answer = answer
        self._body: bytes | None = None

    def settle(self, body: bytes) -> None:
        """The answer is here."""
        self._body = body

    @property
    def settled(self) -> bool:
        """Whether `wait` would return or raise at once, as far as has been taken in."""
        return self._body is not None

    def wait(self, timeout_s: float) -> A:
        """See `rasd.stages.Pending`; an error of the handler is raised as it was there."""
        deadline = time.monotonic() + timeout_s
        while self._body is None:
            left = deadline - time.monotonic()
            take_in([self.client], left)
            if self._body is None:
                self.client.check()
                if left <= 0:
                    raise StageTimeout(f"{self.client.address}: no answer in {timeout_s:.3f} s")
        try:
            message = decode(self._body)
        except WireError as error:
            raise StageUnavailable(f"{self.client.address}: {error}") from error
        if isinstance(message, Failure):
            raise _error_of(message)
        if not isinstance(message, self._answer):
            raise StageUnavailable(f"{self.client.address}: answered {type(message).__name__}")
        return message


def take_in(clients: Sequence[Client], timeout_s: float) -> None:
    """Waits until there is news of any client, at most ``timeout_s``, and reads all of them."""
    if timeout_s > 0:
        poller = zmq.Poller()
        for client in clients:
            for socket in client.sockets:
                poller.register(socket, zmq.POLLIN)
        if poller.sockets:
            poller.poll(math.ceil(1000 * timeout_s))
    for client in clients:
        client.read()


def _error_of(failure: Failure) -> RasdError:
    kind = getattr(errors, failure.kind, None)
    if isinstance(kind, type) and issubclass(kind, RasdError):
        return kind(failure.message)
    return StageUnavailable(f"{failure.kind}: {failure.message}")
