"""The power is cut, or the disk fails, at every step of writing: the store is right afterwards."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from rasd.config import StoreConfig
from rasd.errors import StorageError
from rasd.retrieval.store.records import Delete, Operation, Put
from rasd.retrieval.store.verify import verify
from rasd.retrieval.store.writer import CorpusWriter

from .power import Cut, Power
from .worlds import (
    Model,
    Submitter,
    apply,
    assert_holds,
    document,
    is_one_of,
    live,
    make_corpus,
)

SETTINGS = StoreConfig(flush_tokens=30, max_segments=1, grace_s=0)
GROUPS: list[list[Operation]] = [
    [Put(document("a", *range(20), text="a")), Put(document("b", 1))],
    [Put(document("a", *range(15))), Put(document("c", 2)), Delete("b"), Delete("x")],
    [Put(document("d", 4)), Delete("c")],
    [Put(document("a", 5)), Put(document("b", *range(30))), Delete("d")],
]

every = pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
"""Of how many steps one is tried, from a random one on."""


def applied(groups: Sequence[list[Operation]]) -> Model:
    model: Model = {}
    for group in groups:
        apply(model, group)
    return model


def assert_between(root: Path, acknowledged: int) -> None:
    """All acknowledged groups are there; of the next, each document is there or not."""
    found = live(root)
    before, after = applied(GROUPS[:acknowledged]), applied(GROUPS[: acknowledged + 1])
    for id_ in found.keys() | before.keys() | after.keys():
        assert is_one_of(found.get(id_), before.get(id_), after.get(id_))
    assert verify(root).damaged == []


class Run:
    """Writes all groups; may be told to go on where it was stopped."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.acknowledged = 0
        self.store: CorpusWriter | None = None

    def go(
        self, attempt: Callable[[Callable[[], object]], None] = lambda act: act() and None
    ) -> None:
        attempt(self._open)
        for group in GROUPS[self.acknowledged :]:
            attempt(lambda group=group: self.store.write(group))  # type: ignore[misc]
            self.acknowledged += 1
            if self.acknowledged == 2:
                attempt(self.store.flush)  # type: ignore[union-attr]
            self.store.tick()  # type: ignore[union-attr]
        attempt(self.store.flush)  # type: ignore[union-attr]
        self.close()

    def close(self) -> None:
        if self.store:
            self.store.close()
            self.store = None

    def _open(self) -> None:
        self.store = self.store or CorpusWriter(self.root, "c", SETTINGS, Submitter())


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Path]:
    """Makes copies of an empty corpus."""
    make_corpus(tmp_path / "empty", partitions=1)

    def copy() -> Path:
        shutil.rmtree(tmp_path / "root", ignore_errors=True)
        return Path(shutil.copytree(tmp_path / "empty", tmp_path / "root"))

    return copy


def count_steps(root: Path) -> int:
    with Power() as power:
        Run(root).go()
    assert_holds(root, applied(GROUPS))
    return power.steps


@every
def test_power_is_cut_at_any_step(fresh: Callable[[], Path], seed: int, every: int) -> None:
    rng = np.random.default_rng(seed)
    steps = count_steps(fresh())
    assert steps > 50
    for at in range(1 + seed % every, steps + 1, every):
        run = Run(fresh())
        cut(run, at, rng)
        assert_between(run.root, run.acknowledged)
        cut(run, int(rng.integers(1, 9)), rng)  # and again, while it recovers
        assert_between(run.root, run.acknowledged)
        with Power():
            run.go()
        assert_holds(run.root, applied(GROUPS))


def cut(run: Run, at: int, rng: np.random.Generator) -> None:
    with Power(at) as power:
        try:
            run.go()
        except Cut:
            pass
        run.close()
    power.lose(rng)


@every
def test_one_failure_at_any_step(fresh: Callable[[], Path], seed: int, every: int) -> None:
    steps = count_steps(fresh())
    for at in range(1 + seed % every, steps + 1, every):
        run = Run(fresh())
        code = (errno.ENOSPC, errno.EIO, errno.EROFS)[(seed + at) % 3]
        failures = 0

        def attempt(act: Callable[[], object], run: Run = run, code: int = code) -> None:
            nonlocal failures
            try:
                act()
            except StorageError as error:
                assert os.strerror(code) in str(error)
                assert str(run.root) in str(error)
                failures += 1
                assert_between(run.root, run.acknowledged)
                assert not any("source" in path.name for path in verify(run.root).leftovers)
                act()

        with Power(at, OSError(code, os.strerror(code))):
            run.go(attempt)
        assert failures <= 1
        assert_holds(run.root, applied(GROUPS))


@every
def test_a_full_disk_changes_nothing_and_then_all_goes_on(
    fresh: Callable[[], Path], seed: int, every: int
) -> None:
    steps = count_steps(fresh())
    for at in range(1 + seed % every, steps + 1, 2 * every):
        run = Run(fresh())
        power = Power(at, OSError(errno.ENOSPC, "No space left on device"), lasting=True)

        def attempt(act: Callable[[], object], run: Run = run, power: Power = power) -> None:
            try:
                act()
            except StorageError:
                assert_between(run.root, run.acknowledged)
                found = live(run.root)
                for _ in range(2):
                    with pytest.raises(StorageError, match="No space left on device"):
                        act()
                assert live(run.root).keys() == found.keys()
                power.heal()
                act()

        with power:
            run.go(attempt)
        assert_holds(run.root, applied(GROUPS))
        with Power():
            Run(run.root).go()
        assert verify(run.root).leftovers == []
