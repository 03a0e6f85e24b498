"""The datastore's controller: makes corpora, deals their partitions to shards.

The directory of corpora is the only truth; shards map it and may die at any time. Engines ask
shards directly, by a table that is published here whenever somebody's holdings change.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from pathlib import Path
from typing import Annotated, Any, Final

import ray
from pydantic import Field, ValidationError

from actors.cluster import CPU_SHARE, log_to_stderr
from actors.corpora import make_corpus, until_made
from actors.fleet import Fleet
from actors.shard import Holdings, ShardEntry, ShardSetting, ShardTable
from rasd.config import AppConfig, CorpusConfig, DatastoreConfig, Section
from rasd.errors import ConfigError
from rasd.text import load_tokenizer, tokenizer_hash

_log = logging.getLogger(__name__)

LEASE_S: Final = 60.0
RENEW_S: Final = 5.0
LONG_POLL_S: Final = 2.0
"""Short, because Serve lets a call end before it asks us to go, even if its caller is gone."""
_RETRY_S: Final = 1.0
_LOAD_DEADLINE_S: Final = 600.0
_MAKE_DEADLINE_S: Final = 6 * 3600.0


class ShardCount(Section):
    """The deployment's ``user_config``: how many processes hold the partitions."""

    shards: Annotated[int, Field(ge=1, le=256)] = 1


def deal(partitions: dict[str, int], shards: int) -> list[Holdings]:
    """Partitions per shard: in turn, so that each holds about as much of every corpus."""
    return [
        {
            name: tuple(range(shard, count, shards))
            for name, count in sorted(partitions.items())
            if shard < count
        }
        for shard in range(shards)
    ]


class Datastore:
    """Serve deployment of one replica. Nothing waits for it: without it, text comes slower.

    Raises:
        ConfigError: there is no datastore to control.
    """

    async def __init__(self, config: AppConfig, secret: bytes) -> None:  # type: ignore[misc]
        log_to_stderr()
        if config.datastore is None:
            raise ConfigError("datastore must be set; got null")
        self._config = config
        self._store: DatastoreConfig = config.datastore
        self._count: int | None = None  # until Serve calls `reconfigure`
        self._partitions: dict[str, int] = {}
        self._table = ShardTable(0)
        self._published = asyncio.Event()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._fleet: Fleet | None = None
        setting = await asyncio.to_thread(_shard_setting, config, self._store)
        fleet = self._fleet = Fleet(_prefix(secret), setting, secret, self._wake.set)
        # Above what shards hold, and above what engines know of shards that are gone.
        self._version = max(await fleet.adopt(), int(time.time()))
        self._tasks = [
            asyncio.create_task(self._make_corpora()),
            asyncio.create_task(self._control(fleet)),
            asyncio.create_task(_renew(fleet)),
        ]

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Changes the number of shards; partitions move, nothing is rebuilt.

        Raises:
            ConfigError: naming each wrong key.
        """
        try:
            self._count = ShardCount.model_validate(user_config).shards
        except ValidationError as error:
            raise ConfigError(f"user_config of Datastore: {error}") from error
        self._wake.set()

    async def table(self, known: int) -> ShardTable | None:
        """The newest table, or None if for `LONG_POLL_S` there is none but the ``known`` one.

        A controller that was just started has none: what engines know is better than nothing.
        """
        if self._table.version in (0, known):
            try:
                async with asyncio.timeout(LONG_POLL_S):
                    await self._published.wait()
            except TimeoutError:
                pass
        return None if self._table.version in (0, known) else self._table

    async def check_health(self) -> None:
        """Serve calls this. Raises if nobody looks after the shards."""
        for task in self._tasks:
            if task.done() and task.exception() is not None:
                raise RuntimeError("the datastore's controller stopped") from task.exception()

    async def __del__(self) -> None:
        """Serve calls this when nothing runs any more; maybe before we are complete."""
        for task in self._tasks:
            task.cancel()
        if self._fleet is not None:
            self._fleet.close()

    # --- inside -----------------------------------------------------------------------------

    async def _make_corpora(self) -> None:
        await asyncio.gather(*(self._make(corpus) for corpus in self._store.corpora))

    async def _make(self, corpus: CorpusConfig) -> None:
        make = ray.remote(make_corpus).options(num_cpus=CPU_SHARE, max_retries=3)

        async def attempt() -> int:
            made = make.remote(self._config.target, self._store, corpus)
            try:
                async with asyncio.timeout(_MAKE_DEADLINE_S):
                    return int(await made)
            except TimeoutError:
                ray.cancel(made, force=True)  # it holds the lock
                raise

        self._partitions[corpus.name] = await until_made(corpus.name, attempt)
        self._wake.set()

    async def _control(self, fleet: Fleet) -> None:
        while True:
            try:
                await self._reconcile(fleet)
            except Exception:
                _log.exception("the shards are not as they should be; tried again soon")
                await asyncio.sleep(_RETRY_S)
            else:
                await self._wake.wait()
            self._wake.clear()

    async def _reconcile(self, fleet: Fleet) -> None:
        """Makes shards and table what they should be. What fails is tried again."""
        count, partitions = self._count, dict(self._partitions)
        if not partitions or count is None:
            return
        await fleet.grow(count)
        shards = fleet.members[:count]
        holdings = deal(partitions, count)
        wanted = tuple(
            ShardEntry(shard.address, held) for shard, held in zip(shards, holdings, strict=True)
        )
        if wanted == self._table.shards:
            return
        version = self._version + 1  # the same until it is published: see `ShardService.load`
        async with asyncio.timeout(_LOAD_DEADLINE_S):
            loads = [
                shard.actor.load.remote(version, held)
                for shard, held in zip(shards, holdings, strict=True)
            ]
            loaded = await asyncio.gather(*loads, return_exceptions=True)
        failures = [result for result in loaded if result is not None]
        if self._table.shards and failures:
            raise failures[0]  # the table there is holds more
        able = [entry for entry, result in zip(wanted, loaded, strict=True) if result is None]
        if able:
            self._publish(ShardTable(version, tuple(able)))
        if failures:
            raise failures[0]
        fleet.retire(count)

    def _publish(self, table: ShardTable) -> None:
        _log.info("table %d: %d shards hold %s", table.version, len(table.shards), table.corpora)
        self._table, self._version = table, table.version
        self._published.set()
        self._published = asyncio.Event()


async def _renew(fleet: Fleet) -> None:
    """On its own, so that shards that load for long do not run out of lease."""
    while True:
        await fleet.renew()
        await asyncio.sleep(RENEW_S)


def _prefix(secret: bytes) -> str:
    """Names of this deployment's shards; a new version of it must not end up with old ones."""
    return f"shard-{hashlib.sha256(secret).hexdigest()[:12]}-"


def _shard_setting(config: AppConfig, store: DatastoreConfig) -> ShardSetting:
    tokenizer = load_tokenizer(config.target.model, config.target.revision)
    return ShardSetting(
        Path(store.root).expanduser(),
        len(tokenizer),
        tokenizer_hash(tokenizer),
        config.retrieval,
        LEASE_S,
    )
