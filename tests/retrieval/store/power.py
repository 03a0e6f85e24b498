"""A disk that fails, and a machine whose power is cut, at any step."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest


class Cut(BaseException):
    """The power is gone; nothing more happens."""


class Power:
    """Stands between the store and the system.

    Counts what may fail: creating, writing and syncing files, linking, renaming and removing
    them. At step ``at`` raises ``error``, from there on as long as ``lasting``, or cuts the
    power. Names and contents that are not synced then are lost, or not, as chance has it.
    """

    def __init__(self, at: int = 0, error: OSError | None = None, *, lasting: bool = False) -> None:
        self.steps = 0
        self.at = at
        self._error = error
        self._lasting = lasting
        self._cut = False
        self._names: set[Path] = set()
        self._contents: set[Path] = set()

    def __enter__(self) -> Power:
        self._patch = pytest.MonkeyPatch()
        real_open, real_replace, real_unlink = Path.open, Path.replace, Path.unlink
        real_link = os.link

        def open_(path: Path, mode: str = "r", *args: Any, **settings: Any) -> Any:
            if mode != "xb":
                return real_open(path, mode, *args, **settings)
            self.step()
            file = io.BufferedWriter(_Raw(path, self))
            self._names.add(path)
            self._contents.add(path)
            return file

        def link(source: Path, target: Path) -> None:
            self.step()
            real_link(source, target)
            self._names.add(target)

        def replace(source: Path, target: Path) -> None:
            self.step()
            real_replace(source, target)
            self._names.add(target)

        def unlink(path: Path, missing_ok: bool = False) -> None:
            if self._cut:
                raise Cut
            real_unlink(path, missing_ok)

        self._patch.setattr(Path, "open", open_)
        self._patch.setattr(Path, "replace", replace)
        self._patch.setattr(Path, "unlink", unlink)
        self._patch.setattr(os, "link", link)
        self._patch.setattr(os, "fsync", self._fsync)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def step(self) -> None:
        """One thing that may fail."""
        if self._cut:
            raise Cut
        self.steps += 1
        if self.steps == self.at or (self._lasting and self.at and self.steps > self.at):
            if self._error:
                raise OSError(*self._error.args)
            self._cut = True
            raise Cut

    def heal(self) -> None:
        """Nothing fails any more."""
        self.at = 0

    def lose(self, rng: np.random.Generator) -> None:
        """What the machine finds when it is started again."""
        for path in sorted(self._contents):
            if path.exists() and rng.random() < 0.8:
                os.truncate(path, int(rng.integers(0, path.stat().st_size + 1)))
        for path in sorted(self._names):
            if path.exists() and rng.random() < 0.5:
                path.unlink()

    def _fsync(self, descriptor: int) -> None:
        self.step()
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_dir():
            self._names = {name for name in self._names if name.parent != path}
        else:
            self._contents.discard(path)


class _Raw(io.FileIO):
    def __init__(self, path: Path, power: Power) -> None:
        super().__init__(path, "xb")
        self._power = power

    def write(self, data: Any) -> int:
        self._power.step()
        return super().write(data) or 0
