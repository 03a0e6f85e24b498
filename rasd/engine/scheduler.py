"""Who runs in a step, and with how many nodes. Mirrors the target's pages; asks nobody.

A sequence holds ``ceil((slots + nodes appended in this step) / page_size)`` pages, and no page
serves two. In the step of its admission it counts with all its tokens: the target may have them.
Sequences run in the order they arrived; when pages run out, trees are cut first, then the
youngest sequences wait again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from rasd.config import EngineConfig
from rasd.engine.budget import Load
from rasd.engine.sequence import Sequence
from rasd.errors import InvalidRequest, RasdError
from rasd.stages import TargetInfo
from rasd.tree import DraftTree, cut


@dataclass(frozen=True, slots=True)
class Planned:
    """What a sequence runs: a tree, or ``chunk`` tokens of what the target lacks.

    With ``draw`` the target draws behind the decided tokens.
    """

    sequence: Sequence
    draw: bool
    tree: DraftTree | None = None
    chunk: int = 0


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. ``set_back`` sequences wait again; with the handles they had."""

    admitted: list[Sequence] = field(default_factory=list)
    set_back: list[tuple[int, Sequence]] = field(default_factory=list)
    work: list[Planned] = field(default_factory=list)


class Scheduler:
    """Owns the waiting queue and the running list, both in order of arrival."""

    def __init__(self, info: TargetInfo, config: EngineConfig) -> None:
        self._info = info
        self._config = config
        self._pages = info.kv_slots // info.page_size
        self._handles = 0
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    @property
    def slots(self) -> int:
        """Slots in all, in whole pages."""
        return self._pages * self._info.page_size

    @property
    def slots_used(self) -> int:
        """Slots of the pages that sequences hold between steps."""
        return self._info.page_size * sum(self._pages_for(s.slots) for s in self.running)

    @property
    def most(self) -> int:
        """Sequences that may run at once."""
        return self._config.max_sequences

    def new_handle(self) -> int:
        """A handle that no sequence had before."""
        self._handles += 1
        return self._handles - 1

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence.

        Raises:
            InvalidRequest: it could not end even if it ran alone.
        """
        prompt, new = len(sequence.request.prompt), sequence.request.params.max_tokens
        asked = f"prompt of {prompt} tokens and max_tokens {new}"
        if prompt + new > self._info.max_positions:
            raise InvalidRequest(
                f"{asked} exceed the context of {self._info.max_positions} tokens",
                param="max_tokens",
            )
        if prompt + new - 1 > self.slots:  # the last token drawn never enters the cache
            raise InvalidRequest(
                f"{asked} exceed the {self.slots} slots for keys and values", param="max_tokens"
            )
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence, wherever it is."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)

    def set_back_youngest(self) -> None:
        """The youngest running sequence waits again, first in the queue."""
        youngest = self.running.pop()
        youngest.set_back()
        youngest.statistics.preemptions += 1
        self.waiting.appendleft(youngest)

    def set_back_all(self) -> None:
        """All running sequences wait again, before the others, in their order."""
        for sequence in reversed(self.running):
            sequence.set_back()
            self.waiting.appendleft(sequence)
        self.running.clear()

    def load(self) -> Load:
        """What the next step will run beside trees, about."""
        decoding = sum(sequence.decoding for sequence in self.running)
        lacking = sum(len(s.tokens) - s.slots for s in self.running if not s.decoding)
        if len(self.running) < self._config.max_sequences:
            lacking += sum(len(sequence.tokens) for sequence in self.waiting)
        rows = decoding + min(lacking, self._config.chunk_tokens)
        gaining = decoding or len(self.running) + len(self.waiting)
        return Load(rows, gaining, sum(sequence.slots for sequence in self.running))

    def plan(self, trees: Mapping[int, DraftTree]) -> StepPlan:
        """Decides one step; ``trees`` by handle. Decoding sequences without one decode plainly.

        Moves sequences between the lists; their slots change only in `commit`.
        """
        plan = StepPlan()
        self._make_room(plan)
        chunks = self._chunks(self.running, self._config.chunk_tokens)
        self._admit(plan, self._config.chunk_tokens - sum(chunks.values()))
        chunks = self._chunks(self.running, self._config.chunk_tokens)
        old = self.running[: len(self.running) - len(plan.admitted)]
        spare = self._pages - sum(self._pages_for(self._rows(s, chunks)) for s in old)
        spare -= sum(self._pages_for(len(s.tokens)) for s in plan.admitted)
        for sequence in self.running:
            if sequence.decoding:
                base = sequence.slots + 1
                room = self._pages_for(base) * self._info.page_size - base
                room += spare * self._info.page_size
                tree = trees.get(sequence.handle)
                if tree is None or room < 1:
                    plan.work.append(Planned(sequence, True, chunk=1))
                    continue
                tree = cut(tree, room)
                spare -= self._pages_for(base + len(tree) - 1) - self._pages_for(base)
                plan.work.append(Planned(sequence, True, tree))
            elif sequence.handle in chunks:
                chunk = chunks[sequence.handle]
                draw = sequence.slots + chunk == len(sequence.tokens)
                plan.work.append(Planned(sequence, draw, chunk=chunk))
        return plan

    def commit(self, planned: Planned, accepted: int, slots: int = -1) -> None:
        """The target kept the decided tokens and ``accepted`` nodes of a tree.

        Args:
            slots: how many tokens it holds, if more than it was brought; else -1.
        """
        sequence = planned.sequence
        sequence.decoding = planned.draw
        sequence.slots += accepted + (planned.chunk if planned.tree is None else 1)
        sequence.slots = max(sequence.slots, slots)

    def check_integrity(self) -> None:
        """Checks that pages and lists agree.

        Raises:
            RasdError: naming what does not.
        """
        if self.slots_used > self.slots:
            raise RasdError(f"{self.slots_used} slots are in use, there are {self.slots}")
        for sequence in self.running:
            lacking = len(sequence.tokens) - sequence.slots
            if sequence.handle < 0 or lacking < 1 or (sequence.decoding and lacking != 1):
                raise RasdError(f"running sequence {sequence.number} lacks {lacking} slots")
        for sequence in self.waiting:
            if sequence.handle >= 0 or sequence.slots:
                raise RasdError(f"waiting sequence {sequence.number} holds slots")
        numbers = [s.number for s in (*self.running, *self.waiting)]
        if len(set(numbers)) < len(numbers):
            raise RasdError("a sequence is in two places")

    def _chunks(self, sequences: list[Sequence], budget: int) -> dict[int, int]:
        """Tokens per handle that enter beside the trees, first come first served."""
        chunks: dict[int, int] = {}
        for sequence in sequences:
            if not sequence.decoding and budget > 0:
                chunk = min(len(sequence.tokens) - sequence.slots, budget)
                chunks[sequence.handle] = chunk
                budget -= chunk
        return chunks

    def _make_room(self, plan: StepPlan) -> None:
        """Sets back the youngest until the others can run without proposals."""
        while True:
            chunks = self._chunks(self.running, self._config.chunk_tokens)
            need = sum(self._pages_for(self._rows(s, chunks)) for s in self.running)
            if need <= self._pages:
                return
            plan.set_back.append((self.running[-1].handle, self.running[-1]))
            self.set_back_youngest()

    def _admit(self, plan: StepPlan, budget: int) -> None:
        """Lets sequences in while a chunk of them can start and all their tokens will fit.

        Room for their later output is not kept: most end early, and the youngest can wait.
        """
        claimed = sum(self._pages_for(len(s.tokens) + 1) for s in self.running)
        while self.waiting and budget > 0 and len(self.running) < self._config.max_sequences:
            claimed += self._pages_for(len(self.waiting[0].tokens) + 1)
            if claimed > self._pages and self.running:
                return
            sequence = self.waiting.popleft()
            sequence.handle = self.new_handle()
            self.running.append(sequence)
            plan.admitted.append(sequence)
            budget -= len(sequence.tokens)

    def _rows(self, sequence: Sequence, chunks: Mapping[int, int]) -> int:
        """Slots after this step, proposals aside."""
        new = 1 if sequence.decoding else chunks.get(sequence.handle, 0)
        return sequence.slots + new

    def _pages_for(self, slots: int) -> int:
        return -(-slots // self._info.page_size)
