"""Asks slots which passages are near new prompts. Waits for nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from actors.peer import Peer
from actors.rpc import Call
from actors.wire import DenseQuery, DenseReply
from rasd.config import DenseConfig, RetrievalConfig
from rasd.errors import RasdError
from rasd.retrieval.dense.choices import Choices, Wish
from rasd.retrieval.dense.packed import unpack_passages
from rasd.retrieval.dense.passages import Passage
from rasd.retrieval.dense.select import Source
from rasd.stages import RetrieveQuery

_TAKEN: Final = 2  # prompts per step whose answers are taken in: sorting some takes milliseconds


class Holder(Protocol):
    """A slot, as far as it matters here. ``key`` changes with what it holds."""

    @property
    def key(self) -> Source: ...
    @property
    def version(self) -> int: ...
    @property
    def corpora(self) -> frozenset[str]: ...
    @property
    def peers(self) -> Sequence[Peer]: ...


@dataclass(slots=True)
class _Open:
    """A wish on its way: to whom, and what came."""

    wish: Wish
    until_s: float
    calls: dict[Source, Call[DenseReply]] = field(default_factory=dict)
    answers: dict[Source, list[Passage]] = field(default_factory=dict)


class Near:
    """Between the slots and the `Choices` of an engine's sequences. Belongs to one thread.

    Each slot is asked once per sequence, one replica of it, when the sequence first asks for
    continuations. Who fails, or is late, has selected nothing: it goes on being asked.
    """

    def __init__(
        self,
        dense: DenseConfig,
        settings: RetrievalConfig,
        vocabulary: int,
        clock: Callable[[], float],
    ) -> None:
        self.choices = Choices(dense, settings, vocabulary)
        self._deadline_s = dense.deadline_s
        self._vocabulary = vocabulary
        self._clock = clock
        self._open: dict[int, _Open] = {}

    def release(self, sequence: int) -> None:
        """Forgets the sequence, and what is on its way."""
        self._open.pop(sequence, None)
        self.choices.release(sequence)

    def step(self, queries: Iterable[RetrieveQuery], slots: Sequence[Holder]) -> None:
        """Takes in what came, as far as `Peer.review` has read it; asks about new prompts."""
        now = self._clock()
        for asked in self._open.values():
            self._look(asked)
        done = [asked for asked in self._open.values() if not asked.calls or now > asked.until_s]
        for asked in done[:_TAKEN]:
            del self._open[asked.wish.sequence]
            self.choices.answered(asked.wish.sequence, asked.answers)
        for wish in self.choices.wishes(queries):
            asked = _Open(wish, now + self._deadline_s)
            self._open[wish.sequence] = asked
            for slot in slots:
                call = self._call(slot, wish)
                if call is not None:
                    asked.calls[slot.key] = call

    def _call(self, slot: Holder, wish: Wish) -> Call[DenseReply] | None:
        tenant = frozenset(wish.corpora)
        able = [peer for peer in slot.peers if not peer.avoided(tenant)]
        if not able or slot.corpora.isdisjoint(tenant):
            return None
        prompt = wish.prompt.astype(np.int32)
        query = DenseQuery(slot.version, prompt, wish.corpora, wish.count)
        return min(able, key=lambda peer: peer.overdue).call(query, DenseReply)

    def _look(self, asked: _Open) -> None:
        """Notes the answers that are here, and that some will never come."""
        corpora = len(asked.wish.corpora)
        for source, call in list(asked.calls.items()):
            if not (call.settled or call.client.gone):
                continue
            del asked.calls[source]
            try:
                packed = call.wait(0).passages
                asked.answers[source] = unpack_passages(packed, corpora, self._vocabulary)
            except RasdError:
                continue  # it selected nothing
