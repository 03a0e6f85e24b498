"""A shard process as an engine sees it: a connection, what it owes, and who leaves it alone.

Questions are counted where they are, in time and not in waits: whoever looks (`Peer.review`)
finds out what came meanwhile and what is overdue. So a process that is frozen is left alone
soon, however rarely it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from actors.rpc import Call, Client
from actors.wire import ShardReply
from rasd.config import SpeculationConfig
from rasd.engine.breaker import Breaker
from rasd.errors import RasdError, WireError
from rasd.retrieval.flat import unpack_answers
from rasd.stages import RetrieveQuery
from rasd.trie import Continuations

A = TypeVar("A")
Tenant = frozenset[str]
"""What a query may read. Who reads the same corpora knows the same."""

_HEDGE: Final = 0.25
_SILENCE_S: Final = 1.0  # of one question, that opens a breaker whatever the deadline
_MAX_TENANTS: Final = 1024


def patience_s(deadline_s: float) -> float:
    """When a question is overdue, so that another replica is asked as well: at a quarter of the
    deadline, or of the silence that opens a breaker.
    """
    return _HEDGE * min(deadline_s, _SILENCE_S)


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of one replica or another: encoded once, for these tenants' queries."""

    step: int
    queries: Sequence[RetrieveQuery]
    tenants: Collection[Tenant]
    body: bytearray
    vocabulary: int

    def answers_of(self, reply: ShardReply) -> list[Continuations]:
        """What a reply says to the queries.

        Raises:
            WireError: it is no reply to them.
        """
        if reply.step != self.step:
            raise WireError(f"step {self.step} was asked for; {reply.step} is answered")
        return unpack_answers(reply.answers, self.queries, self.vocabulary)


@dataclass(eq=False, slots=True)
class Question:
    """An `Ask` on its way to one process. ``found`` is set once its answer is here and sound."""

    peer: Peer
    ask: Ask
    call: Call[ShardReply]
    since_s: float
    found: list[Continuations] | None = None
    partial: tuple[int, ...] = ()
    failed: bool = False
    missed: bool = False

    @property
    def open(self) -> bool:
        """Whether an answer may still come."""
        return self.found is None and not self.failed

    def look(self) -> None:
        """Takes note of an answer, or that none will come; tells the breakers. Waits for nothing.

        An answer that comes after its deadline is used, but closes no breaker.
        """
        if not self.open or not (self.call.settled or self.call.client.gone):
            return
        try:
            reply = self.call.wait(0)
            self.found = self.ask.answers_of(reply)
            self.partial = reply.partial
        except RasdError:
            self.failed = True
        self.peer.note(self)


class Peer:
    """One process that answers for a slot. Belongs to one thread.

    Each tenant has a breaker of its own here, made at its first miss and gone with a success;
    the last 1024 are kept. A broken connection counts for all.

    Attributes:
        address: where it listens; owed: questions without an answer, oldest first.
    """

    def __init__(
        self,
        address: str,
        secret: bytes,
        settings: SpeculationConfig,
        clock: Callable[[], float],
    ) -> None:
        self.address = address
        self.owed: list[Question] = []
        self._secret = secret
        self._settings = settings
        self._clock = clock
        self._breakers: dict[Tenant, Breaker] = {}
        self._link = Breaker(1, settings.breaker_probe_s, clock)
        self._deadline_s = settings.retrieve_deadline_s
        self._patience_s = patience_s(self._deadline_s)
        self._silence_s = min(settings.breaker_misses * self._deadline_s, _SILENCE_S)
        self._client = Client(address, secret)

    def avoided(self, tenant: Tenant) -> bool:
        """Whether it is left alone: the tenant's breaker is open, or the connection broke."""
        breaker = self._breakers.get(tenant)
        return self._link.open or (breaker is not None and breaker.open)

    def probe_due(self, tenant: Tenant) -> bool:
        """Whether one question may go to it though it is avoided. A yes is the probe."""
        breaker = self._link if self._link.open else self._breakers.get(tenant)
        return breaker is not None and breaker.allow()

    def doubted(self, tenant: Tenant) -> bool:
        """Whether it missed the tenant's last question: the next is asked apart from others', so
        that one tenant's questions do not close it to another.
        """
        return tenant in self._breakers

    @property
    def overdue(self) -> bool:
        """Whether it owes an answer that should be here: another one is the better choice."""
        return bool(self.owed) and self._clock() - self.owed[0].since_s > self._patience_s

    def send(self, ask: Ask) -> Question | None:
        """Asks it; None if it cannot be asked."""
        if self._client.gone:
            self._client.close()
            self._client = Client(self.address, self._secret)
        try:
            call = self._client.send(ask.body, ShardReply)
        except RasdError:
            self._link.miss()
            return None
        question = Question(self, ask, call, self._clock())
        self.owed.append(question)
        return question

    def call(self, message: object, answer: type[A]) -> Call[A] | None:
        """Asks it something that may as well stay unanswered: no breaker counts it.

        None if it cannot be asked.
        """
        try:
            return self._client.call(message, answer)
        except RasdError:
            return None

    def review(self) -> None:
        """Takes note of all that came, and counts what did not come in time as misses.

        Silence for as long as it takes to miss often enough opens a breaker too: a process that
        is asked rarely is not asked three times before it counts as gone.
        """
        self._client.read()
        now = self._clock()
        for question in list(self.owed):
            question.look()
            silent_s = now - question.since_s if question.open else 0.0
            if silent_s > self._deadline_s and not question.missed:
                question.missed = True
                self._miss(question.ask.tenants)
            if silent_s > self._silence_s:
                self._shun(question)
        if self._client.gone and not self._link.open:
            self._link.miss()

    def note(self, question: Question) -> None:
        """What became of a question that is no longer open."""
        if question in self.owed:
            self.owed.remove(question)
        if question.found is not None:
            self._link.success()
            if not question.missed:
                for tenant in question.ask.tenants:
                    self._breakers.pop(tenant, None)
        elif not question.call.client.gone:
            self._miss(question.ask.tenants)
        elif question.call.client is self._client:
            self._link.miss()

    def close(self) -> None:
        """Leaves the process to its owner."""
        self._client.close()

    def _miss(self, tenants: Collection[Tenant]) -> None:
        for tenant in tenants:
            self._breaker(tenant).miss()

    def _shun(self, question: Question) -> None:
        """Opens the breakers at once; nobody waits for this answer any more."""
        self.owed.remove(question)
        for tenant in question.ask.tenants:
            breaker = self._breaker(tenant)
            while not breaker.open:
                breaker.miss()

    def _breaker(self, tenant: Tenant) -> Breaker:
        breaker = self._breakers.get(tenant)
        if breaker is None:
            if len(self._breakers) >= _MAX_TENANTS:
                self._breakers.pop(next(iter(self._breakers)))
            settings = self._settings
            breaker = Breaker(settings.breaker_misses, settings.breaker_probe_s, self._clock)
            self._breakers[tenant] = breaker
        return breaker
