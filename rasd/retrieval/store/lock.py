"""One process at a time writes to a corpus."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from rasd.errors import StoreLocked
from rasd.retrieval.files import storing


class WriterLock:
    """Holds a lock that the system takes back from a process that dies."""

    def __init__(self, path: Path) -> None:
        """Takes it at once or not at all.

        Raises:
            StoreLocked: another process has it; the message says which.
            StorageError: the directory is read-only, or gone.
        """
        with storing(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with storing(path):
                self._take(path)
        except BaseException:
            os.close(self._file)
            raise

    def _take(self, path: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._file, 256, 0).decode(errors="replace") or "another process"
            raise StoreLocked(f"{path} is held by {holder}") from error
        if not path.exists() or not os.path.samestat(os.fstat(self._file), path.stat()):
            raise StoreLocked(f"{path} was dropped just now")
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"pid {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def release(self) -> None:
        """Gives it back, also on behalf of children that inherited the file."""
        fcntl.flock(self._file, fcntl.LOCK_UN)
        os.close(self._file)
