"""The way of features from the target to the drafter, past the engine.

One way, never blocking, and lossy: a drafter that misses rows starts cold at the next ones.
"""

from __future__ import annotations

import math
from typing import Final

import zmq

from actors.rpc import bind, open_socket
from actors.wire import admits, decode, encode
from rasd.errors import WireError
from rasd.stages import Features, FeatureSink

# Messages held on either side; one holds the rows of a sequence in one step.
_QUEUE: Final = 128
_PART_BYTES: Final = 2**23


class FeatureSender:
    """A `FeatureSink` that sends to the drafter of the moment. `put` belongs to one thread.

    Attributes:
        dropped: features that no drafter took.
    """

    def __init__(self, secret: bytes) -> None:
        self.dropped = 0
        self._secret = secret
        self._wanted: str | None = None
        self._address: str | None = None
        self._socket: zmq.Socket[bytes] | None = None

    def point_to(self, address: str | None) -> None:
        """From now on features go there; to nobody if it is None. Any thread may call."""
        self._wanted = address

    def put(self, features: Features) -> None:
        """Sends, or drops if the drafter is gone or behind."""
        if self._wanted != self._address:
            self._connect(self._wanted)
        for part in _parts(features):
            try:
                if self._socket is None:
                    raise zmq.Again
                self._socket.send_multipart([self._secret, encode(part)], zmq.NOBLOCK)
            except (zmq.Again, WireError):
                self.dropped += 1

    def close(self) -> None:
        """Drops what is not sent yet."""
        self._connect(None)

    def _connect(self, address: str | None) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._address = address
        if address is not None:
            self._socket = open_socket(zmq.PUSH)
            self._socket.sndhwm = _QUEUE
            self._socket.reconnect_ivl = -1
            self._socket.connect(address)


def _parts(features: Features) -> list[Features]:
    """The same rows in messages far below the size limit: a prompt's may be many and wide."""
    rows = features.rows
    count = max(1, _PART_BYTES // max(rows[:1].nbytes, 1))
    return [
        Features(features.sequence, features.start + at, rows[at : at + count])
        for at in range(0, len(rows), count)
    ]


class FeatureReceiver:
    """Where features arrive. Belongs to one thread.

    Attributes:
        refused: messages that were malformed or lacked the secret.
    """

    def __init__(self, host: str, secret: bytes) -> None:
        self.refused = 0
        self._secret = secret
        self.socket = open_socket(zmq.PULL)
        self.socket.rcvhwm = _QUEUE
        self.address = bind(self.socket, host)

    def drain(self, sink: FeatureSink, timeout_s: float = 0.0) -> None:
        """Hands over what is here; waits for the first message at most ``timeout_s``."""
        self.socket.poll(math.ceil(1000 * timeout_s))
        while self.socket.poll(0):
            frames = self.socket.recv_multipart()
            try:
                if len(frames) != 2 or not admits(self._secret, frames[0]):
                    raise WireError("a message lacks the secret")
                features = decode(frames[1])
                if not isinstance(features, Features):
                    raise WireError(f"{type(features).__name__} is not expected here")
            except WireError:
                self.refused += 1
            else:
                sink.put(features)

    def close(self) -> None:
        """What has not been read is lost."""
        self.socket.close()
