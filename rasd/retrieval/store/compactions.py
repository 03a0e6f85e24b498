"""How many compactions run at once, and whose turn is next."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from rasd.retrieval.store.compact import Job
from rasd.retrieval.store.upkeep import Submit

Call = Callable[[], Future[Any]]


class Compactions:
    """Runs at most ``most`` merges at once, and one urgent compaction beside them. Thread-safe.

    They run where ``submit`` puts them, each kind in the order they came. So what is urgent waits
    for what is urgent, and never for a merge.
    """

    def __init__(self, submit: Submit, most: int) -> None:
        self._submit = submit
        self._urgent, self._merges = _Line(1), _Line(most)

    def __call__(self, function: Callable[[Job], Any], job: Job) -> Future[Any]:
        """As `Submit`. Until its turn comes the call can be cancelled."""
        line = self._urgent if job.urgent else self._merges
        return line.add(partial(self._submit, function, job))

    @property
    def running(self) -> int:
        """How many run now."""
        return self._urgent.running + self._merges.running

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return self._urgent.waiting + self._merges.waiting


class _Line:
    """Calls that wait, in the order they came; at most ``most`` run at once."""

    def __init__(self, most: int) -> None:
        self.running = 0
        self._most = most
        self._turn = threading.Lock()
        self._waiting: OrderedDict[Future[Any], Call] = OrderedDict()
        self._starting = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def add(self, call: Call) -> Future[Any]:
        future: Future[Any] = Future()
        with self._turn:
            self._waiting[future] = call
        future.add_done_callback(self._leave)
        self._start()
        return future

    def _start(self) -> None:
        """Starts what may, unless somebody does: then they go on until nothing may.

        So one that has ended by the time it is started takes no room on the stack.
        """
        with self._turn:
            if self._starting:
                return
            self._starting = True
        while (asked := self._next()) is not None:
            future, call = asked
            try:
                running = call()
            except Exception as error:  # whatever an executor refuses with
                running = Future()
                running.set_exception(error)
            running.add_done_callback(partial(self._end, future))

    def _next(self) -> tuple[Future[Any], Call] | None:
        """The one whose turn it is, if there is room for it; else nobody starts any more."""
        with self._turn:
            while self._waiting and self.running < self._most:
                future, call = self._waiting.popitem(last=False)
                if future.set_running_or_notify_cancel():
                    self.running += 1
                    return future, call
            self._starting = False
        return None

    def _end(self, future: Future[Any], running: Future[Any]) -> None:
        with self._turn:
            self.running -= 1
        try:
            future.set_result(running.result())
        except BaseException as error:  # also that it was cancelled
            future.set_exception(error)
        self._start()

    def _leave(self, future: Future[Any]) -> None:
        """One that is cancelled is forgotten at once; only then `wait` takes it for done."""
        with self._turn:
            if self._waiting.pop(future, None):
                future.set_running_or_notify_cancel()
