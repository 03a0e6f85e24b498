"""Servers in threads, for tests that need no process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from actors.rpc import Server

SECRET = b"s" * 32
HOST = "127.0.0.1"


@contextmanager
def served(*servers: Server) -> Iterator[None]:
    """Serves until the end of the block; then every thread must end."""
    with ExitStack() as stack:
        for server in servers:
            thread = threading.Thread(target=server.serve, daemon=True)
            thread.start()
            stack.callback(_end, server, thread)
        yield


def _end(server: Server, thread: threading.Thread) -> None:
    server.stop()
    thread.join(10)
    assert not thread.is_alive()
