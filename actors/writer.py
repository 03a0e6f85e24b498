"""The one process of an application that writes to the storage root, and the way to ask it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Final

import ray
from ray.exceptions import RayError

from actors.cluster import CPU_SHARE, cause_of, log_to_stderr
from actors.keeper import Keeper, Part
from rasd.config import CorpusConfig, DatastoreConfig, TargetConfig
from rasd.errors import RasdError, Unavailable
from rasd.retrieval.store.local import LocalCatalog
from rasd.text import load_tokenizer

_log = logging.getLogger(__name__)

METHODS: Final = (
    *("corpora", "corpus", "create", "drop", "add", "delete", "get", "page", "resolve"),
    *("rebuild", "writer"),
)
"""What `WriterActor.ask` may be asked for: `rasd.datastore.Catalog`, repairs, how it does."""

NICE: Final = 19
"""Priority of compactions on the CPU: the lowest. Whoever answers requests goes before them."""

_START_S: Final = 300.0
_RETRY_S: Final = 5.0
_PROGRESS_S: Final = 5.0
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 300.0
_CALLS: Final = 1000
_TASK_RETRIES: Final = 3
"""Of a compaction whose process or node dies."""

_SETTLING: Final = ThreadPoolExecutor(1, "rasd-settle")
"""Tells that compactions have ended. Ray does so in the one thread that serves all its calls, and
who hears of it may start others."""


class WriterActor:
    """Actor: holds the catalog. Compactions run elsewhere, as tasks of the cluster.

    It ends with its controller. The locks of a process that is gone are free at once, so that
    the next one takes over.
    """

    def __init__(self, target: TargetConfig, store: DatastoreConfig) -> None:
        log_to_stderr()
        self._target = target
        self._store = store
        self._catalog: LocalCatalog | None = None
        self._turn = asyncio.Semaphore(1)
        self._seeding: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Makes it ready, goes on with what another left, and fills configured corpora."""
        tokenizer = await asyncio.to_thread(
            load_tokenizer, self._target.model, self._target.revision
        )
        self._catalog = LocalCatalog(
            Path(self._store.root).expanduser(), tokenizer, self._store, submit
        )
        self._seeding = [
            asyncio.create_task(self._catalog.resume()),
            *(asyncio.create_task(self._seed(self._catalog, one)) for one in self._store.corpora),
        ]

    async def ask(self, method: str, *args: Any) -> Any:
        """Calls a method of the catalog. Raises as it does."""
        if self._catalog is None or method not in METHODS:
            raise Unavailable(f"the writer cannot {method} now; repeat the call")
        return await getattr(self._catalog, method)(*args)

    async def ping(self) -> None:
        """Answers while it lives."""

    async def run(self) -> None:
        """Never ends by itself."""
        await asyncio.Event().wait()

    async def _seed(self, catalog: LocalCatalog, corpus: CorpusConfig) -> None:
        """Fills a corpus; what fails is logged, and tried again after a longer pause.

        One at a time, so that there is room for who writes meanwhile.
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            async with self._turn:
                try:
                    await catalog.seed(corpus, _Progress(corpus.name))
                    return
                except Exception as error:
                    _log.error("corpus %s is not filled: %r", corpus.name, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class _Progress:
    """Logs how far it is, now and then."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._due = time.monotonic() + _PROGRESS_S

    def __call__(self, documents: int, tokens: int) -> None:
        if time.monotonic() > self._due:
            _log.info("corpus %s: %d documents, %d tokens so far", self._name, documents, tokens)
            self._due = time.monotonic() + _PROGRESS_S


def submit(function: Callable[..., Any], *args: Any) -> Future[Any]:
    """Runs a function gently in another process of the cluster, maybe on another node."""
    done: Future[Any] = Future()
    task = _task().remote(function, *args).future()

    def settle() -> None:
        error = task.exception()
        if error is None:
            done.set_result(task.result())
        else:
            done.set_exception(cause_of(error))

    task.add_done_callback(lambda _: _SETTLING.submit(settle))
    return done


def gently(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function at the lowest priority of the CPU.

    It does so in a thread of its own, because nobody may raise a priority again, and Ray runs
    other things in the same process later. On Linux a thread has its own.
    """
    with ThreadPoolExecutor(1, initializer=os.nice, initargs=(NICE,)) as thread:
        return thread.submit(function, *args).result()


@cache
def _task() -> Any:
    """Made once: Ray would export it again each time."""
    return ray.remote(gently).options(num_cpus=CPU_SHARE, max_retries=_TASK_RETRIES)


class Writing:
    """The owner's side: keeps the writer alive and asks it. Belongs to one event loop."""

    def __init__(self, target: TargetConfig, store: DatastoreConfig) -> None:
        self._configs = (target, store)
        self._actor: Any = None
        self._fresh: Any = None
        self._starting: asyncio.Task[None] | None = None
        self._keeper = Keeper(
            Part(
                "writer",
                self._create,
                self._announce,
                self._lost,
                _START_S,
                vital=False,
                retry_s=_RETRY_S,
            )
        )

    def start(self) -> None:
        """Brings it up, beside; from then on it is kept."""
        self._starting = asyncio.create_task(self._start())

    async def ask(self, method: str, *args: Any, deadline_s: float) -> Any:
        """What the catalog answers.

        Raises:
            RasdError: what the catalog raised.
            Unavailable: there is no writer now, or it did not answer; the call may have been
                carried out, and may be repeated.
        """
        if self._actor is None:
            raise Unavailable("the writer of the datastore is starting; repeat the call")
        try:
            async with asyncio.timeout(deadline_s):
                return await self._actor.ask.remote(method, *args)
        except TimeoutError as error:
            message = f"the writer did not answer within {deadline_s:g} s; repeat the call"
            raise Unavailable(message) from error
        except RayError as error:
            cause = cause_of(error)
            if isinstance(cause, RasdError):
                raise cause from error
            raise Unavailable(f"the writer was lost: {cause!r}; repeat the call") from error

    def close(self) -> None:
        """Ends it."""
        if self._starting is not None:
            self._starting.cancel()
        self._keeper.close()

    async def _start(self) -> None:
        while True:
            try:
                await self._keeper.start()
            except Exception as error:
                _log.error("the writer did not start: %r", cause_of(error))
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def _create(self, crew: list[Any]) -> None:
        actor = (
            ray.remote(WriterActor)
            .options(num_cpus=CPU_SHARE, max_restarts=0, max_concurrency=_CALLS)
            .remote(*self._configs)
        )
        crew.append(actor)
        await actor.open.remote()
        self._fresh = actor

    async def _announce(self) -> None:
        self._actor = self._fresh
        _log.info("the writer is ready")

    def _lost(self) -> None:
        self._actor = None
