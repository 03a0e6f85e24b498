"""Steps of made-up sequences: before the first request, costs are known and code is warm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from rasd.engine.api import Request
from rasd.engine.propose import Proposer
from rasd.engine.scheduler import Planned, Scheduler, StepPlan
from rasd.engine.sequence import Sequence
from rasd.engine.verdict import check_result
from rasd.params import SamplingParams
from rasd.stages import TargetInfo, VerifyReply
from rasd.tree import DRAFT, DraftTree

_GROUPS: Final = (
    (1, 16, (1, 2, 4, 8, 16, 32, 64)),
    (8, 4, (1, 2)),
    (32, 4, (1,)),
)
"""Sequences, tokens of their prompts, and rows that each of them runs."""
_REPEATS: Final = 3
_ROOM: Final = 128
_DEPTH: Final = 4  # of a tree of 64 rows
_WIDTH: Final = 4
_TENANT: Final = "\0rehearsal"


class Rehearsal:
    """Runs steps through the contracts, as real ones, and leaves nothing behind.

    Args:
        verify: runs a plan on the target.
        limit_s: no step begins later than this.
    """

    def __init__(
        self,
        info: TargetInfo,
        scheduler: Scheduler,
        proposer: Proposer,
        verify: Callable[[StepPlan], VerifyReply | None],
        clock: Callable[[], float],
        limit_s: float,
    ) -> None:
        self._info = info
        self._scheduler = scheduler
        self._proposer = proposer
        self._verify = verify
        self._clock = clock
        self._until_s = clock() + limit_s

    def run(self) -> list[int]:
        """Gives the handles of sequences that the target must forget.

        Raises:
            StageError: the target is gone or did not answer in time.
        """
        handles: list[int] = []
        for count, prompt, sizes in _GROUPS:
            if self._fits(count, prompt + _ROOM + max(sizes)):
                group = [self._sequence(i, prompt) for i in range(count)]
                handles += [sequence.handle for sequence in group]
                try:
                    self._play(group, sizes)
                finally:
                    for sequence in group:
                        self._proposer.retire(sequence.handle, sequence)
        self._proposer.budget.rehearse(going_on=False)
        self._proposer.ask(0, [], self._scheduler.load())
        return handles

    def _fits(self, count: int, tokens: int) -> bool:
        size = self._info.page_size
        pages = count * -(-tokens // size)
        return (
            count <= self._scheduler.most
            and tokens <= self._info.max_positions
            and pages <= self._info.kv_slots // size
            and self._info.vocabulary >= _WIDTH
        )

    def _sequence(self, number: int, tokens: int) -> Sequence:
        places = np.arange(tokens) + 1
        prompt = (places * (7919 + 104_729 * number) % self._info.vocabulary).astype(np.int32)
        params = SamplingParams(max_tokens=_ROOM, temperature=0.0, seed=0)
        sequence = Sequence.of(Request(-1 - number, prompt, params, tenant=_TENANT))
        sequence.handle = self._scheduler.new_handle()
        self._proposer.admit(sequence)
        return sequence

    def _play(self, group: list[Sequence], sizes: tuple[int, ...]) -> None:
        """Prompts first, then each size some times: the first warms up."""
        budget = self._proposer.budget
        budget.rehearse(going_on=True)
        works = [Planned(each, True, chunk=len(each.tokens)) for each in group]
        if not self._step(StepPlan(group, [], works)):
            return
        for size in sizes:
            budget.rehearse(going_on=True)
            for _ in range(_REPEATS):
                works = [_planned(each, size) for each in group]
                enough = min(each.remaining for each in group) > _DEPTH
                in_time = self._clock() < self._until_s
                if not (enough and in_time and self._step(StepPlan([], [], works))):
                    return

    def _step(self, plan: StepPlan) -> bool:
        """One step with its questions to the sources; whether to go on."""
        self._proposer.trees(0, self._scheduler.load())
        reply = self._verify(plan)
        if reply is None or any(result.error for result in reply.results):
            return False
        for planned, result in zip(plan.work, reply.results, strict=True):
            check_result(planned, result, self._info.vocabulary)
            self._scheduler.commit(planned, len(result.path))
            planned.sequence.tokens += result.tokens.tolist()
        self._proposer.ask(0, [w.sequence for w in plan.work], self._scheduler.load())
        return True


def _planned(sequence: Sequence, rows: int) -> Planned:
    if rows == 1:
        return Planned(sequence, True, chunk=1)
    tokens = [sequence.root, *((sequence.root + i) % _WIDTH for i in range(1, rows))]
    parents = [(i - 1) // _WIDTH for i in range(rows)]
    sources = [0] + [DRAFT] * (rows - 1)
    return Planned(sequence, True, DraftTree.of(tokens, parents, [1.0] * rows, sources))
