"""Prompt lookup: what followed the newest tokens earlier in the same sequence.

Every position points to the last one before it that ends in the same ``suffix_min`` tokens, so
a query walks only positions that match that far. A hash table of positions finds the newest of
a chain; it keeps no keys, the text itself is compared. With the doubling of arrays that makes
at most 32 bytes per token of a sequence, whatever the lengths of suffixes.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import numpy as np

from rasd.config import RetrievalConfig
from rasd.jit import compiled
from rasd.retrieval.kernels import address
from rasd.retrieval.kernels_trie import expand
from rasd.stages import Pending, Ready, RetrieveQuery, RetrieveReply, RetrieveRequest
from rasd.tree import Int32s
from rasd.trie import DIGEST_BYTES, Continuations, Origins

MAX_HITS: Final = 64
"""Occurrences of the longest suffix that are continued; the most recent count."""

_BORDER: Final = -1  # as uint32 the separator of `rasd.retrieval.kernels`
_FIRST_CAPACITY: Final = 256


class PromptRetriever:
    """A `Retriever` over each sequence's own tokens, in this process.

    Exact: the longest suffix of ``suffix_max`` to ``suffix_min`` tokens that occurs earlier,
    and the trie of all its occurrences, up to the `MAX_HITS` most recent. The time is that of
    walking the occurrences of the shortest suffix, and ends early where enough match in full.
    """

    def __init__(self, settings: RetrievalConfig) -> None:
        self._settings = settings
        self._sequences: dict[int, _Text] = {}
        self._hits = np.empty(MAX_HITS, np.int32)
        # Nobody can choose tokens that collide in a hash they do not know.
        self._seed = secrets.randbits(62) | 1
        _warm_up(settings)

    def observe(self, sequence: int, tokens: Int32s) -> None:
        """Adds decided tokens int32[n]; takes time in proportion to ``n``."""
        text = self._sequences.get(sequence)
        if text is None:
            text = self._sequences[sequence] = _Text(self._settings.suffix_min, self._seed)
        text.extend(tokens)

    def release(self, sequence: int) -> None:
        """Forgets the sequence; unknown ones are ignored."""
        self._sequences.pop(sequence, None)

    def retrieve(self, request: RetrieveRequest) -> Pending[RetrieveReply]:
        """Looks up each query's sequence; one that was never observed has no hits."""
        found = [self._lookup(query) for query in request.queries]
        return Ready(RetrieveReply(request.step, found))

    def close(self) -> None:
        """Forgets all sequences."""
        self._sequences.clear()

    def _lookup(self, query: RetrieveQuery) -> Continuations:
        text = self._sequences.get(query.sequence)
        if text is None:
            return Continuations.none()
        if len(query.ahead) == 0:
            return text.lookup(self._settings, self._hits, origins=query.origins)
        with text.ahead(query.ahead):
            return text.lookup(self._settings, self._hits, origins=query.origins)


class _Text:
    """One sequence. A *gram* is what must match at least.

    Attributes:
        tokens: int32[C], the ``size`` tokens, perhaps more that are `ahead`, and a border.
        end: how many there are with those.
        previous: int32[C], the last position before that ends in the same gram, or -1.
        newest: int32[2 C], a hash table of the last positions of all grams, or -1.
    """

    def __init__(self, gram: int, seed: int) -> None:
        self.gram = gram
        self.seed = seed
        self.size = 0
        self.end = 0
        self._allocate(_FIRST_CAPACITY)

    def _allocate(self, capacity: int) -> None:
        self.tokens = np.full(capacity, _BORDER, np.int32)
        self.previous = np.full(capacity, -1, np.int32)
        self.newest = np.full(2 * capacity, -1, np.int32)

    def _grow(self, end: int) -> None:
        """Makes room for ``end`` tokens and a border; links all positions anew."""
        old = self.tokens[: self.size]
        self._allocate(1 << end.bit_length())
        self.tokens[: self.size] = old
        _link(self.tokens, self.previous, self.newest, 0, self.size, self.gram, self.seed)

    def extend(self, tokens: Int32s) -> None:
        """Adds tokens and links their positions."""
        start, end = self.size, self.size + len(tokens)
        if end >= len(self.tokens):
            self._grow(end)
        self.tokens[start:end] = tokens
        self.tokens[end] = _BORDER
        _link(self.tokens, self.previous, self.newest, start, end, self.gram, self.seed)
        self.size = self.end = end

    @contextmanager
    def ahead(self, tokens: Int32s) -> Iterator[None]:
        """Meanwhile ``tokens`` stand behind the others, and are found like them."""
        end = self.size + len(tokens)
        if end >= len(self.tokens):
            self._grow(end)
        self.tokens[self.size : end] = tokens
        self.tokens[end], self.end = _BORDER, end
        try:
            yield
        finally:
            self.tokens[self.size], self.end = _BORDER, self.size

    def lookup(
        self, settings: RetrievalConfig, hits: Int32s, *, origins: bool = False
    ) -> Continuations:
        """The trie below the last token; ``hits`` int32[H] is scratch and limits their number.

        With ``origins`` each node has its most recent place.
        """
        limits = (settings.suffix_max, settings.depth)
        if self.end == self.size:
            before = self.previous[self.size - 1] if self.size else -1
        else:
            before = _newest(self.tokens, self.newest, self.end - 1, self.gram, self.seed)
        ends = (self.size, self.end)
        matched, total = _hits(self.tokens, self.previous, before, ends, limits, hits)
        if matched < self.gram:
            return Continuations.none()
        table = np.array([[address(self.tokens), address(hits), total, 0, 0, 0]], np.int64)
        bounds, behind = np.array([[[0, total]]], np.int64), np.zeros(1, np.int64)
        found, sizes, _ = expand(table, bounds, behind, settings.depth, settings.nodes)
        tokens, parents, counts = found[:, 0, : sizes[0]]
        trie = Continuations(tokens, parents, counts, total, matched)
        if not origins:
            return trie
        return replace(trie, origins=self._origins(trie, hits[:total], settings.depth))

    def _origins(self, trie: Continuations, hits: Int32s, depth: int) -> Origins:
        """Where the nodes stand; ``hits`` are the places behind the occurrences."""
        keys = zip(trie.parents.tolist(), trie.tokens.tolist(), strict=True)
        node_of = {key: node for node, key in enumerate(keys)}
        offsets = np.full(len(trie), -1, np.int32)
        for hit in np.sort(hits).tolist():
            node: int | None = -1
            for place, token in enumerate(self.tokens[hit : hit + depth].tolist(), hit):
                node = node_of.get((node, token))
                if node is None:
                    break
                offsets[node] = place
        return Origins(
            np.full(len(trie), -1, np.int32), np.zeros((len(trie), DIGEST_BYTES), np.uint8), offsets
        )


