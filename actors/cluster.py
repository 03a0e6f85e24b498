"""The little that actors need to know of Ray: where they are, and how to start another one."""

from __future__ import annotations

import gc
import logging
import sys
from typing import Any, Final

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayTaskError
from ray.util import get_current_placement_group, get_node_ip_address
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

CPU_SHARE: Final = 0.1
"""What an actor asks of a node's CPUs. It says who may share a node, not how many threads run:
those are set by name in the configuration."""

# Enough for one call that lasts as long as the actor, one that asks whether it still answers,
# and those that change it.
_CALLS: Final = 8


def node_address() -> str:
    """The address of this node that other nodes can reach. Sockets bind it and no other."""
    return str(get_node_ip_address())


def start_actor(cls: type, *args: Any, bundle: int, gpus: float = 0.0, **options: Any) -> Any:
    """Creates an actor in a bundle of this actor's own placement group, if it has one.

    Ray never restarts it: its owner does, which sees the death at once.
    """
    group = get_current_placement_group()
    if group is not None:
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, bundle)
    remote = ray.remote(cls).options(
        num_cpus=CPU_SHARE, num_gpus=gpus, max_restarts=0, max_concurrency=_CALLS, **options
    )
    return remote.remote(*args)


def kill(actor: ActorHandle) -> None:
    """Ends an actor, however deep it sleeps; Ray sends SIGKILL to what does not go by itself."""
    try:
        ray.kill(actor, no_restart=True)
    except ray.exceptions.RayError:  # it is gone already
        return


def cause_of(error: BaseException) -> BaseException:
    """What was raised in the other process; an error of Ray's own as it is."""
    while isinstance(error, RayTaskError) and error.cause is not None:
        error = error.cause
    return error


def keep_loaded() -> None:
    """Spares what was loaded, hundreds of thousands of objects, from being looked at by every full
    collection of garbage: it takes 240 ms in a process with torch and a model."""
    gc.collect()
    gc.freeze()


def log_to_stderr() -> None:
    """Shows our log lines from INFO on, which Ray collects per process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("rasd", "actors"):
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False
