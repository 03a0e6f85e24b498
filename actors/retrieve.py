"""The engine's side of the datastore: asks shards, merges what comes in time."""

from __future__ import annotations

import time
from dataclasses import dataclass

from actors.rpc import Call, Client, take_in
from actors.table import ShardTable, Slot
from actors.wire import ShardQuery
from rasd.config import RetrievalConfig, SpeculationConfig
from rasd.engine.breaker import Breaker
from rasd.errors import RasdError, StageTimeout
from rasd.retrieval.merge import merge
from rasd.stages import RetrieveReply, RetrieveRequest
from rasd.tree import Int32s
from rasd.trie import Continuations


class _Shard:
    """One shard behind a breaker. A broken connection is tried again with the next question."""

    def __init__(self, slot: Slot, speculation: SpeculationConfig, secret: bytes) -> None:
        self.slot = slot
        self.breaker = Breaker(
            speculation.breaker_misses, speculation.breaker_probe_s, time.monotonic
        )
        self._secret = secret
        self._client: Client | None = None

    def ask(self, query: ShardQuery) -> Call[RetrieveReply] | None:
        """The call, or None if the shard is to be left alone or cannot be asked."""
        if not self.breaker.allow():
            return None
        if self._client is None or self._client.gone:
            self.close()
            self._client = Client(self.slot.addresses[0], self._secret)
        try:
            return self._client.call(query, RetrieveReply)
        except RasdError:
            self.breaker.miss()
            return None

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


@dataclass(slots=True)
class _Asked:
    """A question to one shard: the places of its queries in the request."""

    shard: _Shard
    places: list[int]
    call: Call[RetrieveReply]
    missed: bool = False

    def miss(self) -> None:
        """Counts once, however often the answer is waited for."""
        if not self.missed:
            self.missed = True
            self.shard.breaker.miss()

    @property
    def open(self) -> bool:
        """Whether an answer may still come."""
        return not self.call.settled and not self.call.client.gone


class RemoteRetriever:
    """A `Retriever` over the shards of a table. Belongs to one thread.

    A query goes only to shards that hold partitions of its corpora. Shards that are gone, late
    or left alone make an answer partial; they never make it late.
    """

    def __init__(
        self, settings: RetrievalConfig, speculation: SpeculationConfig, secret: bytes
    ) -> None:
        self._settings = settings
        self._speculation = speculation
        self._secret = secret
        self._shards: list[_Shard] = []

    def set_table(self, table: ShardTable) -> None:
        """Asks the shards of this table from now on; keeps connections to those that stay."""
        known = {shard.slot.addresses[0]: shard for shard in self._shards}
        self._shards = []
        for slot in (slot for slot in table.slots if slot.addresses):
            shard = known.pop(slot.addresses[0], None)
            if shard is None:
                shard = _Shard(slot, self._speculation, self._secret)
            shard.slot = slot
            self._shards.append(shard)
        for shard in known.values():
            shard.close()

    def observe(self, sequence: int, tokens: Int32s) -> None:
        """Nothing: a query brings its tail."""

    def release(self, sequence: int) -> None:
        """Nothing: no shard knows sequences."""

    def retrieve(self, request: RetrieveRequest) -> Retrieving:
        """See `rasd.stages.Retriever`."""
        asked: list[_Asked] = []
        partial = False
        for shard in self._shards:
            held = shard.slot.holdings.keys()
            places = [i for i, q in enumerate(request.queries) if not held.isdisjoint(q.corpora)]
            if not places:
                continue
            part = RetrieveRequest(request.step, [request.queries[i] for i in places])
            call = shard.ask(ShardQuery(shard.slot.version, part))
            if call is None:
                partial = True
            else:
                asked.append(_Asked(shard, places, call))
        return Retrieving(request, asked, partial, self._settings.nodes)

    def close(self) -> None:
        """Leaves the shards to their owner."""
        self.set_table(ShardTable(0))


class Retrieving:
    """The `Pending` answer of several shards."""

    def __init__(
        self, request: RetrieveRequest, asked: list[_Asked], partial: bool, nodes: int
    ) -> None:
        self._request = request
        self._asked = asked
        self._partial = partial
        self._nodes = nodes

    def wait(self, timeout_s: float) -> RetrieveReply:
        """What is here at the deadline; earlier if all is. See `rasd.stages.Pending`.

        Raises:
            StageTimeout: no shard has answered yet.
        """
        deadline = time.monotonic() + timeout_s
        take_in([asked.call.client for asked in self._asked], 0)
        while waiting := [asked for asked in self._asked if asked.open]:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            take_in([asked.call.client for asked in waiting], left)
        for asked in waiting:
            asked.miss()
        if waiting and not any(asked.call.settled for asked in self._asked):
            raise StageTimeout(f"no shard answered in {timeout_s:.3f} s")
        return self._merged()

    def _merged(self) -> RetrieveReply:
        answers: list[list[Continuations]] = [[] for _ in self._request.queries]
        partial = self._partial
        for asked in self._asked:
            reply = self._reply_of(asked)
            partial = partial or reply is None or reply.partial
            for place, found in zip(asked.places, reply.found if reply else [], strict=False):
                answers[place].append(found)
        merged = [merge(each, self._nodes) for each in answers]
        return RetrieveReply(self._request.step, merged, partial)

    def _reply_of(self, asked: _Asked) -> RetrieveReply | None:
        try:
            reply = asked.call.wait(0)
        except RasdError:
            asked.miss()
            return None
        if reply.step != self._request.step or len(reply.found) != len(asked.places):
            asked.miss()
            return None
        if not asked.missed:
            asked.shard.breaker.success()
        return reply
