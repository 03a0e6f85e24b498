"""The controller: a failed load or build costs nobody else anything; no table is no news."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors import corpora, datastore
from actors.corpora import configured_corpora, until_made
from actors.datastore import Datastore
from actors.fleet import Shard
from actors.router import Router
from actors.shard import Holdings, ShardService, ShardSetting, ShardTable
from rasd.config import AppConfig, CorpusConfig, DatastoreConfig, RetrievalConfig
from rasd.errors import NotFound, Unavailable
from rasd.retrieval import build_corpus
from tests.actors.threads import HOST, SECRET

VOCABULARY, HASH = 50, "h" * 64


class Actor:
    """A shard actor's `load`, which may be broken."""

    def __init__(self, setting: ShardSetting) -> None:
        self.service = ShardService(setting, HOST, SECRET)
        self.broken = False
        self.load = self

    async def remote(self, version: int, holdings: Holdings) -> None:
        if self.broken:
            raise NotFound("no disk here")
        self.service.load(version, holdings)


class Fleet:
    """Shards without Ray, as many as are asked for; an earlier controller left none."""

    adopted = 0

    def __init__(self, prefix: str, setting: ShardSetting, *rest: object) -> None:
        self.setting = setting
        self.members: list[Shard] = []

    async def adopt(self) -> int:
        return self.adopted

    async def grow(self, count: int) -> None:
        while len(self.members) < count:
            actor = Actor(self.setting)
            self.members.append(Shard(actor, actor.service.server.address))

    def retire(self, count: int) -> None:
        self.members = self.members[:count]

    async def renew(self) -> None: ...

    def close(self) -> None: ...


class Controller(Datastore):
    """Ended by its test, which also reconciles."""

    async def _control(self, fleet: Any) -> None: ...

    def __del__(self) -> None: ...  # type: ignore[override]

    async def reconcile(self) -> None:
        assert self._fleet is not None
        await self._reconcile(self._fleet)


@pytest.fixture
async def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Controller]:
    documents = [(f"d{i}", [i, i + 1, i]) for i in range(20)]
    build_corpus(
        tmp_path, "one", documents, partitions=4, vocabulary=VOCABULARY, tokenizer_hash=HASH
    )
    setting = ShardSetting(tmp_path, VOCABULARY, HASH, RetrievalConfig(), lease_s=60)
    monkeypatch.setattr(datastore, "_shard_setting", lambda config, store: setting)
    monkeypatch.setattr(datastore, "Fleet", Fleet)
    monkeypatch.setattr(datastore, "LONG_POLL_S", 0.0)
    controller = object.__new__(Controller)
    config = AppConfig(datastore=DatastoreConfig(corpora=[]))
    await Controller.__init__(controller, config, SECRET)
    controller._partitions = {"one": 4}
    await controller.reconfigure({"shards": 1})
    yield controller
    for task in controller._tasks:
        task.cancel()


def fleet_of(controller: Controller) -> Fleet:
    fleet = controller._fleet
    assert isinstance(fleet, Fleet)
    return fleet


def versions(shard: Shard) -> set[int]:
    return set(shard.actor.service._loaded)


async def test_a_new_controller_has_no_table_to_tell(controller: Controller) -> None:
    for known in (0, 7):
        assert await controller.table(known) is None
    await controller.reconcile()
    table = await controller.table(7)
    assert table is not None and table.corpora == {"one"}
    assert await controller.table(table.version) is None


async def test_the_router_keeps_its_table_while_there_is_no_news() -> None:
    told: list[ShardTable] = []
    asked: list[int] = []
    answers = iter([ShardTable(5), None, None])

    class Handle:
        table = property(lambda self: self)

        async def remote(self, known: int) -> ShardTable | None:
            asked.append(known)
            try:
                return next(answers)
            except StopIteration:
                raise asyncio.CancelledError from None

    class Told:
        async def set_table(self, table: ShardTable) -> None:
            told.append(table)

    router: Any = SimpleNamespace(_table=ShardTable(0), _replica=Told())
    with pytest.raises(asyncio.CancelledError):
        await Router._watch_table(router, Handle())  # type: ignore[arg-type]
    assert asked == [0, 5, 5, 5] and told == [ShardTable(5)]


async def test_whoever_polls_hears_of_the_first_table(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datastore, "LONG_POLL_S", 60.0)
    polls = [asyncio.create_task(controller.table(known)) for known in (0, 7)]
    await asyncio.sleep(0)
    await controller.reconcile()
    assert {table and table.corpora for table in await asyncio.gather(*polls)} == {
        frozenset({"one"})
    }


async def test_versions_grow_over_restarts_even_if_all_shards_are_gone(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert controller._version > 1_600_000_000
    monkeypatch.setattr(Fleet, "adopted", controller._version + 500)
    again = object.__new__(Controller)
    await Controller.__init__(again, controller._config, SECRET)
    assert again._version == controller._version + 500
    for task in again._tasks:
        task.cancel()


async def test_failed_loads_never_put_out_the_published_version(controller: Controller) -> None:
    fleet = fleet_of(controller)
    await controller.reconcile()
    published = await controller.table(0)
    assert published is not None
    await fleet.grow(2)
    fleet.members[1].actor.broken = True
    await controller.reconfigure({"shards": 2})
    for _ in range(10):
        with pytest.raises(NotFound):
            await controller.reconcile()
        assert await controller.table(published.version) is None
        assert versions(fleet.members[0]) == {published.version, published.version + 1}
    fleet.members[1].actor.broken = False
    await controller.reconcile()
    table = await controller.table(published.version)
    assert table is not None and table.version == published.version + 1
    assert [entry.holdings["one"] for entry in table.shards] == [(0, 2), (1, 3)]


async def test_at_the_start_those_serve_that_can(controller: Controller) -> None:
    fleet = fleet_of(controller)
    await fleet.grow(2)
    fleet.members[0].actor.broken = True
    await controller.reconfigure({"shards": 2})
    for _ in range(10):
        with pytest.raises(NotFound):
            await controller.reconcile()
    first = await controller.table(0)
    assert first is not None and [entry.holdings["one"] for entry in first.shards] == [(1, 3)]
    assert first.version in versions(fleet.members[1])
    fleet.members[0].actor.broken = False
    await controller.reconcile()
    table = await controller.table(first.version)
    assert table is not None and len(table.shards) == 2


async def test_a_corpus_that_cannot_be_made_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    async def make() -> int:
        if len(pauses) < 12:
            raise Unavailable("made elsewhere")
        return 4

    monkeypatch.setattr(corpora.asyncio, "sleep", pause)
    monkeypatch.setattr(logging.getLogger("actors"), "propagate", True)
    assert await until_made("notes", make) == 4
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert "corpus notes is not served: Unavailable('made elsewhere')" in caplog.text


def test_configured_corpora_can_be_named_before_they_are_made() -> None:
    config = DatastoreConfig(corpora=[CorpusConfig(name="later", source="x")])
    assert configured_corpora(config) == {"later"}
    assert configured_corpora(None) == frozenset()
