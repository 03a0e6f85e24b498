"""Kill -9 at any instant: what was acknowledged is there, nothing is half there."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rasd.retrieval.store.records import Operation
from rasd.retrieval.store.writer import CorpusWriter

from .crashing import SETTINGS, group_of
from .worlds import (
    Model,
    Submitter,
    apply,
    assert_holds,
    id_of,
    is_one_of,
    live,
    make_corpus,
)

TOP = Path(__file__).parents[3]
DEADLINE_S = 60.0


class Helper:
    """See `crashing`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.retrieval.store.crashing"],
            cwd=TOP,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin, self._process.stdout.fileno()
        self._unread = b""
        self._step_s = 0.0

    def kill_after(self, root: Path, seed: int, steps: int, share: float) -> tuple[int, int]:
        """Has a child write, and kills it a ``share`` of a step after so many steps.

        Opening is the first step. Returns how many groups it had begun and acknowledged.
        """
        self._in.write(f"{root} {seed}\n".encode())
        self._in.flush()
        started = time.monotonic()
        lines = self._read(lambda lines: len(lines) > steps, DEADLINE_S)
        child = int(lines[0].split()[1])
        if steps:
            self._step_s = (time.monotonic() - started) / steps
        lines += self._read(lambda lines: "dead" in lines, self._step_s * share)
        assert "dead" not in lines, "it failed by itself"
        os.kill(child, signal.SIGKILL)
        lines += self._read(lambda lines: "dead" in lines, DEADLINE_S)
        assert lines[-1] == "dead"
        return sum("begin" in line for line in lines), sum("done" in line for line in lines)

    def _read(self, enough: Callable[[list[str]], bool], seconds: float) -> list[str]:
        """Whole lines, until there are enough or the time is over."""
        lines: list[str] = []
        deadline = time.monotonic() + seconds
        while not enough(lines) and (left := deadline - time.monotonic()) > 0:
            if select.select([self._out], [], [], left)[0]:
                self._unread += os.read(self._out, 65_536)
                *whole, self._unread = self._unread.split(b"\n")
                lines += [line.decode() for line in whole]
        return lines

    def close(self) -> None:
        self._in.close()
        self._process.wait(DEADLINE_S)


@pytest.fixture(scope="module")
def helper() -> Iterator[Helper]:
    helper = Helper()
    yield helper
    helper.close()


def settle(model: Model, operation: Operation, found: Model) -> None:
    """Makes of the model what was ``found``, if that is how it was before, or after."""
    after: Model = {}
    apply(after, [operation])
    id_ = id_of(operation)
    now = found.get(id_)
    assert is_one_of(now, model.get(id_), after.get(id_))
    model.pop(id_, None)
    if now:
        model[id_] = now


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_no_kill_loses_or_tears_anything(
    tmp_path: Path, helper: Helper, seed: int, kills: int
) -> None:
    rng = np.random.default_rng(seed)
    make_corpus(tmp_path)
    model: Model = {}
    total = 0
    for kill in range(kills):
        # One in three dies while it opens the store, that is while it recovers.
        steps = 0 if kill % 3 == 2 else int(rng.integers(1, 13))
        begun, done = helper.kill_after(tmp_path, seed + kill, steps, float(rng.random()) * 1.5)
        total += done
        for number in range(done):
            apply(model, group_of(seed + kill, number))
        if begun > done:
            found = live(tmp_path)
            for operation in group_of(seed + kill, done):
                settle(model, operation, found)
        assert_holds(tmp_path, model)
    assert total > kills
    store = CorpusWriter(tmp_path, "c", SETTINGS, Submitter())
    store.flush()
    store.tick()
    store.close()
    assert_holds(tmp_path, model)
