"""The shard actors of one application: created, adopted, watched, ended. Deals nothing.

Every shard is attended on its own: one that starts, loads or keeps silent holds up no other.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import ray
from ray.exceptions import ActorDiedError
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.cluster import CPU_SHARE, kill
from actors.nodes import Nodes
from actors.shard import ShardActor, ShardSetting
from actors.table import Holdings, ShardLease

_log = logging.getLogger(__name__)

NAMESPACE: Final = "rasd"
RETIRE_S: Final = 5.0
"""How long engines may still ask a shard that no table names any more."""
SILENCE_S: Final = 10.0
"""A shard that does not answer its controller for so long is killed and replaced."""

_RENEW_S: Final = 1.0
_PROBE_S: Final = 0.5
_ADOPT_S: Final = 2.0
_START_S: Final = 120.0
_LOAD_S: Final = 600.0
_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0


@dataclass(eq=False, slots=True)
class Shard:
    """A shard that runs. ``wanted`` is what it has to load, ``loaded`` what it has, by version."""

    actor: Any
    slot: int
    address: str
    node: str
    loaded: dict[int, Holdings]
    wanted: dict[int, Holdings] = field(default_factory=dict)
    loading: bool = False


class Fleet:
    """Shards in the order of their creation. Belongs to one event loop.

    Attributes:
        setting: of new shards; those that are adopted tell it to who has none yet.
        starting: per slot, shards on their way.
        losses: shards that died or fell silent.
        on_change: called when a shard joined, has loaded or is lost, or did not start.
    """

    def __init__(self, prefix: str, secret: bytes, setting: ShardSetting | None = None) -> None:
        self.setting = setting
        self.members: list[Shard] = []
        self.starting: Counter[int] = Counter()
        self.losses = 0
        self.on_change: Callable[[], None] = _nothing
        self.nodes = Nodes()
        self._prefix = prefix
        self._secret = secret
        self._aims: Counter[tuple[int, str]] = Counter()  # slots and nodes of shards on their way
        self._pauses: dict[int, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._others: set[Any] = set()  # actors that start, and those that retire

    async def adopt(self) -> int:
        """Takes over what an earlier controller left. The newest version that a shard knows.

        Those that are slow to answer join later, or are killed.

        Raises:
            TimeoutError: Ray does not say what there is.
        """
        await self.nodes.refresh()
        async with asyncio.timeout(SILENCE_S):
            names = await asyncio.to_thread(_names, self._prefix)
        adoptions = [self._spawn(self._adopt(name)) for name in names]
        if adoptions:
            await asyncio.wait(adoptions, timeout=_ADOPT_S)
        return max((max(shard.loaded, default=0) for shard in self.members), default=0)

    def start(self, slot: int) -> None:
        """Creates a shard of a slot, apart from the others of that slot; it joins when it runs."""
        self.starting[slot] += 1
        self._spawn(self._start(slot))

    def hold(self, shard: Shard, wanted: dict[int, Holdings]) -> None:
        """Lets a shard load what it lacks, in this order, and keep the versions it has."""
        shard.wanted = wanted
        if not shard.loading and wanted.keys() - shard.loaded.keys():
            shard.loading = True
            self._spawn(self._load(shard))

    def retire(self, shard: Shard) -> None:
        """Ends a shard, a little later."""
        self.members.remove(shard)
        self._others.add(shard.actor)
        asyncio.get_running_loop().call_later(RETIRE_S, self._end, shard.actor)

    def crowded(self, slot: int) -> bool:
        """Whether two shards of a slot share a node while another node has none of it."""
        nodes = [shard.node for shard in self.members if shard.slot == slot]
        return len(set(nodes)) < len(nodes) and bool(self.nodes.free.keys() - set(nodes))

    def check_nodes(self) -> None:
        """Gives up the shards of nodes that Ray knows to be gone."""
        for shard in list(self.members):
            if self.nodes.is_gone(shard.node):
                self._lose(shard, "its node is gone")

    def close(self) -> None:
        """Ends all shards."""
        for task in self._tasks:
            task.cancel()
        for actor in [*self._others, *(shard.actor for shard in self.members)]:
            kill(actor)
        self.members = []

    # --- starting ---------------------------------------------------------------------------

    async def _start(self, slot: int) -> None:
        there = Counter((shard.slot, shard.node) for shard in self.members) + self._aims
        taken = {node for its, node in there if its == slot}
        node = self.nodes.choose(taken, Counter(node for _, node in there.elements()))
        if node is not None:
            self._aims[slot, node] += 1
        try:
            shard = await self._create(slot, node)
        except Exception as error:
            pause_s = self._pauses.get(slot, _PAUSE_S)
            self._pauses[slot] = min(2 * pause_s, _LONGEST_PAUSE_S)
            _log.warning("a shard of slot %d did not start: %r", slot, error)
            await asyncio.sleep(pause_s)
        else:
            self._pauses.pop(slot, None)
            self.nodes.trust(shard.node)
            if node is not None and shard.node != node:
                self.nodes.avoid(node)  # it did not fit there
        finally:
            self.starting[slot] -= 1
            if node is not None:
                self._aims[slot, node] -= 1
            self.on_change()

    async def _create(self, slot: int, node: str | None) -> Shard:
        where = "SPREAD" if node is None else NodeAffinitySchedulingStrategy(node, soft=True)
        # A name of its own: that of a shard that just died may still be taken.
        actor = (
            ray.remote(ShardActor)
            .options(
                name=f"{self._prefix}{slot}-{secrets.token_hex(4)}",
                namespace=NAMESPACE,
                lifetime="detached",
                num_cpus=CPU_SHARE,
                max_restarts=0,
                scheduling_strategy=where,
            )
            .remote(self.setting, self._secret)
        )
        self._others.add(actor)
        lease = asyncio.ensure_future(_renewed(actor))
        deadline = time.monotonic() + _START_S
        known = self.nodes.free.keys()
        try:
            while not (await asyncio.wait([lease], timeout=_PROBE_S))[0]:
                if node is not None and self.nodes.is_gone(node):
                    raise RuntimeError(f"node {node} went away")
                if self.nodes.free.keys() - known:  # Ray might go on waiting for the old ones
                    raise RuntimeError("a node has come that may suit better")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no answer in {_START_S:g} s")
            return self._enlist(actor, slot, lease.result())
        except BaseException:
            lease.cancel()
            kill(actor)
            raise
        finally:
            self._others.discard(actor)

    async def _adopt(self, name: str) -> None:
        slot = int(name.removeprefix(self._prefix).partition("-")[0])
        try:
            actor = await asyncio.to_thread(ray.get_actor, name, NAMESPACE)
        except ValueError:  # it died just now
            return
        try:
            async with asyncio.timeout(SILENCE_S):
                lease = await _renewed(actor)
                self.setting = self.setting or await actor.setting.remote()
        except Exception as error:
            _log.warning("shard %s is not adopted: %r", name, error)
            kill(actor)
        else:
            self._enlist(actor, slot, lease)
            self.on_change()

    def _enlist(self, actor: Any, slot: int, lease: ShardLease) -> Shard:
        shard = Shard(actor, slot, lease.address, lease.node, dict(lease.loaded))
        self.members.append(shard)
        self._spawn(self._attend(shard))
        self._spawn(self._watch(shard))
        return shard

    # --- running ----------------------------------------------------------------------------

    async def _load(self, shard: Shard) -> None:
        try:
            while missing := [v for v in shard.wanted if v not in shard.loaded]:
                version, wanted = missing[0], shard.wanted
                async with asyncio.timeout(_LOAD_S):
                    keep = tuple(wanted.keys() - {version})
                    await shard.actor.load.remote(version, wanted[version], keep)
                shard.loaded[version] = wanted[version]
                self.on_change()
        except Exception as error:
            _log.warning("shard %s did not load: %r", shard.address, error)
            await asyncio.sleep(_PAUSE_S)
        finally:
            shard.loading = False
            self.on_change()

    async def _attend(self, shard: Shard) -> None:
        """Renews the lease of a shard until it is silent or gone."""
        clock = asyncio.get_running_loop().time
        heard = clock()
        while shard in self.members:
            try:
                async with asyncio.timeout_at(heard + SILENCE_S):
                    await _renewed(shard.actor)
            except ActorDiedError as error:
                self._lose(shard, repr(error)[:200])
            except Exception as error:
                if clock() - heard >= SILENCE_S:
                    self.nodes.avoid(shard.node)
                    self._lose(shard, f"no answer for {SILENCE_S:g} s: {error!r}")
            else:
                heard = clock()
            await asyncio.sleep(_RENEW_S)

    async def _watch(self, shard: Shard) -> None:
        """Sees a death at once: a call is outstanding for as long as the shard lives."""
        while shard in self.members:
            try:
                await shard.actor.run.remote()
            except ActorDiedError as error:
                self._lose(shard, repr(error)[:200])
            except Exception as error:  # maybe it cannot be reached only; `_attend` decides
                _log.warning("shard %s: %r", shard.address, error)
                await asyncio.sleep(_PROBE_S)
            else:
                self._lose(shard, "its run ended")

    def _lose(self, shard: Shard, reason: str) -> None:
        if shard in self.members:
            _log.warning("shard %s of slot %d is lost: %s", shard.address, shard.slot, reason)
            self.members.remove(shard)
            self.losses += 1
            kill(shard.actor)
            self.on_change()

    def _end(self, actor: Any) -> None:
        self._others.discard(actor)
        kill(actor)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _renewed(actor: Any) -> ShardLease:
    lease: ShardLease = await actor.renew.remote()
    return lease


def _nothing() -> None:
    """Nobody has to know."""


def _names(prefix: str) -> list[str]:
    ours = [a["name"] for a in list_named_actors(True) if a["namespace"] == NAMESPACE]
    return [name for name in ours if name.startswith(prefix)]
