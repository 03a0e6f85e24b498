"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rasd.errors import StorageError


def write_atomically(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Writes ``parts`` one after the other; whoever opens ``path`` sees all of them or none.

    Goes through a file beside it, synced before it takes the name and its directory after.
    """
    draft = draft_of(path)
    with creating(draft) as file:
        for part in parts:
            file.write(part)
    try:
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    sync_directory(path.parent)


def draft_of(path: Path) -> Path:
    """A name beside ``path`` that nobody else uses, for what is to become it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextmanager
def creating(path: Path) -> Iterator[BinaryIO]:
    """A new file to write, synced at the end; removed if that does not come to its end.

    Its name is durable only after `sync_directory`.

    Raises:
        FileExistsError: it is there already, and stays as it is.
    """
    with path.open("xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                path.unlink()
            raise


def sync_directory(path: Path) -> None:
    """Makes names created or changed in a directory survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turns what the system refuses in here into an error that names ``path`` and the reason.

    Raises:
        StorageError: the disk is full, read-only, or failing.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
