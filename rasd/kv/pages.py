"""Which pages of the cache are free. Knows nothing of tensors and sequences."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rasd.errors import ConfigError, KVExhausted, RasdError


class PagePool:
    """Pages of ``page_size`` slots, handed out in consecutive runs where possible.

    Consecutive pages let attention read a sequence's context as a slice, without a copy.

    Raises:
        ConfigError: not even one page fits into ``slots``.
    """

    def __init__(self, slots: int, page_size: int) -> None:
        if page_size < 1 or slots < page_size:
            raise ConfigError(f"kv_slots must hold a page of {page_size} slots; got {slots}")
        self.page_size = page_size
        self.pages = slots // page_size
        self.available = self.pages
        self._free = np.ones(self.pages, np.bool_)

    def allocate(self, count: int, after: int | None = None) -> list[int]:
        """Takes ``count`` pages, behind page ``after`` while those are free.

        Raises:
            KVExhausted: fewer are free; nothing was taken.
        """
        if count > self.available:
            raise KVExhausted(
                f"{count} pages of {self.page_size} slots are needed, {self.available} of "
                f"{self.pages} are free"
            )
        taken: list[int] = []
        page = self.pages if after is None else after + 1
        while len(taken) < count:
            if page >= self.pages or not self._free[page]:
                page = self._roomy(count - len(taken))
            self._free[page] = False
            taken.append(page)
            page += 1
        self.available -= count
        return taken

    def free(self, pages: Iterable[int]) -> None:
        """Gives pages back.

        Raises:
            RasdError: a page is free already; a defect of the caller.
        """
        for page in pages:
            if self._free[page]:
                raise RasdError(f"page {page} was freed twice")
            self._free[page] = True
            self.available += 1

    def check_integrity(self, held: Iterable[int]) -> None:
        """Checks that every page is either free or held exactly once.

        Raises:
            RasdError: naming the pages that are lost or shared.
        """
        count = self._free.astype(np.int64)
        np.add.at(count, np.fromiter(held, np.int64), 1)
        if (count != 1).any():
            raise RasdError(
                f"pages lost: {np.flatnonzero(count == 0).tolist()}, "
                f"shared: {np.flatnonzero(count > 1).tolist()}"
            )
        if int(self._free.sum()) != self.available:
            raise RasdError(f"{self.available} pages counted free, {int(self._free.sum())} are")

    def _roomy(self, count: int) -> int:
        """Where to start ``count`` pages: in the longest free run.

        In its middle, so that the sequence before it can grow too, unless it begins the pool.
        """
        edges = np.diff(self._free.astype(np.int8), prepend=0, append=0)
        starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        longest = int(np.argmax(stops - starts))
        start, room = int(starts[longest]), int(stops[longest] - starts[longest])
        return start if start == 0 else start + max(room - count, 0) // 2
