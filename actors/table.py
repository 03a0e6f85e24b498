"""Which shard processes hold what: told by the controller, followed by every engine.

The partitions of all corpora are dealt to *slots*; each slot is held by one or more processes,
its replicas, any of which answers for all of it. The controller makes the tables, shards load
them (`actors.shard`), engines ask by them (`actors.retrieve`). Plain values, pickled only by Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rasd.datastore import ShardInfo

Holdings = Mapping[str, tuple[int, ...]]
"""Partitions per corpus."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Some partitions, and where the processes listen that hold them all.

    ``version`` is that of the holdings, and what these processes are asked for (`ShardQuery`). It
    changes with the holdings alone: a replica that comes or goes needs nobody else to load
    anything, and a table may name different versions for different slots.

    A slot that nobody holds just now stays in the table without addresses: answers of queries
    that read from it are then partial, and not silently poorer.
    """

    holdings: Holdings
    addresses: tuple[str, ...] = ()
    version: int = 0


@dataclass(frozen=True, slots=True)
class ShardTable:
    """A deal of all partitions. Every partition is in one slot, an address in one at most.

    Versions only grow: that of the table with every change, that of a slot with its holdings. A
    table is published when all addresses of a slot have loaded the slot's version; shards go on
    answering for the versions before it, so engines may be behind.
    """

    version: int
    slots: tuple[Slot, ...] = ()

    @property
    def corpora(self) -> frozenset[str]:
        """The corpora there are."""
        return frozenset(name for slot in self.slots for name in slot.holdings)


@dataclass(frozen=True, slots=True)
class ShardLease:
    """A shard's answer to a renewal: where it listens, Ray's id of its node, what it has loaded.

    ``loaded`` are the holdings of each version it still answers for; empty before the first.
    A controller that adopts a shard learns here what it may go on serving.
    """

    address: str
    node: str
    loaded: dict[int, Holdings]

    @property
    def version(self) -> int:
        """The newest version loaded; 0 if there is none."""
        return max(self.loaded, default=0)


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """What one shard process says of itself. Numbers are those of `rasd.datastore.ShardInfo`.

    ``damaged``: per corpus the files refused here, and why.
    """

    address: str
    node: str
    partitions: int
    tokens: int
    resident_bytes: int
    queries: int
    queries_per_s: float
    p50_ms: float
    p99_ms: float
    lag_s: float
    damaged: dict[str, dict[str, str]] = field(default_factory=dict)

    def info(self, slot: int, replica: int) -> ShardInfo:
        """The same for the status page; which replica of which slot it is, its table says."""
        return ShardInfo(
            slot=slot,
            replica=replica,
            address=self.address,
            node=self.node,
            partitions=self.partitions,
            tokens=self.tokens,
            resident_bytes=self.resident_bytes,
            queries=self.queries,
            queries_per_s=self.queries_per_s,
            p50_ms=self.p50_ms,
            p99_ms=self.p99_ms,
            lag_s=self.lag_s,
        )
