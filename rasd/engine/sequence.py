"""One sequence as the engine keeps it. Knows no stage."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rasd.engine.api import Request, Statistics
from rasd.tree import Int32s

NO_HANDLE = -1


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way. Owned by the engine; the scheduler moves it between its lists.

    Attributes:
        tokens: prompt and output, everything decided so far; the last one is the next root.
        handle: its number at the stages. Each admission has a new one, so that what a stage
            remembers of an earlier admission can never be mistaken for this one.
        slots: tokens whose keys and values the target holds.
        decoding: the target has drawn since its admission, so that all but the root is in.
        drafted: tokens the drafter was told.
        lacking: tokens it had when an answer from its corpora lacked something last.
    """

    request: Request
    tokens: list[int]
    statistics: Statistics = field(default_factory=Statistics)
    handle: int = NO_HANDLE
    slots: int = 0
    decoding: bool = False
    drafted: int = 0
    lacking: int = 0

    @classmethod
    def of(cls, request: Request) -> Sequence:
        """A sequence that waits for its first admission."""
        return cls(request, [*request.prompt.tolist(), *request.output.tolist()])

    @property
    def number(self) -> int:
        """What the caller calls it."""
        return self.request.sequence

    @property
    def root(self) -> int:
        """The newest token."""
        return self.tokens[-1]

    @property
    def remaining(self) -> int:
        """Tokens it may still gain."""
        done = len(self.tokens) - len(self.request.prompt)
        return self.request.params.max_tokens - done

    def output(self) -> Int32s:
        """int32[M]: the tokens behind the prompt."""
        return np.asarray(self.tokens[len(self.request.prompt) :], np.int32)

    def since(self, start: int, stop: int | None = None) -> Int32s:
        """Tokens at the positions from ``start`` on, up to ``stop``."""
        return np.asarray(self.tokens[start:stop], np.int32)

    def lack(self) -> None:
        """An answer from its corpora lacked something; one step may ask twice and counts once."""
        if len(self.tokens) != self.lacking:
            self.lacking = len(self.tokens)
            self.statistics.partial_steps += 1

    def set_back(self) -> None:
        """Forgets what the stages held of it; its tokens stay."""
        self.handle, self.slots, self.decoding, self.drafted = NO_HANDLE, 0, False, 0
