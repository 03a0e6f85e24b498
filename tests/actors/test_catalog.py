"""The router's side: whatever Ray or Serve says becomes an error that says what to do."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError

from actors import catalog
from actors import router as routers
from actors.catalog import RemoteDatastore
from actors.datastore import METHODS, Datastore
from actors.router import Router
from actors.table import ShardTable, Slot
from rasd import datastore as contract
from rasd.datastore import NewDocument, Scale
from rasd.errors import NotFound, Overloaded, Unavailable


class Handle:
    """Answers ``call`` with what it has, or raises it."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.called: list[tuple[Any, ...]] = []
        self.call = self

    async def remote(self, *args: Any) -> Any:
        self.called.append(args)
        if isinstance(self.answer, type) and issubclass(self.answer, asyncio.Event):
            await self.answer().wait()
        if isinstance(self.answer, ActorDiedError | RayTaskError | DeploymentUnavailableError):
            raise self.answer
        return self.answer


def remote(answer: Any) -> tuple[RemoteDatastore, Handle]:
    handle = Handle(answer)
    return RemoteDatastore(handle), handle  # type: ignore[arg-type]


def test_the_whole_contract_can_be_asked() -> None:
    asked = {
        name
        for protocol in (contract.Catalog, contract.Datastore)
        for name in vars(protocol)
        if not name.startswith("_")
    }
    assert asked == set(METHODS)
    for kind in (RemoteDatastore, Datastore):
        assert all(callable(getattr(kind, name)) for name in asked)


async def test_calls_go_out_as_they_are() -> None:
    store, handle = remote([])
    new = [NewDocument("a", text="b")]
    await store.add("notes", new)
    await store.delete("notes", ("a",))
    await store.page("notes", None, 5)
    await store.scale(Scale(2, 3))
    assert handle.called == [
        ("add", "notes", new),
        ("delete", "notes", ["a"]),
        ("page", "notes", None, 5),
        ("scale", Scale(2, 3)),
    ]


async def test_errors_of_the_datastore_come_as_they_were() -> None:
    error = NotFound("no corpus 'x'", param="corpus")
    store, _ = remote(error)
    with pytest.raises(NotFound) as missing:
        await store.drop("x")
    assert missing.value is error
    store, _ = remote(Overloaded("full", retry_after_s=7.0))
    with pytest.raises(Overloaded) as full:
        await store.add("x", [])
    assert full.value.retry_after_s == 7.0


@pytest.mark.parametrize(
    "error",
    [
        ActorDiedError(),
        DeploymentUnavailableError(SimpleNamespace(name="Datastore")),  # type: ignore[arg-type]
        RayTaskError("call", "traceback", ValueError("a fault of ours")).as_instanceof_cause(),
    ],
)
async def test_errors_of_the_cluster_say_that_the_call_may_be_repeated(error: Exception) -> None:
    store, _ = remote(error)
    with pytest.raises(Unavailable, match="repeat the call"):
        await store.get("x", "a")


async def test_names_are_those_the_controller_was_told_of() -> None:
    controller = SimpleNamespace(corpora={"two": None, "one": None})
    store: Any = SimpleNamespace(_controller=controller)
    assert await Datastore.names(store) == ["one", "two"]
    controller.corpora = None  # it was just started: that is not to say that there are none
    with pytest.raises(Unavailable, match="repeat the call"):
        await Datastore.names(store)


async def test_silence_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_WRITE_S", 0.01)
    store, _ = remote(asyncio.Event)
    with pytest.raises(Unavailable, match=r"did not answer within 0.01 s"):
        await asyncio.wait_for(store.delete("x", ["a"]), 5)


async def test_the_router_keeps_its_table_while_there_is_no_news(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(routers, "_RETRY_S", 0.0)
    told: list[ShardTable] = []
    asked: list[int] = []
    first = ShardTable(5, (Slot({"later": (0,)}),))
    answers = iter([first, None, RuntimeError("restarting"), None, ShardTable(6)])

    class Polled:
        table = property(lambda self: self)

        async def remote(self, known: int) -> ShardTable | None:
            asked.append(known)
            answer = next(answers, asyncio.CancelledError())
            if isinstance(answer, BaseException):
                raise answer
            return answer

    class Told:
        async def set_table(self, table: ShardTable) -> None:
            told.append(table)

    router: Any = SimpleNamespace(
        _table=ShardTable(0), _replica=Told(), _awaited=frozenset({"later", "other"})
    )
    assert Router._corpora(router) == {"later", "other"}
    with pytest.raises(asyncio.CancelledError):
        await Router._watch_table(router, Polled())  # type: ignore[arg-type]
    assert asked == [0, 5, 5, 5, 5, 6] and told == [first, ShardTable(6)]
    assert Router._corpora(router) == {"other"}  # "later" was there and was dropped
