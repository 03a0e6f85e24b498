"""Grouping of writes, against the obvious: one call after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.datastore import Change
from rasd.errors import StorageError, Unavailable
from rasd.retrieval.store.group import Group
from rasd.retrieval.store.records import Delete, Document, Operation, Put


def put(id_: str, token: int = 1) -> Put:
    return Put(Document(id_, np.asarray([token], np.uint32)))


class Disk:
    """Commits when told to, or at once; keeps what it was given."""

    def __init__(self, *, held: bool = False) -> None:
        self.documents: dict[str, int] = {}
        self.groups: list[list[str]] = []
        self.go = asyncio.Event()
        self.error: Exception | None = None
        if not held:
            self.go.set()

    async def commit(self, operations: list[Operation]) -> list[Change]:
        ids = [one.document.id if isinstance(one, Put) else one.id for one in operations]
        assert len(set(ids)) == len(ids)
        self.groups.append(ids)
        await asyncio.sleep(0)
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return apply(self.documents, operations)


def apply(documents: dict[str, int], operations: Sequence[Operation]) -> list[Change]:
    found: list[Change] = []
    for one in operations:
        if isinstance(one, Delete):
            found.append("missing" if documents.pop(one.id, None) is None else "deleted")
            continue
        token = int(one.document.tokens[0])
        known = documents.get(one.document.id)
        same: Change = "unchanged" if known == token else "replaced"
        found.append("created" if known is None else same)
        documents[one.document.id] = token
    return found


OPERATION = st.tuples(st.sampled_from("abcdef"), st.integers(0, 2))
CALLS = st.lists(st.lists(OPERATION, max_size=4, unique_by=lambda one: one[0]), max_size=12)


@given(CALLS, st.integers(1, 6), st.lists(st.booleans(), min_size=12, max_size=12))
def test_groups_change_what_single_calls_do(
    plan: list[list[tuple[str, int]]], max_operations: int, pauses: list[bool]
) -> None:
    calls = [[put(id_, n) if n else Delete(id_) for id_, n in call] for call in plan]

    async def together() -> tuple[list[list[Change]], Disk]:
        disk = Disk()
        group = Group(disk.commit, max_operations=max_operations)
        tasks = []
        for call, pause in zip(calls, pauses, strict=False):
            tasks.append(asyncio.create_task(group.write(call, len(call))))
            if pause:
                await asyncio.sleep(0)
        found = [await task for task in tasks]
        await group.drain()
        assert not group.busy
        return found, disk

    found, disk = asyncio.run(together())
    documents: dict[str, int] = {}
    assert found == [apply(documents, call) for call in calls]
    assert disk.documents == documents
    for ids in disk.groups:
        assert len(ids) <= max(max_operations, 4)


async def until_committing(disk: Disk, groups: int = 1) -> None:
    while len(disk.groups) < groups:
        await asyncio.sleep(0)


async def test_what_comes_during_a_commit_goes_together() -> None:
    disk = Disk(held=True)
    group = Group(disk.commit, max_bytes=100)
    calls = [asyncio.create_task(group.write([put("a")], 1))]
    await until_committing(disk)
    calls += [asyncio.create_task(group.write([put(id_)], 40)) for id_ in "bcde"]
    calls.append(asyncio.create_task(group.write([put("f"), put("g")], 500)))
    calls.append(asyncio.create_task(group.write([put("h")], 1)))
    calls.append(asyncio.create_task(group.write([Delete("h")], 1)))
    await asyncio.sleep(0)
    disk.go.set()
    answers = await asyncio.gather(*calls)
    groups = ["a", "bc", "de", "fg", "h", "h"]
    assert ["".join(ids) for ids in disk.groups] == groups
    assert answers[-2:] == [["created"], ["deleted"]]


async def test_a_caller_that_leaves_harms_no_other() -> None:
    disk = Disk(held=True)
    group = Group(disk.commit)
    running, beside = (asyncio.create_task(group.write([put(id_)], 1)) for id_ in "ab")
    await until_committing(disk)
    waiting, other = (asyncio.create_task(group.write([put(id_)], 1)) for id_ in "cd")
    await asyncio.sleep(0)
    for task in (running, waiting):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    disk.go.set()
    assert await beside == await other == ["created"]
    assert disk.groups == [["a", "b"], ["d"]]
    assert disk.documents.keys() == {"a", "b", "d"}


async def test_a_failed_group_fails_its_calls_alone() -> None:
    disk = Disk(held=True)
    group = Group(disk.commit)
    disk.error = StorageError("full")
    first = [asyncio.create_task(group.write([put(id_)], 1)) for id_ in "ab"]
    await until_committing(disk)
    last = asyncio.create_task(group.write([put("c")], 1))
    disk.go.set()
    for task in first:
        with pytest.raises(StorageError, match="full"):
            await task
    disk.error = None
    assert await last == ["created"]
    assert disk.documents.keys() == {"c"}


async def test_closing_refuses_what_waits_and_ends_what_runs() -> None:
    disk = Disk(held=True)
    group = Group(disk.commit)
    running = asyncio.create_task(group.write([put("a")], 1))
    await until_committing(disk)
    waiting = asyncio.create_task(group.write([put("b")], 1))
    await asyncio.sleep(0)
    closing = asyncio.create_task(group.close())
    with pytest.raises(Unavailable, match="closing"):
        await waiting
    assert not closing.done()
    disk.go.set()
    await closing
    assert await running == ["created"]
    assert disk.documents.keys() == {"a"}


async def test_nothing_is_written_for_nothing() -> None:
    disk = Disk()
    assert await Group(disk.commit).write([], 0) == []
    assert disk.groups == []
