"""What goes into the engine and what comes out of it.

The engine speaks token ids only: whoever calls it (`rasd.LLM`, the router) tokenises, numbers
the sequences, and turns tokens back into text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np

from rasd.config import EngineConfig, RetrievalConfig, SpeculationConfig
from rasd.params import SamplingParams
from rasd.stages import Logprobs
from rasd.tree import SOURCES, Int32s

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The sections of the configuration that the engine reads."""

    engine: EngineConfig = field(default_factory=EngineConfig)
    speculation: SpeculationConfig = field(default_factory=SpeculationConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to generate.

    Attributes:
        sequence: number chosen by the caller; unique while the engine lives.
        prompt: int32[P], P >= 1.
        params: with ``seed`` set and ``corpora`` resolved to what the caller may read.
        choice: which of the ``n`` choices this is; part of the noise key.
        output: int32[M], tokens it has already, when it is submitted again after a restart.
        tenant: whose it is: what is learned and cached of it serves nobody else.
    """

    sequence: int
    prompt: Int32s
    params: SamplingParams
    choice: int = 0
    output: Int32s = field(default_factory=lambda: np.zeros(0, np.int32))
    tenant: str = ""


@dataclass(slots=True)
class Statistics:
    """Running totals of one sequence.

    ``steps`` counts verified trees (a step that ends the prompt counts too), ``nodes`` and
    ``accepted_nodes`` drafted nodes whatever their source; ``drafted`` and ``accepted`` count
    them per source name, a node of two sources in both. ``partial_steps`` are those for which
    the corpora were to be asked and some partition, or all, gave no answer: none came in time, it
    could not be used, or nothing was asked while they are left alone.
    """

    steps: int = 0
    tokens: int = 0
    nodes: int = 0
    accepted_nodes: int = 0
    drafted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SOURCES, 0))
    accepted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SOURCES, 0))
    preemptions: int = 0
    partial_steps: int = 0

    def __add__(self, other: Statistics) -> Statistics:
        """The totals of both."""
        return Statistics(
            self.steps + other.steps,
            self.tokens + other.tokens,
            self.nodes + other.nodes,
            self.accepted_nodes + other.accepted_nodes,
            {name: count + other.drafted[name] for name, count in self.drafted.items()},
            {name: count + other.accepted[name] for name, count in self.accepted.items()},
            self.preemptions + other.preemptions,
            self.partial_steps + other.partial_steps,
        )

    def copy(self) -> Statistics:
        """Totals that do not change any more."""
        return replace(self, drafted=dict(self.drafted), accepted=dict(self.accepted))

    @property
    def acceptance_length(self) -> float:
        """Tokens gained per target forward, bonus included (tau, MAT); 0 before the first."""
        return self.tokens / self.steps if self.steps else 0.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where accepted tokens stand, word for word.

    Attributes:
        corpus: index into the request's corpora; -1 for the sequence itself.
        document: digest of the document's id; of no meaning for the sequence itself.
        offset: place of the first token in the document, or in prompt and output together.
            The token before it stands there, too.
        tokens: how many tokens.
    """

    corpus: int
    document: bytes
    offset: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Output:
    """What one step brought to one sequence.

    Attributes:
        tokens: the new tokens, in order; may be empty on the last output. The token that ended
            the sequence (end-of-sequence or one of ``stop_token_ids``) is the last one here, as
            in vLLM, and counts; it is no part of the text. ``finish`` "stop" tells.
        sources: per token the bit set of sources that proposed it; 0 for the target's own draw.
        logprobs: per token where the parameters ask for it, else empty.
        finish: set exactly once, on the last output of the sequence.
        error: why it failed, when ``finish`` is "error".
        error_code: the ``code`` of the error in `rasd.errors`, for whoever maps it to a status.
        origin: of the first tokens, where they were retrieved and the parameters ask for it.
        statistics: totals so far; a copy.
    """

    sequence: int
    tokens: list[int]
    sources: list[int]
    statistics: Statistics
    logprobs: list[Logprobs] = field(default_factory=list)
    finish: FinishReason | None = None
    error: str = ""
    error_code: str = ""
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Gauges:
    """The engine's load now; ``waiting`` sequences are admitted but hold no slots.

    Of all tokens that entered the target since the engine started, ``prefix_queries``, so many
    were in its cache already: ``prefix_hits``.
    """

    running: int
    waiting: int
    kv_slots_used: int
    kv_slots: int
    prefix_queries: int = 0
    prefix_hits: int = 0


class EngineClient(Protocol):
    """An engine seen from an event loop, wherever it runs."""

    def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        """Yields outputs until one has ``finish``. Closing the generator cancels the sequence.

        Raises:
            Unavailable: the engine is gone and did not come back in time.
        """
        ...

    def gauges(self) -> Gauges:
        """The newest known load."""
        ...

    @property
    def ready(self) -> bool:
        """Whether a request sent now would start."""
        ...
