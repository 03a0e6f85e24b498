"""What of an upload was acknowledged, kept beside, so that it goes on after an interruption."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from rasd.cli.reading import Item, Position

DEFAULT: Final = Path("~/.cache/rasd/uploads")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a document; ``reason`` where it was rejected."""

    item: Item
    change: str
    reason: str = ""


class _Record(msgspec.Struct, omit_defaults=True):
    files: list[str] = []
    lines: dict[str, tuple[int, int]] = {}
    counts: dict[str, int] = {}


class Journal:
    """A file of one line per acknowledged batch; a line that was cut short counts for nothing.

    Args:
        path: where; None keeps nothing.

    Attributes:
        counts: what became of documents so far, in all runs.

    Raises:
        OSError: it cannot be kept there.
    """

    def __init__(self, path: Path | None) -> None:
        self.counts: Counter[str] = Counter()
        self._path = path
        self._files: set[str] = set()
        self._lines: dict[str, Position] = {}
        self._file: BinaryIO | None = None
        if path is not None:
            self._load(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")

    @property
    def resumes(self) -> bool:
        """Whether something was acknowledged before."""
        return bool(self._files or self._lines)

    def start(self, key: str) -> Position | None:
        """Where to begin a source; None if nothing of it is left."""
        return None if key in self._files else self._lines.get(key, Position())

    def note(self, outcomes: Iterable[Outcome]) -> None:
        """These, which follow those before, are done.

        Raises:
            OSError: it cannot be written down; after that nothing is, any more.
        """
        record = _Record()
        kept: Counter[str] = Counter()
        for outcome in outcomes:
            source, after = outcome.item.source, outcome.item.after
            self.counts[outcome.change] += 1
            if not source.key:
                continue  # it cannot be found again, so it is read and counted again
            kept[outcome.change] += 1
            if source.lines:
                record.lines[source.key] = (after.offset, after.line)
            else:
                record.files.append(source.key)
        record.counts = dict(kept)
        if self._file is not None and kept:
            self._write(self._file, msgspec.json.encode(record) + b"\n")

    def close(self, *, finished: bool) -> None:
        """Ends it. Once all is done there is nothing to go on with, so the file disappears."""
        if self._file is not None:
            self._file.close()
        if self._path is not None and finished:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _write(self, file: BinaryIO, line: bytes) -> None:
        try:
            # At once into the kernel: the process may be killed, the machine rarely is.
            file.write(line)
            file.flush()
        except OSError:
            self._file = None
            raise

    def _load(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return
        for line in content.splitlines():
            try:
                record = msgspec.json.decode(line, type=_Record)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            self._files.update(record.files)
            self._lines |= {key: Position(*at) for key, at in record.lines.items()}
            self.counts.update(record.counts)
        if content and not content.endswith(b"\n"):
            # What is appended must not join the line that was cut short.
            with path.open("ab") as file:
                file.write(b"\n")


def journal_path(folder: Path, *identity: object) -> Path:
    """The file of an upload, which is what all of ``identity`` together says."""
    digest = hashlib.blake2b(repr(identity).encode(errors="replace"), digest_size=16).hexdigest()
    return Path(os.path.expanduser(folder)) / f"{digest}.jsonl"
