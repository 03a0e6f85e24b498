"""The shipped configuration on a cluster of its own: over HTTP, handles, and its processes."""

from __future__ import annotations

import copy
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from deploy.serve import environment, haproxy

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 240.0  # machines that build things are busy

PROMPTS = (
    "import os\nimport sys\n\n\ndef main(",
    "class Node:\n    def __init__(self, value):\n",
    "def read(path):\n    with open(path) as file:\n",
    "for i in range(10):\n    print(",
)


def until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Waits until ``condition`` gives something true, and gives that."""
    deadline = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {patience_s:g} s"
        time.sleep(0.02)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes(name: str) -> list[int]:
    """Actors of a kind below this process, oldest first, as the system sees them."""
    return descendants(rf"^ray::(ServeReplica:\w+:)?{name}\b")


def descendants(title: str) -> list[int]:
    """Processes below this one, oldest first, in whose command line the pattern stands."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        try:
            stat = (entry / "stat").read_text() if entry.name.isdigit() else ""
        except OSError:
            continue
        if stat and stat.rpartition(")")[2].split()[0] != "Z":
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    return sorted(pid for pid in parents if _is_ours(pid, parents) and _is_called(pid, title))


def _is_ours(pid: int, parents: dict[int, int]) -> bool:
    while pid > 1:
        pid = parents.get(pid, 0)
        if pid == os.getpid():
            return True
    return False


def _is_called(pid: int, title: str) -> bool:
    try:
        return re.search(title, Path(f"/proc/{pid}/cmdline").read_text()) is not None
    except OSError:
        return False


class Service:
    """An application that runs."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.url = f"http://127.0.0.1:{config['http_options']['port']}"

    def deploy(self) -> None:
        """Makes the cluster follow ``config``; returns when it does."""
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        schema = ServeDeploySchema.model_validate(copy.deepcopy(self.config))
        _get_global_client().deploy_apps(schema)
        until(self._is_ready, "ready")

    def _is_ready(self) -> bool:
        from ray import serve

        application = serve.status().applications.get("rasd")
        assert application is None or application.status != "DEPLOY_FAILED", application.message
        return self.status("/ready") == 200

    def set_shards(self, count: int) -> None:
        """Changes the datastore's user_config, as an operator does."""
        (datastore,) = (
            d for d in self.config["applications"][0]["deployments"] if d["name"] == "Datastore"
        )
        datastore["user_config"]["shards"] = count
        self.deploy()

    def scale(self, shards: int, replicas: int) -> Any:
        """Asks over HTTP for another number of shards; the datastore's status."""
        body = json.dumps({"shards": shards, "replicas": replicas}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(
            f"{self.url}/v1/datastore/scale", body, headers, method="PUT"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def status(self, path: str) -> int:
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def metric(self, name: str, label: str = "") -> float:
        """A metric; ``label`` is its second one, as in ``stage="target"``."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=10) as answer:
            text = answer.read().decode()
        labels = f'model_name="rasd",{label}' if label else 'model_name="rasd"'
        (value,) = re.findall(rf"^rasd:{name}{{{labels}}} (\S+)$", text, re.MULTILINE)
        return float(value)

    @property
    def handle(self) -> Any:
        from ray import serve

        return serve.get_app_handle("rasd")

    def generate(self, prompt: str, **params: Any) -> Any:
        """Through the Python handle, to the end."""
        return self.handle.generate.remote(prompt, **params).result(timeout_s=PATIENCE_S)

    def stream(self, prompt: str, **params: Any) -> Any:
        """Through the Python handle, an iterator of pieces that can be cancelled."""
        return self.handle.options(stream=True).stream.remote(prompt, **params)


def write_corpus(path: Path) -> None:
    """Our own code as documents."""
    files = sorted((ROOT / "rasd").rglob("*.py"))
    lines = [
        json.dumps({"id": str(file.relative_to(ROOT)), "text": file.read_text()}) for file in files
    ]
    path.write_text("\n".join(lines))


def shipped_config(place: Path, **changes: Any) -> dict[str, Any]:
    """deploy/config.yaml, with float32 models, a small corpus and a port of its own."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "config.yaml").read_text())
    config["http_options"]["port"] = free_port()
    args = config["applications"][0]["args"]
    args["target"]["dtype"] = args["drafter"]["dtype"] = "float32"
    args["speculation"]["budget"] = "fixed"  # every source is used, whether it pays here or not
    args["datastore"]["root"] = str(place / "datastore")
    args["datastore"]["corpora"] = [{"name": "house", "source": str(place / "house.jsonl")}]
    for section, values in changes.items():
        args[section].update(values)
    return config


@contextmanager
def as_made_to_serve() -> Iterator[None]:
    """Ray's settings as `make serve` has them, with HAProxy on ports of its own."""
    import ray.serve  # reads them now: this process is a client, and not on an event loop

    del ray
    before = dict(os.environ)
    ports = ("RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT")
    given = {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"}
    given |= {name: str(free_port()) for name in ports}
    os.environ.update(environment(given, haproxy()))
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def running(**changes: Any) -> Iterator[Service]:
    """The application on a cluster of its own, which is gone afterwards."""
    # In the environment, so that no token is read from or written to the user's files. A new
    # local cluster asks for it by itself. Ray reads it once per process, so it stays the same.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray
    from ray import serve

    place = Path(tempfile.mkdtemp(prefix="rasd-"))
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=128 * 2**20,
        log_to_driver=bool(os.environ.get("RASD_TEST_LOGS")),
        _temp_dir=str(place / "ray"),
    )
    try:
        write_corpus(place / "house.jsonl")
        config = shipped_config(place, **changes)
        serve.start(http_options=config["http_options"])
        service = Service(config)
        service.deploy()
        until(lambda: len(processes("ShardActor")) == 2, "shards")
        yield service
    finally:
        serve.shutdown()
        ray.shutdown()
        shutil.rmtree(place, ignore_errors=True)
