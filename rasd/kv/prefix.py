"""Finds text that was run before in the pages of a cache, within a tenant.

A full page of committed tokens is known by a digest of its tenant and of all tokens up to its
end. It is found for as long as its page is not handed out again, whether a sequence holds it or
not. A sequence that begins with the same text takes such pages over: those that are free and
where it will lie stay as they are, the others are copied (a page copied costs a tenth of a page
computed). So a page belongs to one sequence at most, as without all this.

Everything is decided by the order of the calls, not by time or chance: ranks that hear the same
do the same.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from rasd.errors import RasdError
from rasd.kv.cache import PagedCache
from rasd.kv.pages import NEVER, Int64s
from rasd.tree import Int32s

_DIGEST_BYTES = 16
# Places where most of a text lies already that are looked at; the first is nearly always taken.
_BASES = 4


@dataclass(slots=True)
class _Text:
    """Committed text of an open sequence.

    Attributes:
        digest: of its full pages, all together.
        pages: how many those are.
        rest: the tokens behind them.
    """

    digest: bytes
    pages: int = 0
    rest: list[int] = field(default_factory=list)


class Prefixes:
    """What the pages of a cache hold. The cache stays its owner's; this moves rows only into
    sequences that begin.
    """

    def __init__(self, cache: PagedCache) -> None:
        self._cache, self._pool = cache, cache.pool
        # Nobody who does not know the key can make two texts of one digest.
        self._key = secrets.token_bytes(_DIGEST_BYTES)
        self._digests: list[bytes | None] = [None] * cache.pool.pages
        self._handed = np.full(cache.pool.pages, -1, np.int64)  # when a page was learned
        self._places: dict[bytes, list[int]] = {}
        self._open: dict[int, _Text] = {}
        self._homes: dict[int, range] = {}

    # --- sequences --------------------------------------------------------------------------

    def begin(self, sequence: int, tenant: str, tokens: Int32s, room: int) -> int:
        """An empty sequence of the cache takes over what is there of its text.

        Args:
            tokens: int32[n], its text. The last token is left to be run.
            room: slots in a row that it would like in all.

        Returns:
            rows it has now, committed, in whole pages.
        """
        text = _Text(self._digest(b"tenant", tenant.encode()))
        chain = self._known(text.digest, tokens[:-1])[: self._pool.available]
        pages = min(max(self._pages_for(room), len(chain), 1), self._pool.pages)
        sources, home = self._choose([places for _, places in chain], pages)
        for page in reversed(sources):
            self._pool.touch(page)
        taken = self._cache.adopt(sequence, sources, home)
        for page, (digest, _) in zip(taken, chain, strict=True):
            self._learn(page, digest)
            text.digest = digest
        text.pages = len(chain)
        self._open[sequence], self._homes[sequence] = text, home
        return self._cache.length(sequence)

    def extend(self, sequence: int, tokens: Int32s) -> None:
        """These tokens of a sequence were committed, behind those it had."""
        text, size = self._open[sequence], self._pool.page_size
        text.rest += tokens.tolist()
        while len(text.rest) >= size:
            text.digest = self._digest(text.digest, _octets(text.rest[:size]))
            self._learn(self._cache.pages(sequence)[text.pages], text.digest)
            text.pages += 1
            del text.rest[:size]

    def end(self, sequence: int) -> None:
        """The sequence is closed; unknown ones are ignored."""
        self._open.pop(sequence, None)
        self._homes.pop(sequence, None)

    def check_integrity(self) -> None:
        """Checks that what is known of texts and pages agrees; between steps only.

        Raises:
            RasdError: naming what does not.
        """
        for sequence, text in self._open.items():
            rows = text.pages * self._pool.page_size + len(text.rest)
            if rows != self._cache.length(sequence):
                raise RasdError(f"sequence {sequence} has {rows} rows of known text")
        known = {(page, digest) for digest, pages in self._places.items() for page in pages}
        listed = {(p, digest) for p, digest in enumerate(self._digests) if digest is not None}
        if known != listed or len(known) != sum(map(len, self._places.values())):
            raise RasdError(f"pages {sorted(p for p, _ in known ^ listed)} are listed wrongly")

    # --- what pages hold --------------------------------------------------------------------

    def _digest(self, before: bytes, data: bytes) -> bytes:
        return blake2b(before + data, digest_size=_DIGEST_BYTES, key=self._key).digest()

    def _known(self, digest: bytes, tokens: Int32s) -> list[tuple[bytes, list[int]]]:
        """The full pages that begin a text, while there are any: their digests and places."""
        size, chain = self._pool.page_size, list[tuple[bytes, list[int]]]()
        for start in range(0, len(tokens) - size + 1, size):
            digest = self._digest(digest, _octets(tokens[start : start + size]))
            places = self._where(digest)
            if not places:
                break
            chain.append((digest, places))
        return chain

    def _where(self, digest: bytes) -> list[int]:
        """Pages that hold it still, the newest last."""
        pages = self._places.get(digest, ())
        return [page for page in pages if self._handed[page] == self._pool.handed[page]]

    def _learn(self, page: int, digest: bytes) -> None:
        old = self._digests[page]
        if old is not None:
            self._places[old].remove(page)
            if not self._places[old]:
                del self._places[old]
        self._digests[page] = digest
        self._handed[page] = self._pool.handed[page]
        self._places.setdefault(digest, []).append(page)

    # --- where a sequence goes --------------------------------------------------------------

    def _choose(self, places: list[list[int]], room: int) -> tuple[list[int], range]:
        """Which pages to take over, and where to lie.

        Where most of them lie already, if nothing is lost there that was used later than what
        would be lost elsewhere.

        Args:
            places: per page to take over, where it can be found.
            room: pages wanted in a row, at least one and as many as ``places``.
        """
        worth = np.where(self._handed == self._pool.handed, self._pool.freed, 0)
        worth[~self._pool.vacant] = NEVER
        for home in self._homes.values():
            worth[home.start : home.stop] = NEVER
        base = self._base(places)
        sources = _sources(places, base)
        here = self._loss(base, sources, room, worth)
        worth[sources] = NEVER
        home, elsewhere = self._pool.home(room, worth)
        while elsewhere == NEVER and room > max(len(places), 1):
            room = max(room // 2, len(places), 1)
            home, elsewhere = self._pool.home(room, worth)
        if base is not None and here <= elsewhere:
            return sources, range(base, min(base + room, self._pool.pages))
        return sources, home if elsewhere < NEVER else range(0)

    def _base(self, places: Sequence[list[int]]) -> int | None:
        """Where the first page must lie so that most of the others are in place, and all free."""
        bases = Counter(page - i for i, pages in enumerate(places) for page in pages)
        for base, _ in bases.most_common(_BASES):
            stop = base + len(places)
            if 0 <= base and stop <= self._pool.pages and self._pool.vacant[base:stop].all():
                return base
        return None

    def _loss(self, base: int | None, sources: list[int], room: int, worth: Int64s) -> int:
        """The most valuable page that is lost if a sequence lies from ``base`` on."""
        if base is None or base + room > self._pool.pages:
            return NEVER
        lost = worth[base : base + room].copy()
        lost[[p - base for i, p in enumerate(sources) if p == base + i]] = 0
        return int(lost.max())

    def _pages_for(self, slots: int) -> int:
        return -(-slots // self._pool.page_size)


def _octets(tokens: Int32s | list[int]) -> bytes:
    return np.asarray(tokens, np.int32).tobytes()


def _sources(places: list[list[int]], base: int | None) -> list[int]:
    """For each page where to take it from: where it belongs, behind the last, or the newest."""
    sources: list[int] = []
    for i, pages in enumerate(places):
        belongs = -1 if base is None else base + i
        follows = sources[-1] + 1 if sources else -1
        sources.append(next((p for p in (belongs, follows) if p in pages), pages[-1]))
    return sources
