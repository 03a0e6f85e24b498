"""How many compactions run at once, and whose turn is next."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from rasd.retrieval.store.compact import Job
from rasd.retrieval.store.upkeep import Submit


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call that waits for its turn, and what its caller was given for it."""

    function: Callable[[Job], Any]
    job: Job
    future: Future[Any]


class Compactions:
    """Runs at most ``most`` compactions at once, where ``submit`` puts them. Thread-safe.

    The urgent ones wait in one line, the others in another, in the order they came. While there
    are both, the line goes on that was given fewer tokens. So what is urgent never waits for all
    merges before it, and merges get half of the work however much is urgent.
    """

    def __init__(self, submit: Submit, most: int) -> None:
        self._submit = submit
        self._most = most
        self._turn = threading.Lock()
        self._urgent: deque[_Asked] = deque()
        self._others: deque[_Asked] = deque()
        self._lead = 0  # tokens that the urgent were given more than the others
        self._running = 0

    def __call__(self, function: Callable[[Job], Any], job: Job) -> Future[Any]:
        """As `Submit`. Until its turn comes the call can be cancelled."""
        asked = _Asked(function, job, Future())
        with self._turn:
            (self._urgent if job.urgent else self._others).append(asked)
        self._start()
        return asked.future

    @property
    def running(self) -> int:
        """How many run now."""
        return self._running

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        with self._turn:
            return sum(not one.future.cancelled() for one in (*self._urgent, *self._others))

    def _start(self) -> None:
        while (asked := self._next()) is not None:
            try:
                running = self._submit(asked.function, asked.job)
            except Exception as error:  # whatever an executor refuses with
                running = Future()
                running.set_exception(error)
            running.add_done_callback(partial(self._end, asked.future))

    def _end(self, future: Future[Any], running: Future[Any]) -> None:
        with self._turn:
            self._running -= 1
        self._start()
        try:
            future.set_result(running.result())
        except BaseException as error:  # also that it was cancelled
            future.set_exception(error)

    def _next(self) -> _Asked | None:
        """The one whose turn it is, if there is room for it."""
        with self._turn:
            while self._running < self._most and (line := self._line()):
                asked = line.popleft()
                if asked.future.set_running_or_notify_cancel():
                    self._lead += asked.job.tokens if asked.job.urgent else -asked.job.tokens
                    self._running += 1
                    return asked
        return None

    def _line(self) -> deque[_Asked]:
        if self._urgent and self._others:
            return self._urgent if self._lead <= 0 else self._others
        self._lead = 0
        return self._urgent or self._others
