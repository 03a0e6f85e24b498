"""Writes that come together are committed together. Pure asyncio; knows nothing of disks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rasd.datastore import Change
from rasd.errors import Unavailable
from rasd.retrieval.store.records import Operation, Put

GROUP_BYTES: Final = 16 * 2**20
GROUP_OPERATIONS: Final = 16_384
"""Where a group ends. One call is never cut: it may be larger, on its own."""

Commit = Callable[[list[Operation]], Awaitable[list[Change]]]


@dataclass(slots=True, eq=False)
class _Call:
    """One caller's operations, on distinct documents. It waits for ``answer``."""

    operations: Sequence[Operation]
    ids: frozenset[str]
    size: int
    answer: asyncio.Future[list[Change]]


class Group:
    """The writes of one corpus, in the order they came. One event loop uses it.

    While one group is committed, what comes waits, and goes together in the next. Calls with a
    document in common go in different groups, so a group names no document twice.
    """

    def __init__(
        self,
        commit: Commit,
        *,
        max_bytes: int = GROUP_BYTES,
        max_operations: int = GROUP_OPERATIONS,
    ) -> None:
        self._commit = commit
        self._max_bytes = max_bytes
        self._max_operations = max_operations
        self._waiting: deque[_Call] = deque()
        self._task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether anything is being committed or waits for it."""
        return self._task is not None

    async def write(self, operations: Sequence[Operation], size: int) -> list[Change]:
        """Commits operations on distinct documents; answers in order, once they are durable.

        A caller that is cancelled harms no other. Its operations are left out if they still
        waited, and happen otherwise.

        Args:
            size: bytes they take, about.

        Raises:
            Unavailable: this was closed.
            Exception: whatever the commit of its group raised.
        """
        if not operations:
            return []
        answer: asyncio.Future[list[Change]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(operations, frozenset(map(_id_of, operations)), size, answer))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await answer

    async def drain(self) -> None:
        """Returns when everything that came before has been answered."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def close(self) -> None:
        """Refuses what waits. Returns when the running commit has ended and been answered."""
        for call in self._waiting:
            _fail(call, Unavailable("the datastore is closing; nothing was written"))
        self._waiting.clear()
        await self.drain()

    async def _run(self) -> None:
        try:
            while calls := self._next():
                operations = [operation for call in calls for operation in call.operations]
                try:
                    changes = iter(await self._commit(operations))
                except Exception as error:
                    for call in calls:
                        _fail(call, error)
                else:
                    for call in calls:
                        ours = [next(changes) for _ in call.operations]
                        if not call.answer.done():
                            call.answer.set_result(ours)
        finally:
            self._task = None

    def _next(self) -> list[_Call]:
        """The calls of the next group, taken from those that wait."""
        calls: list[_Call] = []
        ids: set[str] = set()
        size = 0
        while self._waiting:
            call = self._waiting[0]
            if not call.answer.done():  # else its caller left
                full = (
                    size + call.size > self._max_bytes
                    or len(ids) + len(call.ids) > self._max_operations
                )
                if calls and (full or not ids.isdisjoint(call.ids)):
                    break
                calls.append(call)
                ids |= call.ids
                size += call.size
            self._waiting.popleft()
        return calls


def _id_of(operation: Operation) -> str:
    return operation.document.id if isinstance(operation, Put) else operation.id


def _fail(call: _Call, error: Exception) -> None:
    if not call.answer.done():
        call.answer.set_exception(error)
