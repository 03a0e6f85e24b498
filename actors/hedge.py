"""Asks the replicas of a slot one after the other, until one of them answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from actors.peer import Ask, Peer, Question, Tenant, patience_s
from actors.rpc import Client


@dataclass(frozen=True, slots=True)
class Choice:
    """Whom to ask for a tenant's queries at a slot.

    ``peers`` may all be asked, the first at once, another when those before failed or are
    overdue. ``probes`` are left alone by the tenant, but one question is due: they are asked at
    once, beside the first, and nobody waits for them. ``apart`` is set where one of those asked
    at once is in doubt (`Peer.doubted`): then the tenant asks alone.
    """

    peers: tuple[Peer, ...]
    probes: tuple[Peer, ...]
    apart: Tenant | None = None


def choose(peers: Sequence[Peer], tenant: Tenant) -> Choice:
    """Of ``peers`` in the order of their turn; those that owe an answer come last."""
    able = [peer for peer in peers if not peer.avoided(tenant)]
    able.sort(key=lambda peer: peer.overdue)
    probes = tuple(peer for peer in peers if peer.avoided(tenant) and peer.probe_due(tenant))
    apart = any(peer.doubted(tenant) for peer in (*able[:1], *probes))
    return Choice(tuple(able), probes, tenant if apart else None)


class Part:
    """Some queries of a request at one slot.

    Attributes:
        places: of its queries in the request.
        answer: the first sound one, once it is here.
    """

    def __init__(self, ask: Ask, places: list[int], choice: Choice, deadline_s: float) -> None:
        self.places = places
        self.answer: Question | None = None
        self._ask = ask
        self._patience_s = patience_s(deadline_s)
        self._next = list(choice.peers)
        self._probes = [asked for peer in choice.probes if (asked := peer.send(ask)) is not None]
        self._asked: list[Question] = []

    @property
    def waits(self) -> bool:
        """Whether an answer is missing and worth waiting for."""
        return self.answer is None and any(question.open for question in self._asked)

    @property
    def lacking(self) -> list[int]:
        """Places of the queries that are not answered, or not by all that the slot holds."""
        if self.answer is None:
            return self.places
        return [place for i, place in enumerate(self.places) if i in self.answer.partial]

    @property
    def owing(self) -> list[Client]:
        """From where an answer may still come."""
        return [question.call.client for question in (*self._asked, *self._probes) if question.open]

    def advance(self, now_s: float) -> None:
        """Takes note of what came. Asks the first replica, and more if those are late or failed."""
        for question in (*self._asked, *self._probes):
            question.look()
            if question.found is not None and self.answer is None:
                self.answer = question
        while self.answer is None and self._next and self.next_s(now_s) <= 0:
            asked = self._next.pop(0).send(self._ask)
            if asked is not None:
                self._asked.append(asked)

    def next_s(self, now_s: float) -> float:
        """In how many seconds another replica is to be asked, if none has answered by then."""
        if not self._next:
            return math.inf
        last = self._asked[-1] if self._asked else None
        return last.since_s + self._patience_s - now_s if last is not None and last.open else 0.0
