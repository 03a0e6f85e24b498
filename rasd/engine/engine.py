"""The loop's body: one step verifies all trees, then asks for the next ones.

Knows the three contracts and token ids; knows no tokenizer, process or tensor. Text comes from
the target alone: what the other stages do can only change how fast.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rasd.engine.api import EngineSettings, FinishReason, Gauges, Output, Request
from rasd.engine.propose import Proposer
from rasd.engine.rehearse import Rehearsal
from rasd.engine.scheduler import Planned, Scheduler, StepPlan
from rasd.engine.sequence import Sequence
from rasd.engine.timings import Timings
from rasd.engine.verdict import (
    admission_of,
    check_reply,
    check_request,
    check_result,
    cost_of,
    count,
    last_output,
    until_end,
    work_of,
)
from rasd.errors import (
    ConfigError,
    InvalidRequest,
    KVExhausted,
    RasdError,
    StageError,
    StageUnavailable,
)
from rasd.stages import Drafter, Retriever, Target, Verified, VerifyReply, VerifyRequest
from rasd.tree import CORPUS, DRAFT, PROMPT

logger = logging.getLogger(__name__)


class Engine:
    """Runs requests to their end, each with exactly one finish. Not thread-safe.

    Stages belong to the caller, who closes them. A drafter or retriever that fails is left
    alone for a while; a target that fails makes `step` raise until `replace_target`.

    Args:
        features: sequences send features even while there is no drafter, which may come later.

    Attributes:
        timings: where the time went so far.
    """

    def __init__(
        self,
        target: Target,
        settings: EngineSettings | None = None,
        *,
        drafter: Drafter | None = None,
        prompt: Retriever | None = None,
        corpus: Retriever | None = None,
        eos: frozenset[int] = frozenset(),
        features: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        settings = settings or EngineSettings()
        self.timings = Timings(clock)
        self._config = settings.engine
        self._eos = eos
        self._target = target
        self._info = target.info
        self._down = False
        self._scheduler = Scheduler(target.info, settings.engine)
        self._proposer = Proposer(
            settings.speculation, settings.retrieval, target.info.vocabulary, self.timings, clock
        )
        self._features = features
        self._step = 0
        self._prefix = np.zeros(2, np.int64)  # tokens admitted, and those that were there
        self._sequences: dict[int, Sequence] = {}
        self._released: list[int] = []  # handles the target may forget
        self._outbox: list[Output] = []
        self.replace_drafter(drafter)
        self._proposer.set_retriever(PROMPT, prompt, [])
        self._proposer.set_retriever(CORPUS, corpus, [])

    # --- requests ---------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Accepts a request; its outputs come from `step`.

        Raises:
            InvalidRequest: it can never run; the message names limit and value. Nothing
                happened.
        """
        if request.sequence in self._sequences:
            raise InvalidRequest(f"sequence {request.sequence} is in use")
        check_request(request, self._info.vocabulary)
        sequence = Sequence.of(request)
        self._scheduler.add(sequence)
        self._sequences[request.sequence] = sequence

    def cancel(self, number: int) -> None:
        """Ends a sequence; its last output comes from the next `step`. Unknown: ignored."""
        sequence = self._sequences.get(number)
        if sequence is not None:
            self._outbox.append(self._finish(sequence, "cancelled"))

    def cancel_all(self) -> list[Output]:
        """Ends everything, without the target. Gives the last outputs."""
        for number in list(self._sequences):
            self.cancel(number)
        outputs, self._outbox = self._outbox, []
        return outputs

    # --- stages -----------------------------------------------------------------------------

    def replace_target(self, target: Target) -> None:
        """Goes on with another target: running sequences are admitted again, text continues.

        The same one may be given again, if a step of it was interrupted: it is told to forget.

        Raises:
            ConfigError: it is of another kind than the last one.
        """
        if target.info != self._info:
            raise ConfigError(f"the new target is {target.info}, the last one was {self._info}")
        for sequence in self._scheduler.running:
            self._retire(sequence.handle, sequence)
        self._scheduler.set_back_all()
        if target is not self._target:
            self._released.clear()
        self._target = target
        self._down = False

    def replace_drafter(self, drafter: Drafter | None) -> None:
        """Drafts with another drafter, or with none. It starts cold for what runs."""
        self._features = self._features or drafter is not None
        self._proposer.set_drafter(drafter, self._scheduler.running)

    def replace_corpus(self, retriever: Retriever | None) -> None:
        """Asks another retriever for corpora, or none."""
        self._proposer.set_retriever(CORPUS, retriever, self._scheduler.running)

    def warm_up(self, limit_s: float = 1.0) -> None:
        """Runs made-up steps to know costs, unless it is busy. Raises StageError as `step`."""
        if not self._sequences and self._proposer.weighs:
            parts = (self._info, self._scheduler, self._proposer, self._verify, self.timings.clock)
            self._released += Rehearsal(*parts, limit_s).run()
            self._verify(StepPlan())

    # --- a step -----------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do; stages may still have to forget sequences."""
        idle = not (self._sequences or self._outbox or self._released)
        return not (idle and self._proposer.idle)

    def step(self) -> list[Output]:
        """Runs one step; gives at most one output per sequence.

        Raises:
            StageError: the target is gone or late; after `replace_target` the next step goes on.
        """
        if self._down:
            raise StageUnavailable("the target failed and was not replaced")
        with self.timings.measure("step") as since_s:
            plan = self._scheduler.plan(self._proposer.trees(self._step, self._scheduler.load()))
            for handle, sequence in plan.set_back:
                self._retire(handle, sequence)
            for sequence in plan.admitted:
                self._proposer.admit(sequence)
            reply = self._verify(plan)
            outputs, self._outbox = self._outbox, []
            outputs += self._apply(plan, reply) if reply is not None else []
            gained = self._scheduler.running if reply is not None else []
            self._proposer.ask(self._step, gained, self._scheduler.load())
            self._proposer.stepped(plan, reply, sum(len(o.tokens) for o in outputs), since_s)
            return outputs

    def _verify(self, plan: StepPlan) -> VerifyReply | None:
        """Runs the plan on the target; None if there is nothing to tell it."""
        self._step += 1
        request = VerifyRequest(
            self._step,
            self._released,
            [admission_of(s, drafts=self._drafts(s)) for s in plan.admitted],
            [work_of(planned) for planned in plan.work],
        )
        if not (request.release or request.admit or request.work):
            return None
        self._down = True  # until it has answered
        with self.timings.measure("verify") as since_s:
            try:
                reply = self._target.verify(request).wait(self._config.verify_deadline_s)
                check_reply(request, reply)
            except KVExhausted as error:
                self._exhausted(error)
                return None
            except StageError:
                raise
            except Exception as error:  # a stage may fail in any way
                raise StageUnavailable(f"the target failed: {error!r}") from error
        self._answered()
        self._prefix += (reply.asked, reply.restored)
        self._proposer.budget.verified(*cost_of(plan, reply), since_s)
        self.timings.add("forward", reply.forward_s)
        self.timings.add("walk", reply.walk_s)
        return reply

    def _drafts(self, sequence: Sequence) -> bool:
        return self._features and bool(self._proposer.uses(sequence) & DRAFT)

    def _answered(self) -> None:
        """The target did what the step said of releases and admissions."""
        self._down = False
        self._released = []

    def _exhausted(self, error: KVExhausted) -> None:
        """The target has fewer pages than it said. Without the youngest the others may go on."""
        logger.error("the scheduler and the target count pages differently: %s", error)
        self._answered()
        youngest = self._scheduler.running[-1]
        self._outbox.append(self._finish(youngest, "error", error=str(error)))

    def _apply(self, plan: StepPlan, reply: VerifyReply) -> list[Output]:
        outputs: list[Output] = []
        for planned, result in zip(plan.work, reply.results, strict=True):
            sequence = planned.sequence
            try:
                output = self._advance(planned, result)
            except Exception as error:  # one sequence's fault is not the others'
                logger.exception("sequence %d ends with an error", sequence.number)
                output = self._finish(sequence, "error", error=f"internal error: {error!r}")
            if output is not None:
                outputs.append(output)
        return outputs

    def _advance(self, planned: Planned, result: Verified) -> Output | None:
        """Takes over what one sequence gained; None while its prompt goes on."""
        sequence = planned.sequence
        if result.error:
            return self._finish(sequence, "error", error=result.error)
        check_result(planned, result, self._info.vocabulary)
        self._scheduler.commit(planned, len(result.path), result.slots)
        if not planned.draw:
            return None
        tokens, finish = until_end(sequence, result.tokens.tolist(), self._eos)
        self._proposer.learn(sequence, tokens)
        sources = count(sequence, planned.tree, result, len(tokens))
        origin = self._proposer.origin(sequence.handle, planned.tree, result.path[: len(tokens)])
        sequence.tokens += tokens
        logprobs = result.logprobs[: len(tokens)]
        if finish is not None:
            output = self._finish(sequence, finish)
            return replace(output, tokens=tokens, sources=sources, logprobs=logprobs, origin=origin)
        statistics = sequence.statistics.copy()
        return Output(sequence.number, tokens, sources, statistics, logprobs, origin=origin)

    def _finish(self, sequence: Sequence, reason: FinishReason, *, error: str = "") -> Output:
        """Forgets a sequence everywhere and makes its last output."""
        self._scheduler.remove(sequence)
        del self._sequences[sequence.number]
        if sequence.handle >= 0:
            self._retire(sequence.handle, sequence)
        return last_output(sequence, reason, error)

    def _retire(self, handle: int, sequence: Sequence) -> None:
        """No stage will hear of this handle again."""
        self._released.append(handle)
        self._proposer.retire(handle, sequence)

    # --- seen from outside ------------------------------------------------------------------

    def gauges(self) -> Gauges:
        """The load now."""
        scheduler = self._scheduler
        sequences = len(scheduler.running), len(scheduler.waiting)
        return Gauges(*sequences, scheduler.slots_used, scheduler.slots, *self._prefix.tolist())

    def check_integrity(self) -> None:
        """Checks that every list agrees with the others; between steps only.

        Raises:
            RasdError: naming what does not.
        """
        self._scheduler.check_integrity()
        known = {s.number for s in (*self._scheduler.running, *self._scheduler.waiting)}
        if known != set(self._sequences):
            raise RasdError(f"scheduled are {sorted(known)}, known {sorted(self._sequences)}")
        live = {s.handle for s in self._scheduler.running}
        if live & set(self._released):
            raise RasdError(f"handles {sorted(live & set(self._released))} run and are released")
