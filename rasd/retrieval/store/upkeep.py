"""Keeps a partition small: starts compactions, commits what they made, removes what is left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from rasd.config import StoreConfig
from rasd.errors import StorageError, StoreLocked
from rasd.retrieval.store.compact import Job, Outcome, compact
from rasd.retrieval.store.corpora import CorpusSpec
from rasd.retrieval.store.partition import PartitionStore
from rasd.retrieval.store.policy import Weight, plan
from rasd.retrieval.store.sweep import Sweeper

Submit = Callable[..., Future[Any]]
"""Calls a function with arguments elsewhere, as `concurrent.futures.Executor.submit`."""
Clock = Callable[[], float]
"""Seconds since some time; tells how long a log has waited."""

MAX_UNFLUSHED: Final = 4
"""Writes are refused above this many times ``flush_tokens`` in logs."""
MAX_WAITING_LOGS: Final = 1024
"""Writes are refused above this many logs, however small."""

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 60.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Running:
    job: Job
    future: Future[Outcome]


class Upkeep:
    """Of one partition; one compaction at a time. Not for several threads at once.

    Attributes:
        error: why the last compaction failed; None if it did not.
        damaged: sources whose documents cannot be read, and why; they are left as they are.
            Replaced as a whole, so any thread may read it.
    """

    def __init__(
        self,
        store: PartitionStore,
        spec: CorpusSpec,
        settings: StoreConfig,
        submit: Submit,
        clock: Clock = time.monotonic,
    ) -> None:
        self.error: Exception | None = None
        self.damaged: dict[int, str] = {}
        self._store = store
        self._spec = spec
        self._settings = settings
        self._submit = submit
        self._clock = clock
        self._seen: dict[int, float] = {}
        self._said: dict[str, str] = {}
        self._sweeper = Sweeper(store.path, settings.grace_s)
        self._running: _Running | None = None
        self._wanted: set[int] = set()
        self._failures = 0
        self._retry_at = self._sweep_at = 0.0

    @property
    def waiting(self) -> bool:
        """Whether the last step saw logs that wait to become a segment."""
        return bool(self._seen)

    def step(self, *, below: int = 0) -> Future[Outcome] | None:
        """Does what is due; returns what must be waited for before more can be done.

        A compaction that fails is tried again after a pause that grows, and logged when its
        error is a new one.

        Args:
            below: flush logs however small if one has a lower number than this.

        Raises:
            StoreLocked: another writer has taken over.
        """
        while True:
            if self._running:
                if not self._running.future.done():
                    return self._running.future
                self._finish(self._running)
            if time.monotonic() < self._retry_at:
                return None
            try:
                numbers = self._due(below)
                if not numbers:
                    return None
                self._start(numbers)
            except StoreLocked:
                raise
            except Exception as error:  # whatever an executor refuses with
                self._failed(error)

    def hurry(self) -> None:
        """Forgets the last failure, and its pause."""
        self._said.pop("compaction failed", None)
        self.error, self._failures, self._retry_at = None, 0, 0.0

    def rebuild(self, number: int) -> None:
        """Has the next steps write a source anew from its documents."""
        self.damaged = {n: reason for n, reason in self.damaged.items() if n != number}
        self._wanted.add(number)

    def tidy(self) -> None:
        """Removes files that were not needed for ``grace_s``. Looks only now and then.

        Raises:
            StoreLocked: another writer has taken over.
        """
        now = time.monotonic()
        if now < self._sweep_at:
            return
        self._sweep_at = now + self._settings.grace_s / 4
        making = self._running.job.output if self._running else 0
        try:
            self._sweeper.sweep(self._store.contents.manifest, making, now)
        except StorageError as error:
            self._complain("cannot tidy up", error)
        else:
            self._said.pop("cannot tidy up", None)

    def excess(self) -> str:
        """Why nothing may be written before there was a compaction; empty if it may."""
        logs = [weight for weight in self._weights() if weight.log]
        tokens = sum(log.tokens for log in logs)
        most = MAX_UNFLUSHED * self._settings.flush_tokens
        if tokens > most:
            return f"{self._store.path}: at most {most} tokens may wait for indexing; got {tokens}"
        if len(logs) > MAX_WAITING_LOGS:
            return (
                f"{self._store.path}: at most {MAX_WAITING_LOGS} logs may wait for indexing; "
                f"got {len(logs)}"
            )
        return ""

    def close(self) -> None:
        """Starts nothing more. What still runs is in nobody's way."""
        if self._running:
            self._running.future.cancel()
            self._running = None

    def _weights(self) -> list[Weight]:
        return [w for w in self._store.contents.weights() if w.number not in self.damaged]

    def _due(self, below: int) -> list[int]:
        weights, now = self._weights(), self._clock()
        self._seen = {w.number: self._seen.get(w.number, now) for w in weights if w.log}
        self._wanted &= {weight.number for weight in weights}
        if self._wanted:
            return [min(self._wanted)]
        old = now - min(self._seen.values(), default=now) >= self._settings.flush_after_s
        asked = min(self._seen, default=below) < below
        return plan(weights, self._settings, everything=old or asked)

    def _start(self, numbers: list[int]) -> None:
        contents = self._store.contents
        job = Job(
            self._store.path,
            {number: contents.dead(number) for number in numbers},
            self._store.reserve(),
            self._spec.vocabulary,
            self._spec.tokenizer_hash,
        )
        self._running = _Running(job, self._submit(compact, job))

    def _finish(self, running: _Running) -> None:
        self._running = None
        try:
            outcome = running.future.result()
            if outcome.damaged:
                self.damaged = {**self.damaged, outcome.damaged: outcome.reason}
                _logger.error("left as it is, its documents are damaged: %s", outcome.reason)
                return
            if outcome.taken:
                return  # the next one has another number
            self._store.replace(running.job, outcome)
        except StoreLocked:
            raise
        except Exception as error:  # also that of a process that was lost
            self._failed(error)
        else:
            self._wanted -= running.job.inputs.keys()
            self.hurry()

    def _failed(self, error: Exception) -> None:
        pause = min(_FIRST_PAUSE_S * 2**self._failures, _LONGEST_PAUSE_S)
        self.error = error
        self._failures += 1
        self._retry_at = time.monotonic() + pause
        self._complain("compaction failed", error)
        _logger.debug("%s: again in %.1f s", self._store.path, pause)

    def _complain(self, what: str, error: Exception) -> None:
        """Warns once of what is wrong, not each time it is tried again."""
        level = logging.DEBUG if self._said.get(what) == str(error) else logging.WARNING
        self._said[what] = str(error)
        _logger.log(level, "%s: %s: %s", self._store.path, what, error)
