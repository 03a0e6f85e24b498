"""How much may wait to be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rasd.errors import Overloaded

MAX_WAITING_BYTES: Final = 256 * 2**20
MAX_WAITING_DOCUMENTS: Final = 2**17
"""What may wait to be written, over all corpora. One call alone may be larger."""


class Room:
    """How much waits to be written. Belongs to one event loop."""

    def __init__(self) -> None:
        self._documents = 0
        self._bytes = 0

    @contextmanager
    def taken(self, documents: int, size: int) -> Iterator[None]:
        """Counts a call for as long as it waits.

        Raises:
            Overloaded: there is no room beside what waits.
        """
        for what, waiting, new, most in (
            ("bytes", self._bytes, size, MAX_WAITING_BYTES),
            ("documents", self._documents, documents, MAX_WAITING_DOCUMENTS),
        ):
            if waiting and waiting + new > most:
                raise Overloaded(
                    f"at most {most} {what} may wait to be written; got {new} beside {waiting}"
                )
        self._documents += documents
        self._bytes += size
        try:
            yield
        finally:
            self._documents -= documents
            self._bytes -= size
