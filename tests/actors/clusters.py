"""Ray clusters of a test module's own: nothing joins another one, nothing is left behind."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def ray_alone(cpus: int = 4) -> Iterator[None]:
    """One node."""
    # In the environment, so that no token is read from or written to the user's files. Ray reads
    # it once per process, so it stays the same.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    place = Path(tempfile.mkdtemp(prefix="rasd-"))
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        object_store_memory=128 * 2**20,
        log_to_driver=bool(os.environ.get("RASD_TEST_LOGS")),
        _temp_dir=str(place),
    )
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(place, ignore_errors=True)
