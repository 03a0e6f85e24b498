"""How far a drafter has come with one sequence. Knows positions and token ids only."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rasd.errors import RasdError
from rasd.stages import DraftQuery
from rasd.tree import DraftTree

Int64s = NDArray[np.int64]


@dataclass(slots=True)
class Progress:
    """A sequence's known text, and how much of it the cache covers.

    A row of the cache at position p is made of the feature of position p and token p + 1, so the
    newest token, the root of the next tree, has no row yet.

    Attributes:
        end: position behind the newest known token.
        cached: position behind the newest cached row; counts only with ``newest``.
        newest: [H], the head's output at that row; None when nothing is cached.
        tokens: int64[n], the known tokens that wait for their rows: those before ``end``.
        tree: what was drafted behind the newest token, to learn from what follows.
    """

    end: int = 0
    cached: int = 0
    newest: Tensor | None = None
    tokens: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    tree: DraftTree | None = None

    def hear(self, query: DraftQuery, limit: int) -> None:
        """Appends what the query says; at most ``limit`` tokens wait, the newest.

        Tokens heard before are skipped. A query that leaves a gap, or ends before what is known,
        belongs to another text: it replaces this one and makes the cached rows worthless.
        """
        self.tree = None
        stop = query.start + len(query.tokens)
        heard = self.tokens
        if not query.start <= self.end <= stop:
            heard, self.newest, self.end = heard[:0], None, query.start
        new = query.tokens[self.end - query.start :].astype(np.int64)
        self.tokens = np.concatenate([heard, new])[-limit:]
        self.end = stop

    def first_row(self, held: tuple[int, int]) -> int | None:
        """The position to catch up from, up to ``end - 1``, given the positions of held features.

        It is ``cached`` where the cache can be continued; elsewhere the first position whose
        feature and next token are known: a cold start. None if the newest row cannot be made.
        """
        start, stop = held
        if self.caught_up:
            return self.cached
        if stop < self.end - 1:
            return None
        if self.newest is not None and start <= self.cached:
            return self.cached
        first = max(start, self.end - len(self.tokens) - 1)
        return first if first < self.end - 1 else None

    def next_tokens(self, first: int, rows: int) -> Int64s:
        """int64[rows]: for each row from position ``first`` on, the token after it."""
        skipped = len(self.tokens) - (self.end - 1 - first)
        return self.tokens[skipped : skipped + rows]

    def advance(self, cached: int, newest: Tensor) -> None:
        """The rows before position ``cached`` are there; ``newest`` is the output at the last."""
        self.cached, self.newest = cached, newest
        self.tokens = self.tokens[len(self.tokens) - (self.end - 1 - cached) :]

    @property
    def caught_up(self) -> bool:
        """Whether every known token but the root has its row."""
        return self.newest is not None and self.cached == self.end - 1

    @property
    def output(self) -> Tensor:
        """``newest``, where it is known to be there."""
        if self.newest is None:
            raise RasdError("a sequence without cached rows has no output")
        return self.newest

    def check_integrity(self, sequence: int) -> None:
        """Checks that the tokens that wait are those between the cached rows and the end.

        Raises:
            RasdError: they are not.
        """
        waiting = self.end - 1 - self.cached if self.newest is not None else self.end
        if (self.cached >= self.end and self.newest is not None) or len(self.tokens) > waiting:
            raise RasdError(f"sequence {sequence} is out of step: {self}")
