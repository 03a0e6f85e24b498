"""The datastore's deployment: who may be asked for corpora, documents, tables and scale.

The storage root is the only truth. Engines ask shards directly, by a table that is published
here whenever somebody's holdings change; shards may die at any time, and so may this process.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from actors.cluster import log_to_stderr
from actors.control import Controller
from actors.corpora import CorporaWatch
from actors.fleet import Fleet, Shard
from actors.plan import Corpus
from actors.repair import Repairs
from actors.scaling import OverrideFile, Scaling, application_name, deployed_at
from actors.shard import ShardSetting
from actors.table import ShardStatus, ShardTable
from actors.writer import Writing
from rasd.config import AppConfig, DatastoreConfig
from rasd.datastore import (
    CorpusInfo,
    DatastoreStatus,
    NewDocument,
    Page,
    Scale,
    StoredDocument,
    WriterInfo,
    Written,
)
from rasd.errors import ConfigError, InvalidRequest, NotFound, RasdError, Unavailable
from rasd.retrieval.store.info import all_corpora, corpus_info
from rasd.text import load_tokenizer, tokenizer_hash

_log = logging.getLogger(__name__)

LEASE_S: Final = 60.0
LONG_POLL_S: Final = 2.0
"""Short, because Serve lets a call end before it asks us to go, even if its caller is gone."""

METHODS: Final = (
    *("corpora", "corpus", "create", "drop", "add", "delete", "get", "page", "resolve"),
    *("names", "status", "scale"),
)
"""What `Datastore.call` calls."""

_READ_S: Final = 20.0
_WRITE_S: Final = 100.0
_REBUILD_S: Final = 1800.0
_STATUS_S: Final = 2.0


class Datastore:
    """Serve deployment of one replica; `rasd.datastore.Datastore` over a handle.

    Nothing waits for it: without it nothing can be written, and text comes as before.

    Raises:
        ConfigError: there is no datastore to control.
    """

    async def __init__(self, config: AppConfig, secret: bytes) -> None:  # type: ignore[misc]
        log_to_stderr()
        if config.datastore is None:
            raise ConfigError("datastore must be set; got null")
        self._store: DatastoreConfig = config.datastore
        self._tasks: list[asyncio.Task[None]] = []
        self._fleet: Fleet | None = None
        self._writing: Writing | None = None
        self._root = Path(self._store.root).expanduser()
        application, built = application_name(), _build_name(secret)
        self._writing = Writing(config.target, self._store)
        self._writing.start()
        fleet = self._fleet = Fleet(f"shard-{built}-", secret)
        # Above what shards hold, and above what engines know of shards that are gone.
        version = max(await fleet.adopt(), int(time.time()))
        if fleet.setting is None:
            fleet.setting = await asyncio.to_thread(_shard_setting, config, self._store)
        fits = fleet.setting.vocabulary, fleet.setting.tokenizer_hash
        self._controller = Controller(fleet, CorporaWatch(self._root, *fits).look, version)
        self._scaling = Scaling(
            OverrideFile(self._root, application),
            built,
            partial(deployed_at, application),
            self._controller.set_scale,
        )
        repairs = Repairs(self._damage, self._rebuild)
        work = [*self._controller.tasks(), self._scaling.watch(), repairs.watch()]
        self._tasks = [asyncio.create_task(each) for each in work]

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Changes the number of shards; partitions move, nothing is rebuilt.

        Serve calls this at a deployment and at every start. What was asked for since the
        application was deployed (`scale`) stays in effect.

        Raises:
            ConfigError: naming each wrong key.
        """
        await self._scaling.configure(user_config)

    async def table(self, known: int) -> ShardTable | None:
        """The newest table, or None if for `LONG_POLL_S` there is none but the ``known`` one.

        A controller that was just started has none: what engines know is better than nothing.
        """
        return await self._controller.next_table(known, LONG_POLL_S)

    async def check_health(self) -> None:
        """Serve calls this. Raises if nobody looks after the shards."""
        for task in self._tasks:
            if task.done() and task.exception() is not None:
                raise RuntimeError("the datastore's controller stopped") from task.exception()

    async def __del__(self) -> None:
        """Serve calls this when nothing runs any more; maybe before we are complete."""
        for task in self._tasks:
            task.cancel()
        if self._writing is not None:
            self._writing.close()
        if self._fleet is not None:
            self._fleet.close()

    async def call(self, method: str, *args: Any) -> Any:
        """Calls a method of `rasd.datastore.Datastore`; returns what it raises of our errors.

        Serve would log it as a failure of ours, with its traceback.
        """
        if method not in METHODS:
            return InvalidRequest(f"the datastore has no method {method!r}")
        try:
            return await getattr(self, method)(*args)
        except RasdError as error:
            return error

    # --- the catalog: see `rasd.datastore.Catalog` ------------------------------------------

    async def corpora(self) -> list[CorpusInfo]:
        """Read from the root while there is no writer."""
        try:
            found: list[CorpusInfo] = await self._ask("corpora", deadline_s=_READ_S)
        except Unavailable:
            found = await asyncio.to_thread(all_corpora, self._root)
        return found

    async def corpus(self, name: str) -> CorpusInfo:
        """Read from the root while there is no writer."""
        try:
            found: CorpusInfo = await self._ask("corpus", name, deadline_s=_READ_S)
        except Unavailable:
            found = await asyncio.to_thread(corpus_info, self._root, name)
        return found

    async def create(self, name: str, partitions: int | None = None) -> CorpusInfo:
        """Shards hold it within a moment."""
        info: CorpusInfo = await self._ask("create", name, partitions, deadline_s=_READ_S)
        self._controller.tell(name, Corpus(info.partitions, info.created))
        return info

    async def drop(self, name: str) -> None:
        """No table names it from then on."""
        try:
            await self._ask("drop", name, deadline_s=_WRITE_S)
        except NotFound:  # perhaps since a call whose answer was lost
            self._controller.tell(name, None)
            raise
        self._controller.tell(name, None)

    async def add(self, name: str, documents: Sequence[NewDocument]) -> list[Written]:
        """Durable when it returns, and found by queries within a second."""
        added: list[Written] = await self._ask("add", name, documents, deadline_s=_WRITE_S)
        return added

    async def delete(self, name: str, ids: Sequence[str]) -> list[Written]:
        """As `add`."""
        deleted: list[Written] = await self._ask("delete", name, ids, deadline_s=_WRITE_S)
        return deleted

    async def get(self, name: str, id: str) -> StoredDocument:
        """One document."""
        document: StoredDocument = await self._ask("get", name, id, deadline_s=_READ_S)
        return document

    async def page(self, name: str, after: str | None, limit: int) -> Page:
        """Some documents."""
        page: Page = await self._ask("page", name, after, limit, deadline_s=_READ_S)
        return page

    async def resolve(self, name: str, digests: Sequence[bytes]) -> list[str | None]:
        """Ids of digests."""
        ids: list[str | None] = await self._ask("resolve", name, digests, deadline_s=_READ_S)
        return ids

    # --- names, status and scale: see `rasd.datastore.Datastore` ----------------------------

    async def names(self) -> list[str]:
        """Told by whoever makes and drops them, sooner than any table says."""
        corpora = self._controller.corpora
        if corpora is None:
            raise Unavailable("the datastore has not seen its root yet; repeat the call")
        return sorted(corpora)

    async def status(self) -> DatastoreStatus:
        """Shards that do not answer soon are left out."""
        corpora, shards, writer = await asyncio.gather(
            self.corpora(), self._statuses(), self._writer_info()
        )
        scaling, controller = self._scaling, self._controller
        return DatastoreStatus(
            scale=scaling.current,
            configured=scaling.configured,
            override=scaling.override is not None,
            moving=controller.moving,
            version=controller.table.version,
            corpora=[_with_damage(corpus, [status for *_, status in shards]) for corpus in corpora],
            shards=[status.info(slot, replica) for slot, replica, status in shards],
            writer=writer,
        )

    async def scale(self, scale: Scale) -> DatastoreStatus:
        """Raises as `Scaling.set`."""
        await self._scaling.set(scale)
        return await self.status()

    # --- inside -----------------------------------------------------------------------------

    async def _ask(self, method: str, *args: Any, deadline_s: float) -> Any:
        if self._writing is None:
            raise Unavailable("the datastore is starting; repeat the call")
        return await self._writing.ask(method, *args, deadline_s=deadline_s)

    async def _writer_info(self) -> WriterInfo | None:
        try:
            found: WriterInfo = await self._ask("writer", deadline_s=_STATUS_S)
        except Unavailable:
            return None
        return found

    async def _rebuild(self, name: str, partition: int, source: int) -> None:
        await self._ask("rebuild", name, partition, source, deadline_s=_REBUILD_S)

    async def _damage(self) -> list[ShardStatus]:
        return [status for _, _, status in await self._statuses()]

    async def _statuses(self) -> list[tuple[int, int, ShardStatus]]:
        """Slot, number and status of every shard of the table that answers."""
        named = self._controller.shards()
        answers = await asyncio.gather(*(_status(shard) for _, _, shard in named))
        return [
            (slot, replica, status)
            for (slot, replica, _), status in zip(named, answers, strict=True)
            if status is not None
        ]


async def _status(shard: Shard) -> ShardStatus | None:
    try:
        async with asyncio.timeout(_STATUS_S):
            status: ShardStatus = await shard.actor.status.remote()
    except Exception as error:
        _log.warning("shard %s tells no status: %r", shard.address, error)
        return None
    return status


def _with_damage(corpus: CorpusInfo, statuses: Iterable[ShardStatus]) -> CorpusInfo:
    """Names the files that shards refuse, too."""
    refused = {file for status in statuses for file in status.damaged.get(corpus.name, ())}
    return replace(corpus, damaged=sorted({*corpus.damaged, *refused}))


def _build_name(secret: bytes) -> str:
    """As new as the secret: shards of one build of the application must not end up in another."""
    return hashlib.sha256(secret).hexdigest()[:12]


def _shard_setting(config: AppConfig, store: DatastoreConfig) -> ShardSetting:
    tokenizer = load_tokenizer(config.target.model, config.target.revision)
    return ShardSetting(
        Path(store.root).expanduser(),
        len(tokenizer),
        tokenizer_hash(tokenizer),
        config.retrieval,
        LEASE_S,
        store.store.refresh_s,
        config.target,
    )