def _warm_up(settings: RetrievalConfig) -> None:
    """Compiles: a text with a hit runs all there is."""
    text = _Text(settings.suffix_min, 1)
    text.extend(np.zeros(settings.suffix_min + 1, np.int32))
    text.lookup(settings, np.empty(1, np.int32))
    with text.ahead(np.zeros(1, np.int32)):
        text.lookup(settings, np.empty(1, np.int32))


@compiled
def _link(
    tokens: Int32s,
    previous: Int32s,
    newest: Int32s,
    start: int,
    end: int,
    gram: int,
    seed: int,
) -> None:
    """Enters the positions [start, end) into the chains."""
    for position in range(max(start, gram - 1), end):
        slot = _slot(tokens, newest, position, gram, seed)
        previous[position] = newest[slot]
        newest[slot] = position


@compiled
def _newest(tokens: Int32s, newest: Int32s, position: int, gram: int, seed: int) -> int:
    """The last linked position that ends in the same gram as ``position``, or -1."""
    if position < gram - 1:
        return -1
    return newest[_slot(tokens, newest, position, gram, seed)]  # type: ignore[no-any-return]


@compiled
def _slot(tokens: Int32s, newest: Int32s, position: int, gram: int, seed: int) -> Any:
    """int64: where the hash table has, or would have, the gram that ends at ``position``."""
    mask = len(newest) - 1
    mixed = np.uint64(seed)
    for i in range(gram):
        mixed = (mixed ^ np.uint64(tokens[position - i])) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    slot = np.int64(mixed) & mask
    while newest[slot] >= 0 and _common(tokens, newest[slot], position, gram) < gram:
        slot = (slot + 1) & mask
    return slot


@compiled
def _common(tokens: Int32s, one: int, other: int, limit: int) -> int:
    """How many tokens up to the positions ``one`` < ``other`` agree, counted to ``limit``."""
    length = 0
    limit = min(limit, one + 1)
    while length < limit and tokens[one - length] == tokens[other - length]:
        length += 1
    return length


@compiled
def _hits(
    tokens: Int32s,
    previous: Int32s,
    before: int,
    sizes: tuple[int, int],
    limits: tuple[int, int],
    hits: Int32s,
) -> tuple[int, int]:
    """Where the longest suffix went on before, most recent first until ``hits`` is full.

    They are then sorted by what follows, like a range of a suffix array.

    Args:
        before: the last linked position that ends in the same gram as the text.
        sizes: tokens that are linked, and tokens in all; the few between are all looked at.
        limits: the longest suffix, and how far hits are told apart.

    Returns:
        Its length, and how many hits.
    """
    matched, total = 0, 0
    (size, end), (longest, depth) = sizes, limits
    position = end - 2 if end - 2 >= size else before
    while position >= 0 and not (matched == longest and total == len(hits)):
        length = _common(tokens, position, end - 1, longest)
        if length > matched:
            matched, total = length, 0
        if length == matched and total < len(hits):
            at = total
            while at > 0 and _after(tokens, hits[at - 1], position + 1, depth):
                hits[at] = hits[at - 1]
                at -= 1
            hits[at] = position + 1
            total += 1
        if position < size:
            position = previous[position]
        else:
            position = position - 1 if position > size else before
    return matched, total


@compiled
def _after(tokens: Int32s, one: int, other: int, depth: int) -> bool:
    """Whether the tokens from ``one`` sort behind those from ``other``; the border sorts last."""
    for i in range(depth):
        if tokens[one + i] != tokens[other + i]:
            return bool(np.uint32(tokens[one + i]) > np.uint32(tokens[other + i]))
        if tokens[one + i] == -1:
            break
    return False
