"""A whole answer, put together from its pieces."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from rasd.api.choice import Piece
from rasd.engine.api import Statistics
from rasd.quotes import Quote
from rasd.stages import Logprobs


@dataclass(slots=True)
class Choice:
    """One finished choice; fields as in `Piece`."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprobs] = field(default_factory=list)
    finish: str | None = None
    statistics: Statistics = field(default_factory=Statistics)
    origins: list[Quote] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Appends what a step brought."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.logprobs += piece.logprobs
        self.finish = piece.finish
        self.statistics = piece.statistics
        self.origins += piece.origins


@dataclass(frozen=True, slots=True)
class Result:
    """An answer: its choices, those of the first prompt first."""

    choices: list[Choice]

    @property
    def text(self) -> str:
        """The first choice's text."""
        return self.choices[0].text

    @property
    def completion_tokens(self) -> int:
        """Tokens of all choices."""
        return sum(len(choice.tokens) for choice in self.choices)


async def collect(pieces: AsyncGenerator[Piece, None], choices: int) -> Result:
    """Reads all pieces of a request with so many choices."""
    result = Result([Choice() for _ in range(choices)])
    async with aclosing(pieces):
        async for piece in pieces:
            result.choices[piece.choice].add(piece)
    return result


def summary(parts: Iterable[Statistics], *, corpora: bool) -> dict[str, Any]:
    """What speculation did for a request, over all its choices.

    ``steps`` forwards gave ``tokens`` tokens, ``acceptance_length`` each; ``nodes`` were drafted
    and ``accepted_nodes`` of them kept, by source in ``drafted`` and ``accepted``. With
    ``corpora``, which it then asks, ``partial_steps`` did without some partition of them.
    """
    total = sum(parts, Statistics())
    partial = {"partial_steps": total.partial_steps} if corpora else {}
    return {
        "steps": total.steps,
        "tokens": total.tokens,
        "acceptance_length": round(total.acceptance_length, 4),
        "nodes": total.nodes,
        "accepted_nodes": total.accepted_nodes,
        "drafted": total.drafted,
        "accepted": total.accepted,
        "preemptions": total.preemptions,
        **partial,
    }
