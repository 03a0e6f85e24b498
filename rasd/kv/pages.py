"""Which pages of the cache are free. Knows nothing of tensors and sequences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rasd.errors import ConfigError, KVExhausted, RasdError

Int64s = NDArray[np.int64]

NEVER: Final = int(np.iinfo(np.int64).max)
"""The worth of a page that must not be taken."""


class PagePool:
    """Pages of ``page_size`` slots, handed out in consecutive runs where possible.

    Consecutive pages let attention read a sequence's context as a slice, without a copy.

    Attributes:
        vacant: bool[pages], those that are free.
        handed: int64[pages], how often each was handed out: while that stays, so does what it
            holds, free or not.
        freed: int64[pages], when each was freed last, in frees of the pool; 0 never.

    Raises:
        ConfigError: not even one page fits into ``slots``.
    """

    def __init__(self, slots: int, page_size: int) -> None:
        if page_size < 1 or slots < page_size:
            raise ConfigError(f"kv_slots must hold a page of {page_size} slots; got {slots}")
        self.page_size = page_size
        self.pages = slots // page_size
        self.available = self.pages
        self.handed = np.zeros(self.pages, np.int64)
        self.freed = np.zeros(self.pages, np.int64)
        self.vacant = np.ones(self.pages, np.bool_)
        self._now = 0

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
            if page >= self.pages or not self.vacant[page]:
                page = self._roomy(count - len(taken))
            self.vacant[page] = False
            self.handed[page] += 1
            taken.append(page)
            page += 1
        self.available -= count
        return taken

    def free(self, pages: Iterable[int]) -> None:
        """Gives pages back, one after the other.

        Raises:
            RasdError: a page is free already; a defect of the caller.
        """
        for page in pages:
            if self.vacant[page]:
                raise RasdError(f"page {page} was freed twice")
            self.vacant[page] = True
            self.available += 1
            self.touch(page)

    def touch(self, page: int) -> None:
        """A page was of use: it counts as freed just now."""
        self._now += 1
        self.freed[page] = self._now

    def home(self, room: int, worth: Int64s) -> tuple[range, int]:
        """The ``room`` pages in a row whose most valuable one is worth least.

        Args:
            room: at most all pages.
            worth: int64[pages], of what each page holds; `NEVER` where it must stay.

        Returns:
            the pages and that worth; `NEVER` where there are no such pages.
        """
        most = _window_max(worth, room)
        start = int(most.argmin())
        return range(start, start + room), int(most[start])

    def check_integrity(self, held: Iterable[int]) -> None:
        """Checks that every page is either free or held exactly once.

        Raises:
            RasdError: naming the pages that are lost or shared.
        """
        count = self.vacant.astype(np.int64)
        np.add.at(count, np.fromiter(held, np.int64), 1)
        if (count != 1).any():
            raise RasdError(
                f"pages lost: {np.flatnonzero(count == 0).tolist()}, "
                f"shared: {np.flatnonzero(count > 1).tolist()}"
            )
        if int(self.vacant.sum()) != self.available:
            raise RasdError(f"{self.available} pages counted free, {int(self.vacant.sum())} are")

    def _roomy(self, count: int) -> int:
        """Where to start ``count`` pages: in the longest free run.

        In its middle, so that the sequence before it can grow too, unless it begins the pool.
        """
        edges = np.diff(self.vacant.astype(np.int8), prepend=0, append=0)
        starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        longest = int(np.argmax(stops - starts))
        start, room = int(starts[longest]), int(stops[longest] - starts[longest])
        return start if start == 0 else start + max(room - count, 0) // 2


def _window_max(values: Int64s, width: int) -> Int64s:
    """int64[n - width + 1]: the largest of each ``width`` values in a row.

    A window spans at most two blocks of its width: the end of one, the beginning of the next.
    """
    blocks = np.full((-(-len(values) // width), width), NEVER)
    blocks.reshape(-1)[: len(values)] = values
    begun = np.maximum.accumulate(blocks, axis=1).reshape(-1)
    left = np.maximum.accumulate(blocks[:, ::-1], axis=1)[:, ::-1].reshape(-1)
    return np.maximum(left[: len(values) - width + 1], begun[width - 1 : len(values)])


def runs(pages: Iterable[int]) -> list[range]:
    """Consecutive pages put together, in their order."""
    found: list[range] = []
    for page in pages:
        if found and found[-1].stop == page:
            found[-1] = range(found[-1].start, page + 1)
        else:
            found.append(range(page, page + 1))
    return found
