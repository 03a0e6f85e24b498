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
from rasd.retrieval.store.policy import Weight, flush, merge
from rasd.retrieval.store.sweep import Sweeper

Submit = Callable[..., Future[Any]]
"""Calls a function with arguments elsewhere, as `concurrent.futures.Executor.submit`."""
Clock = Callable[[], float]
"""Seconds since some time; tells how long a log has waited."""

Report = Callable[[Exception], None]
"""Takes why a compaction failed, each time one does."""

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


@dataclass(slots=True, eq=False)
class _Lane:
    """Compactions of a kind, one after the other. ``error`` is why the last one failed."""

    name: str
    running: _Running | None = None
    error: Exception | None = None
    failures: int = 0
    retry_at: float = 0.0


class Upkeep:
    """Of one partition; a flush and a merge at a time. Not for several threads at once.

    A damaged segment is written anew in the place of a flush. Neither waits for a merge of others.

    Attributes:
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
        report: Report = lambda _: None,
    ) -> None:
        self.damaged: dict[int, str] = {}
        self._store = store
        self._spec = spec
        self._settings = settings
        self._submit = submit
        self._clock = clock
        self._report = report
        self._seen: dict[int, float] = {}
        self._said: dict[str, str] = {}
        self._sweeper = Sweeper(store.path, settings.grace_s)
        self._flushes, self._merges = self._lanes = (_Lane("flush"), _Lane("merge"))
        self._wanted: set[int] = set()
        self._sweep_at = 0.0

    @property
    def error(self) -> Exception | None:
        """Why the last flush failed, or the last merge; None if neither did."""
        return self._flushes.error or self._merges.error

    @property
    def waiting(self) -> bool:
        """Whether the last step left logs that wait to become a segment, or a merge."""
        return bool(self._seen) or self._merges.running is not None

    def step(self, *, below: int = 0) -> list[Future[Outcome]]:
        """Does what is due; returns what must be waited for before more can be done.

        A compaction that fails is tried again after a pause that grows, and logged when its
        error is a new one.

        Args:
            below: flush logs however small if one has a lower number than this.

        Raises:
            StoreLocked: another writer has taken over.
        """
        while any(self._advance(lane, below) for lane in self._lanes):
            pass
        return [lane.running.future for lane in self._lanes if lane.running]

    def hurry(self) -> None:
        """Forgets the last failures, and their pauses."""
        for lane in self._lanes:
            self._recover(lane)

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
        making = [lane.running.job.output for lane in self._lanes if lane.running]
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
        """Starts nothing more, and calls off what waits for its turn.

        What runs cannot be called off, even if its corpus is dropped: it keeps its slot until its
        end, and what it makes is left over.
        """
        for lane in self._lanes:
            if lane.running:
                lane.running.future.cancel()
                lane.running = None

    def _weights(self) -> list[Weight]:
        return [w for w in self._store.contents.weights() if w.number not in self.damaged]

    def _advance(self, lane: _Lane, below: int) -> bool:
        """Ends what is done, or starts what is due. Whether there was either."""
        if lane.running:
            if not lane.running.future.done():
                return False
            self._finish(lane, lane.running)
            return True
        if time.monotonic() < lane.retry_at:
            return False
        try:
            numbers = self._flushable(below) if lane is self._flushes else self._mergeable()
            if not numbers:
                return False
            self._start(lane, numbers)
        except StoreLocked:
            raise
        except Exception as error:  # whatever an executor refuses with
            self._failed(lane, error)
        return True

    def _flushable(self, below: int) -> list[int]:
        weights, now = self._weights(), self._clock()
        self._seen = {w.number: self._seen.get(w.number, now) for w in weights if w.log}
        self._wanted &= {weight.number for weight in weights}
        if ready := self._wanted - _inputs(self._merges):
            return [min(ready)]
        old = now - min(self._seen.values(), default=now) >= self._settings.flush_after_s
        asked = min(self._seen, default=below) < below
        return flush(weights, self._settings, everything=old or asked)

    def _mergeable(self) -> list[int]:
        busy = _inputs(self._flushes)
        return merge([w for w in self._weights() if w.number not in busy], self._settings)

    def _start(self, lane: _Lane, numbers: list[int]) -> None:
        contents = self._store.contents
        job = Job(
            self._store.path,
            {number: contents.dead(number) for number in numbers},
            self._store.reserve(),
            self._spec.vocabulary,
            self._spec.tokenizer_hash,
            urgent=lane is self._flushes,
        )
        lane.running = _Running(job, self._submit(compact, job))

    def _finish(self, lane: _Lane, running: _Running) -> None:
        lane.running = None
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
            self._failed(lane, error)
        else:
            self._wanted -= running.job.inputs.keys()
            self._recover(lane)

    def _failed(self, lane: _Lane, error: Exception) -> None:
        pause = min(_FIRST_PAUSE_S * 2**lane.failures, _LONGEST_PAUSE_S)
        lane.error = error
        lane.failures += 1
        lane.retry_at = time.monotonic() + pause
        self._report(error)
        self._complain(f"{lane.name} failed", error)
        _logger.debug("%s: again in %.1f s", self._store.path, pause)

    def _recover(self, lane: _Lane) -> None:
        self._said.pop(f"{lane.name} failed", None)
        lane.error, lane.failures, lane.retry_at = None, 0, 0.0

    def _complain(self, what: str, error: Exception) -> None:
        """Warns once of what is wrong, not each time it is tried again."""
        level = logging.DEBUG if self._said.get(what) == str(error) else logging.WARNING
        self._said[what] = str(error)
        _logger.log(level, "%s: %s: %s", self._store.path, what, error)


def _inputs(lane: _Lane) -> set[int]:
    """Sources that are being compacted there."""
    return set(lane.running.job.inputs) if lane.running else set()
