"""The nodes of the cluster, and which of them takes another shard."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Set
from typing import Final

import ray

from actors.cluster import CPU_SHARE

_log = logging.getLogger(__name__)

AVOID_S: Final = 30.0
"""How long a node gets no shard after one fell silent there, or could not be put there; each time
twice as long, until one runs there."""

_LONGEST_S: Final = 3600.0
_ANSWER_S: Final = 5.0


class Nodes:
    """What is known of the nodes. Belongs to one event loop; Ray may be slow to notice a death."""

    def __init__(self) -> None:
        self._alive: dict[str, float] = {}
        self._avoided: dict[str, tuple[float, float]] = {}  # until when, and for how long

    @property
    def free(self) -> dict[str, float]:
        """Nodes that can be given a shard, and their CPUs."""
        now = time.monotonic()
        return {
            node: cpus
            for node, cpus in self._alive.items()
            if node not in self._avoided or self._avoided[node][0] <= now
        }

    async def refresh(self) -> bool:
        """Asks Ray. Whether nodes came or went; no answer in time is no change."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                alive = await asyncio.to_thread(_alive)
        except Exception as error:
            _log.warning("the nodes are not known: %r", error)
            return False
        changed, self._alive = alive != self._alive, alive
        return changed

    def is_gone(self, node: str) -> bool:
        """Whether Ray knows that a node is no more."""
        return bool(self._alive) and node not in self._alive

    def avoid(self, node: str) -> None:
        """Puts nothing there for a while, unless there is no other."""
        _, before = self._avoided.get(node, (0.0, AVOID_S / 2))
        span = min(2 * before, _LONGEST_S)
        self._avoided[node] = time.monotonic() + span, span

    def trust(self, node: str) -> None:
        """A shard runs there."""
        self._avoided.pop(node, None)

    def choose(self, taken: Set[str], crowd: Mapping[str, int]) -> str | None:
        """The node for one more shard of a slot; None leaves it to Ray.

        Args:
            taken: nodes that hold the slot already.
            crowd: shards of any slot, per node.
        """
        return choose(self.free or self._alive, taken, crowd)


def choose(nodes: Mapping[str, float], taken: Set[str], crowd: Mapping[str, int]) -> str | None:
    """A node without a replica of the slot if there is one; of those, the one that will have the
    fewest shards per CPU.
    """

    def burden(node: str) -> tuple[bool, float, str]:
        return node in taken, (crowd.get(node, 0) + 1) / nodes[node], node

    return min(nodes, key=burden, default=None)


def _alive() -> dict[str, float]:
    """CPUs of the nodes that have enough for a shard."""
    cpus = {
        str(node["NodeID"]): float(node["Resources"].get("CPU", 0))
        for node in ray.nodes()
        if node["Alive"]
    }
    return {node: number for node, number in cpus.items() if number >= CPU_SHARE}
