"""The settings of Ray under which the service starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import serve


def test_what_is_set_stays() -> None:
    given = {"RAY_SERVE_ENABLE_HA_PROXY": "0", "HOME": "/here"}
    found = serve.environment(given, "/usr/bin/haproxy")
    assert found.items() >= given.items()
    assert found["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == found["RAY_SERVE_HAPROXY_NBTHREAD"] == "1"


def test_without_haproxy_nothing_asks_for_it() -> None:
    found = serve.environment({}, None)
    assert found == serve.ALWAYS and not found.keys() & serve.WITH_HAPROXY.keys()


def test_ray_brings_haproxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_SERVE_HAPROXY_BINARY_PATH", raising=False)
    binary = serve.haproxy()
    assert binary is not None and os.access(binary, os.X_OK)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/nowhere/haproxy")
    assert serve.haproxy() is None


def test_it_becomes_serve_run() -> None:
    script = Path(sys.executable).with_name("serve")
    told = subprocess.run(
        [sys.executable, "-m", "deploy.serve", "--help"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert script.exists() and told.returncode == 0 and "serve run" in told.stdout
