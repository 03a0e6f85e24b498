"""The open writers of a datastore: opened when needed, looked after, closed when there are many.

Belongs to one event loop. What takes time happens in threads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from rasd.config import StoreConfig
from rasd.datastore import Change
from rasd.errors import (
    NotFound,
    Overloaded,
    RasdError,
    RequestError,
    SegmentError,
    StorageError,
    StoreLocked,
    Unavailable,
)
from rasd.retrieval.store.counters import WriteCounters
from rasd.retrieval.store.group import Group
from rasd.retrieval.store.records import Operation
from rasd.retrieval.store.upkeep import Submit
from rasd.retrieval.store.writer import CorpusWriter

MAX_OPEN: Final = 64
"""Writers that are open at once; to open another, the one idle for longest is closed."""

_THREADS: Final = 8

T = TypeVar("T")
_log = logging.getLogger(__name__)


class _Slot:
    """A corpus that is written to.

    ``writer`` is None until it is opened, and after it failed; it is opened and closed under
    ``lock``. ``users`` counts those that use it or wait to. ``waits`` tells whether something
    may wait to be put into a segment, or is merged.
    """

    def __init__(self, name: str, commit: Callable[[_Slot, list[Operation]], Any]) -> None:
        self.name = name
        self.writer: CorpusWriter | None = None
        self.lock = asyncio.Lock()
        self.group = Group(lambda operations: commit(self, operations))
        self.users = 0
        self.used = time.monotonic()
        self.waits = True
        self.trouble = ""

    @property
    def idle(self) -> bool:
        """Whether nobody uses it now, nor waits to."""
        return not self.users and not self.group.busy


class Writers:
    """At most ``max_open`` corpora of one root, open for writing."""

    def __init__(
        self,
        root: Path,
        settings: StoreConfig,
        submit: Submit,
        counters: WriteCounters,
        max_open: int = MAX_OPEN,
    ) -> None:
        self._root = root
        self._settings = settings
        self._submit = submit
        self._counters = counters
        self._max_open = max_open
        self._slots: dict[str, _Slot] = {}
        self._threads = ThreadPoolExecutor(_THREADS, "rasd-write")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._opening = 0
        self._left: dict[str, float] = {}  # closed before their time, and when they are due
        self._left_trouble = ""
        self._late: asyncio.Task[None] | None = None

    async def write(self, name: str, operations: Sequence[Operation], size: int) -> list[Change]:
        """Commits operations on distinct documents, together with others that come now.

        A caller that is cancelled harms no other; its operations may happen all the same.

        Args:
            size: bytes they take, about.

        Raises:
            NotFound, SegmentError: there is no such corpus, or it is damaged.
            StoreLocked, StorageError, Overloaded, Unavailable: not all was written.
        """
        changes = await self._slot(name).group.write(operations, size)
        if changes and set(changes) == {"rejected"}:  # also if others of its group were not
            raise StorageError(f"corpus {name!r}: damaged, nothing can be written to its partition")
        return changes

    async def use(self, name: str, call: Callable[[CorpusWriter], T]) -> T:
        """What ``call`` returns of the writer, in a thread. Raises as `write`.

        Comes to its end even if the caller is cancelled.
        """
        return await self._finish(self._with(self._slot(name), call))

    def damaged(self, name: str) -> list[str]:
        """What the writer of a corpus, if it is open, has found damaged; see `CorpusWriter`."""
        slot = self._slots.get(name)
        return list(slot.writer.damaged) if slot and slot.writer else []

    async def close_one(self, name: str, then: Callable[[], T]) -> T:
        """Closes a writer if it is open, and calls ``then`` in a thread before it may be opened.

        Writes that wait begin anew after that.
        """

        async def locked(slot: _Slot) -> T:
            slot.users += 1
            try:
                async with slot.lock:
                    await self._close_writer(slot)
                    self._left.pop(name, None)
                    return await self._thread(then)
            finally:
                slot.users -= 1

        return await self._finish(locked(self._slot(name)))

    async def close(self) -> None:
        """Refuses what waits, ends what writes, closes all writers; compactions are given up."""
        self._closing.set()
        if self._keeper is not None:
            await asyncio.wait([self._keeper])
        slots = list(self._slots.values())
        await asyncio.gather(*(slot.group.close() for slot in slots))
        for slot in slots:
            async with slot.lock:
                await self._close_writer(slot)
        self._threads.shutdown(wait=False)

    # --- one corpus -----------------------------------------------------------------------------

    def _slot(self, name: str) -> _Slot:
        if self._closing.is_set():
            raise Unavailable("the datastore is closing; nothing was written")
        slot = self._slots.get(name)
        if slot is None:
            slot = self._slots[name] = _Slot(name, self._commit)
        slot.used = time.monotonic()
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())
        return slot

    async def _commit(self, slot: _Slot, operations: list[Operation]) -> list[Change]:
        start = time.perf_counter()
        try:
            changes = await self._with(slot, lambda writer: writer.write(operations))
        except (RequestError, Unavailable):  # refused before anything was tried
            raise
        except Exception as error:
            self._counters.fail("commit", slot.name, error)
            raise
        slot.waits = True
        self._counters.commits += 1
        self._counters.commit_seconds += time.perf_counter() - start
        return changes

    async def _with(self, slot: _Slot, call: Callable[[CorpusWriter], T]) -> T:
        slot.users += 1
        try:
            async with slot.lock:
                writer = slot.writer or await self._open(slot)
            try:
                return await self._thread(call, writer)
            except (StoreLocked, Unavailable):
                async with slot.lock:
                    if slot.writer is writer:
                        await self._close_writer(slot)
                raise
        finally:
            slot.users -= 1

    async def _open(self, slot: _Slot) -> CorpusWriter:
        if self._closing.is_set():
            raise Unavailable("the datastore is closing; nothing was written")
        others = [one for one in self._slots.values() if one.writer is not None]
        idle = [one for one in others if one.idle]
        full = len(others) + self._opening >= self._max_open
        if full and not idle:
            raise Overloaded(f"at most {self._max_open} corpora may be written to at once")
        self._opening += 1
        try:
            if full:
                longest = min(idle, key=lambda one: (one.waits, one.used))
                if longest.waits:
                    self._left[longest.name] = time.monotonic() + self._settings.flush_after_s
                async with longest.lock:
                    await self._close_writer(longest)
            slot.writer = await self._thread(self._opened, slot.name)
        finally:
            self._opening -= 1
        slot.waits = True
        self._left.pop(slot.name, None)
        return slot.writer

    def _opened(self, name: str) -> CorpusWriter:
        report = partial(self._counters.fail, "compaction", name)
        return CorpusWriter(self._root, name, self._settings, self._submit, report=report)

    async def _close_writer(self, slot: _Slot) -> None:
        writer, slot.writer = slot.writer, None
        if writer is not None:
            with suppress(RasdError):  # fenced: what counts is in the root
                await self._thread(writer.close)

    # --- all of them ----------------------------------------------------------------------------

    async def _keep(self) -> None:
        while not self._closing.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._settings.refresh_s)
            for slot in list(self._slots.values()):
                if slot.writer is None and slot.idle:
                    del self._slots[slot.name]
                elif slot.writer is not None and not slot.users:
                    await self._look_after(slot)
            due = [name for name, at in self._left.items() if time.monotonic() >= at]
            if due and (self._late is None or self._late.done()):
                self._late = asyncio.create_task(self._flush_left(due[0]))

    async def _flush_left(self, name: str) -> None:
        try:
            await self.use(name, CorpusWriter.flush)
        except (NotFound, StoreLocked, SegmentError) as error:
            self._left.pop(name, None)  # it is gone, somebody else's, or needs a person
            _log.warning("corpus %s: not indexed: %r", name, error)
        except Exception as error:
            level = logging.DEBUG if self._left_trouble == str(error) else logging.WARNING
            self._left_trouble = str(error)
            self._left[name] = time.monotonic() + self._settings.flush_after_s
            if not self._closing.is_set():
                _log.log(level, "corpus %s: not indexed: %r", name, error)

    async def _look_after(self, slot: _Slot) -> None:
        """Lets compactions start and finish; it stays idle. A failure is logged once."""
        try:
            async with slot.lock:
                if slot.writer is not None:
                    slot.waits = await self._tick(slot, slot.writer)
        except Exception as error:
            if str(error) != slot.trouble:
                _log.warning("corpus %s: %r", slot.name, error)
            slot.trouble = str(error)
        else:
            slot.trouble = ""

    async def _tick(self, slot: _Slot, writer: CorpusWriter) -> bool:
        try:
            return await self._thread(CorpusWriter.tick, writer)
        except (StoreLocked, Unavailable):
            await self._close_writer(slot)
            raise

    async def _thread(self, call: Callable[..., T], *values: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *values)

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for ``work``, which goes on if the caller is cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen, whether or not its caller is still there
