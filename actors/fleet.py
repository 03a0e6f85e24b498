"""The shard actors of one application: created, adopted, watched, ended. Knows no corpora."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import ray
from ray.util import list_named_actors

from actors.cluster import CPU_SHARE, kill
from actors.shard import ShardActor, ShardSetting

_log = logging.getLogger(__name__)

NAMESPACE: Final = "rasd"
RETIRE_S: Final = 5.0
"""How long engines may still ask a shard that no table names any more."""

_ANSWER_S: Final = 10.0
_START_S: Final = 120.0
_MISSES: Final = 3


@dataclass(eq=False, slots=True)
class Shard:
    """A shard that runs."""

    actor: Any
    address: str
    misses: int = 0


class Fleet:
    """Shards in the order of their creation. Belongs to one event loop.

    Attributes:
        losses: shards that died or fell silent.
    """

    def __init__(
        self, prefix: str, setting: ShardSetting, secret: bytes, on_loss: Callable[[], None]
    ) -> None:
        self.members: list[Shard] = []
        self.losses = 0
        self._prefix = prefix
        self._setting = setting
        self._secret = secret
        self._on_loss = on_loss
        self._watches: set[asyncio.Task[None]] = set()
        self._retiring: list[Any] = []

    async def adopt(self) -> int:
        """Takes over what an earlier controller left. The newest version of a table it knew."""
        newest = 0
        for name in await asyncio.to_thread(_names, self._prefix):
            try:
                actor = await asyncio.to_thread(ray.get_actor, name, NAMESPACE)
                newest = max(newest, await self._enlist(actor, _ANSWER_S))
            except Exception as error:
                _log.warning("shard %s is not adopted: %r", name, error)
        return newest

    async def grow(self, count: int) -> None:
        """Creates shards until there are ``count``."""
        missing = count - len(self.members)
        await asyncio.gather(*(self._create() for _ in range(missing)))

    def retire(self, count: int) -> None:
        """Ends all but the first ``count``, a little later."""
        leaving, self.members = self.members[count:], self.members[:count]
        for shard in leaving:
            self._retiring.append(shard.actor)
            asyncio.get_running_loop().call_later(RETIRE_S, kill, shard.actor)

    async def renew(self) -> None:
        """Renews every lease; ends who has not answered three times."""
        await asyncio.gather(*(self._renew(shard) for shard in self.members))

    def close(self) -> None:
        """Ends all shards."""
        for watch in self._watches:
            watch.cancel()
        for actor in [*self._retiring, *(shard.actor for shard in self.members)]:
            kill(actor)
        self.members = []

    async def _create(self) -> None:
        # A name of its own: that of a shard that just died may still be taken.
        actor = (
            ray.remote(ShardActor)
            .options(
                name=f"{self._prefix}{secrets.token_hex(4)}",
                namespace=NAMESPACE,
                lifetime="detached",
                num_cpus=CPU_SHARE,
                max_restarts=0,
                scheduling_strategy="SPREAD",
            )
            .remote(self._setting, self._secret)
        )
        try:
            await self._enlist(actor, _START_S)
        except BaseException:
            kill(actor)
            raise

    async def _enlist(self, actor: Any, deadline_s: float) -> int:
        async with asyncio.timeout(deadline_s):
            address, version = await actor.renew.remote()
        shard = Shard(actor, address)
        self.members.append(shard)
        watch = asyncio.create_task(self._watch(shard))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)
        return int(version)

    async def _watch(self, shard: Shard) -> None:
        try:
            await shard.actor.run.remote()
        except Exception as error:
            reason = repr(error)[:200]
        else:
            reason = "its run ended"
        if shard in self.members:
            _log.warning("shard %s is lost: %s", shard.address, reason)
            self._lose(shard)

    async def _renew(self, shard: Shard) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                await shard.actor.renew.remote()
        except Exception:  # a death is seen by its watch; all else is silence
            shard.misses += 1
        else:
            shard.misses = 0
        if shard.misses >= _MISSES and shard in self.members:
            _log.warning("shard %s does not answer", shard.address)
            self._lose(shard)

    def _lose(self, shard: Shard) -> None:
        self.members.remove(shard)
        self.losses += 1
        kill(shard.actor)
        self._on_loss()


def _names(prefix: str) -> list[str]:
    ours = [a["name"] for a in list_named_actors(True) if a["namespace"] == NAMESPACE]
    return [name for name in ours if name.startswith(prefix)]
