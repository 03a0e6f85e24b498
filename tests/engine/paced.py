"""An engine whose stages take the time that a machine would, on a clock that only they move."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rasd.config import EngineConfig, RetrievalConfig, SpeculationConfig
from rasd.engine.api import EngineSettings, Output, Request
from rasd.engine.engine import Engine
from rasd.stages import (
    DraftQuery,
    DraftReply,
    DraftRequest,
    Pending,
    RetrieveReply,
    RetrieveRequest,
    VerifyReply,
    VerifyRequest,
)
from rasd.tree import Draft
from tests.fakes import (
    INFO,
    VOCABULARY,
    FakeClock,
    FakeDrafter,
    FakeRetriever,
    FakeTarget,
    as_draft,
    foresee,
    gather,
)

MAX_STEPS = 20_000


def verify_s(rows: int, slots: int) -> float:
    """A model of 100M parameters on two cores: flat up to 16 rows, then a line."""
    return 10.5e-3 + 0.22e-3 * max(rows - 16, 0) + 0.4e-6 * slots


class PacedTarget(FakeTarget):
    """Takes `verify_s`, and some noise that only adds."""

    def __init__(self, clock: FakeClock, noise: float, seed: int) -> None:
        super().__init__(replace(INFO, kv_slots=2**20, max_positions=4096, page_size=16))
        self._clock, self._noise = clock, noise
        self._rng = np.random.default_rng(seed)
        self.lost_s = 0.0  # to noise

    def verify(self, request: VerifyRequest) -> Pending[VerifyReply]:
        rows = sum(len(work.tokens) for work in request.work)
        reply = super().verify(request)
        spent_s = verify_s(rows, sum(self.held[w.sequence].slots for w in request.work))
        lost_s = spent_s * self._noise * abs(self._rng.normal())
        if self._noise and self._rng.random() < 0.005:
            lost_s += 0.1  # somebody else had the machine
        self._clock.now += spent_s + lost_s
        self.lost_s += lost_s
        return reply


class PacedDrafter(FakeDrafter):
    """Each token of a chain of five is right with a chance of its own.

    Attributes:
        skill: that chance. alone_s, each_s: what a request costs, and each of its queries.
    """

    def __init__(self, clock: FakeClock, skill: float, alone_s: float, each_s: float) -> None:
        super().__init__("right", clock=clock)
        self.skill, self.alone_s, self.each_s = skill, alone_s, each_s
        self.queries = 0

    def propose(self, request: DraftRequest) -> Pending[DraftReply]:
        if request.queries:
            self._clock.now += self.alone_s + self.each_s * len(request.queries)
        self.queries += len(request.queries)
        return super().propose(request)

    def _draft(self, query: DraftQuery) -> Draft | None:
        text = self.texts.setdefault(query.sequence, [])
        text += query.tokens.tolist()
        rng = np.random.default_rng([len(text), *text[-4:]])
        chain = foresee(text, 5, "right")
        wrong = rng.random(5) >= self.skill
        if wrong.any():
            first = int(np.argmax(wrong))
            chain[first:] = [(token + 1) % VOCABULARY for token in chain[first:]]
        return as_draft(text[-1], chain, query.nodes)


@dataclass
class PacedRetriever(FakeRetriever):
    """Takes ``each_s`` per query, and finds something for some sequences only.

    Attributes:
        helped: handles it finds the right continuations for; None for all.
    """

    each_s: float = 40e-6
    helped: set[int] | None = field(default_factory=set)
    queries: int = 0

    def retrieve(self, request: RetrieveRequest) -> Pending[RetrieveReply]:
        self.clock.now += self.each_s * len(request.queries)
        self.queries += len(request.queries)
        reply = super().retrieve(request)
        found = reply.wait(0.0).found
        for i, query in enumerate(request.queries):
            if self.helped is not None and query.sequence not in self.helped:
                found[i] = type(found[i]).none()
        return reply


@dataclass
class Paced:
    """An engine with paced stages."""

    skill: float | None = 0.7
    alone_s: float = 3e-3
    each_s: float = 0.8e-3
    retriever: bool = True
    noise: float = 0.05
    seed: int = 0
    speculation: dict[str, Any] = field(default_factory=dict)
    engine_s: float = 0.0

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.target = PacedTarget(self.clock, self.noise, self.seed)
        self.drafter = None
        if self.skill is not None:
            self.drafter = PacedDrafter(self.clock, self.skill, self.alone_s, self.each_s)
        self.prompt = PacedRetriever(clock=self.clock) if self.retriever else None
        self.engine = Engine(
            self.target,
            EngineSettings(
                EngineConfig(max_sequences=64, chunk_tokens=1024),
                SpeculationConfig.model_validate({"nodes": 16, **self.speculation}),
                RetrievalConfig(),
            ),
            drafter=self.drafter,
            prompt=self.prompt,
            clock=self.clock,
        )
        self.engine.warm_up()

    def run(self, requests: list[Request]) -> float:
        """Tokens per second of the requests, all at once, without what noise cost."""
        start_s, outputs = self.clock.now - self.target.lost_s, list[Output]()
        for one in requests:
            self.engine.add(one)
        for _ in range(MAX_STEPS):
            if not self.engine.has_work:
                break
            outputs += self.engine.step()
        tokens = sum(each[-1].statistics.tokens for each in gather(outputs).values())
        return tokens / (self.clock.now - self.target.lost_s - start_s)
