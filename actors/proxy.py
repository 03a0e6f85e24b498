"""What must be known of Serve's HTTP proxy to say who is local."""

from __future__ import annotations

import asyncio
from typing import Final

from ray.serve import context
from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY

from rasd.api.auth import is_loopback
from rasd.config import RouterConfig
from rasd.errors import ConfigError

_ANY: Final = "0.0.0.0"  # noqa: S104 - what Serve means by no host at all


def bound_host() -> str:
    """The address Serve's HTTP proxies listen on."""
    # Serve has no public way to ask; `ray.serve.status` leaves it out.
    return context._get_global_client().http_config.host or _ANY


def proxy_host() -> str | None:
    """For `rasd.api.auth.is_local`: the proxy's address, if it hides those of its clients.

    Serve's own proxy passes the client's address on; HAProxy shows its own.
    """
    return bound_host() if RAY_SERVE_ENABLE_HA_PROXY else None


async def check_proxy(config: RouterConfig) -> None:
    """Without keys, only this machine may reach us.

    Raises:
        ConfigError: no keys are set, and the proxy listens to others.
    """
    host = await asyncio.to_thread(bound_host)
    if not config.api_keys and not is_loopback(host):
        raise ConfigError(
            "router.api_keys must not be empty where http_options.host is not a loopback "
            f"address; got host {host!r}"
        )
