"""A datastore that runs on a cluster, and what tests do with it."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.catalog import RemoteDatastore
from rasd.config import AppConfig
from rasd.datastore import DatastoreStatus
from rasd.errors import ServerError
from rasd.text import load_tokenizer
from tests.actors.askers import Client, Tables
from tests.actors.clusters import ray_alone
from tests.actors.datastore_app import SECRET
from tests.actors.history import SETTINGS
from tests.service.running import free_port, processes, until

APPLICATION = "store"
SEEDED = [{"id": f"seed-{i}", "text": f"Document {i} of those that were there."} for i in range(40)]


class Service:
    """A datastore of its own application."""

    def __init__(self, root: Path, **store: Any) -> None:
        from ray import serve

        self.root = root
        self._scale = {"shards": 1, "replicas": 1}
        self._args = {
            "datastore": {"root": str(root), "corpora": [], **store},
            "retrieval": SETTINGS.model_dump(),
        }
        self._vocabulary = len(load_tokenizer(AppConfig().target.model))
        self.deploy()
        self.handle = serve.get_deployment_handle("Datastore", APPLICATION)
        self.remote = RemoteDatastore(self.handle)
        self.tables = Tables(self.handle)

    def deploy(self, shards: int | None = None, replicas: int | None = None) -> None:
        """As an operator does; the same configuration again if nothing is given."""
        from ray import serve
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        self._scale["shards"] = shards or self._scale["shards"]
        self._scale["replicas"] = replicas or self._scale["replicas"]
        application = {
            "name": APPLICATION,
            "route_prefix": None,
            "import_path": "tests.actors.datastore_app:build",
            "args": self._args,
            "deployments": [{"name": "Datastore", "user_config": dict(self._scale)}],
        }
        schema = ServeDeploySchema.model_validate({"applications": [copy.deepcopy(application)]})
        _get_global_client().deploy_apps(schema)

        def deployed() -> bool:
            status = serve.status().applications[APPLICATION]
            assert status.status != "DEPLOY_FAILED", status.message
            return bool(status.status == "RUNNING")

        until(deployed, "deployed")

    def client(self) -> Client:
        """Asks shards as an engine does."""
        return Client(self.tables, SECRET, self._vocabulary)

    def ask(self, method: str, *args: Any) -> Any:
        """Calls a method of the datastore."""
        return asyncio.run(getattr(self.remote, method)(*args))

    def insist(self, method: str, *args: Any) -> Any:
        """As `ask`; as often as the datastore says that the call may be repeated."""

        def attempt() -> tuple[Any] | None:
            try:
                return (self.ask(method, *args),)
            except ServerError:
                return None

        return until(attempt, method)[0]

    def settled(self, shards: int, replicas: int) -> DatastoreStatus:
        """Waits until everything is as it should be; its status."""

        def there() -> DatastoreStatus | None:
            try:
                status: DatastoreStatus = self.ask("status")
            except ServerError:
                return None
            whole = len(status.shards) == shards * replicas and not status.moving
            caught_up = self.tables.newest.version == status.version
            return status if whole and caught_up else None

        return until(there, f"{shards} shards, {replicas} replicas")

    def kill(self, kind: str, number: int = 0) -> int:
        """Kills a process; returns when it is gone."""
        pid = processes(kind)[number]
        os.kill(pid, signal.SIGKILL)
        until(lambda: pid not in processes(kind), "death", 10)
        return pid

    def close(self) -> None:
        self.tables.close()


def write_seeds(path: Path) -> None:
    """A source of documents."""
    path.write_text("\n".join(json.dumps(each) for each in SEEDED))


@contextmanager
def datastore(cpus: int = 4, **store: Any) -> Iterator[Service]:
    """A datastore on a cluster of one node."""
    from ray import serve

    with ray_alone(cpus):
        place = Path(tempfile.mkdtemp(prefix="rasd-store-"))
        write_seeds(place / "seeds.jsonl")
        if "corpora" in store:
            store["corpora"] = [{"name": "seeded", "source": str(place / "seeds.jsonl")}]
        try:
            serve.start(http_options={"port": free_port()})
            service = Service(place / "root", **store)
            yield service
            service.close()
        finally:
            serve.shutdown()
            shutil.rmtree(place, ignore_errors=True)
