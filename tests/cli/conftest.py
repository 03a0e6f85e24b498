"""A service over a datastore in memory, behind a real server in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from click.testing import Result
from typer.testing import CliRunner

from rasd.cli import app
from rasd.datastore import Datastore
from tests.api.fakes import make_site
from tests.api.stores import FakeDatastore


@dataclass
class Place:
    """A running service, and the command that talks to it."""

    url: str
    store: FakeDatastore
    notes: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, input: str | bytes | None = None) -> Result:
        """`rasd datastore ...`; the output is what a terminal of 160 columns shows."""
        made = ["datastore", *arguments]
        if arguments[0] == "add":
            made += ["--notes", str(self.notes)]
        environment = {"RASD_URL": self.url, "COLUMNS": "160", **self.environment}
        return CliRunner().invoke(app, made, input=input, env=environment)

    def asked(self, name: str) -> list[Any]:
        """Arguments of the calls of a name that reached the datastore."""
        return [arguments for called, arguments in self.store.calls if called == name]


@contextmanager
def served(store: Datastore, **config: Any) -> Iterator[str]:
    """A site over a datastore, on a free loopback port; gives its address."""
    site = make_site(datastore=store, **config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(site.app, log_level="critical", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            # Until it serves, connections wait in the socket that listens already.
            listener.listen()
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join(10)
            site.service.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    store = FakeDatastore()
    with served(store) as url:
        yield Place(url, store, tmp_path / "notes")
