"""Builds the Serve application from the ``args`` of a configuration file."""

from __future__ import annotations

import secrets
from typing import Any, Final

from ray import serve

from actors.cluster import CPU_SHARE
from actors.datastore import Datastore
from actors.replica import bundles
from actors.router import Router
from rasd.config import AppConfig, parse_config

SECRET_BYTES: Final = 32
HEALTH_S: Final = 2.0
"""How long the death of a replica's process may stay unseen by Serve."""

# Our own gate is exact and refuses with 429; Serve's limit only has to be out of its way.
_NO_LIMIT: Final = 100_000


def build(args: dict[str, Any]) -> serve.Application:
    """The application. Serve calls it once per version of the configuration.

    Raises:
        ConfigError: naming each wrong key.
    """
    config = parse_config(args)
    secret = secrets.token_bytes(SECRET_BYTES)
    datastore = datastore_of(config, secret) if config.datastore is not None else None
    router = serve.deployment(serve.ingress()(Router)).options(
        name="Router",
        num_replicas=1,
        ray_actor_options={"num_cpus": CPU_SHARE},
        placement_group_bundles=bundles(config),
        placement_group_strategy="PACK",
        max_ongoing_requests=_NO_LIMIT,
        health_check_period_s=HEALTH_S,
        max_constructor_retry_count=2,  # a wrong setting stays wrong
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=config.router.run_deadline_s,
    )
    return router.bind(config, secret, datastore)


def datastore_of(config: AppConfig, secret: bytes) -> serve.Application:
    """The datastore's deployment, with the process that controls it."""
    options = {
        "name": "Datastore",
        "num_replicas": 1,
        "ray_actor_options": {"num_cpus": CPU_SHARE},
        "max_ongoing_requests": _NO_LIMIT,
        "user_config": {"shards": 1, "replicas": 1},
        "health_check_period_s": HEALTH_S,
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": 10,
    }
    return serve.deployment(Datastore).options(**options).bind(config, secret)
