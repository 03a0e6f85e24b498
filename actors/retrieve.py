"""The engine's side of the datastore: asks every slot, merges what comes in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from actors.hedge import Choice, Part, choose
from actors.peer import Ask, Peer, Tenant
from actors.rpc import Client, take_in
from actors.table import ShardTable
from actors.wire import ShardQuery, encode
from rasd.config import RetrievalConfig, SpeculationConfig
from rasd.errors import StageTimeout
from rasd.retrieval import flat
from rasd.retrieval.merge import merge_all
from rasd.retrieval.merge import warm_up as warm_up_merge
from rasd.stages import RetrieveReply, RetrieveRequest
from rasd.tree import Int32s
from rasd.trie import Continuations


@dataclass(frozen=True, slots=True)
class _Slot:
    """A slot of the table: the version to ask for, and its processes."""

    corpora: frozenset[str]
    version: int
    peers: list[Peer]


@dataclass(slots=True)
class _Group:
    """Queries of a request that the same replicas of a slot are asked for."""

    places: list[int] = field(default_factory=list)
    tenants: set[Tenant] = field(default_factory=set)


class RemoteRetriever:
    """A `Retriever` over the slots of a table. Belongs to one thread.

    Each slot is asked once per step, for all queries that read a corpus it holds. Its replicas
    take turns. One that dies or is slow costs nothing but time: the same is asked of another.
    A slot without any makes answers partial; it never makes them late, and after three misses
    costs nothing either (`Peer`). So the engine need not keep away from the whole: what is late
    here says that it has been counted (`StageTimeout.counted`).
    """

    def __init__(
        self,
        settings: RetrievalConfig,
        speculation: SpeculationConfig,
        secret: bytes,
        vocabulary: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._speculation = speculation
        self._secret = secret
        self._vocabulary = vocabulary
        self._clock = clock
        self._turn = 0
        self._slots: list[_Slot] = []
        self._peers: dict[str, Peer] = {}
        flat.warm_up()
        warm_up_merge()

    def set_table(self, table: ShardTable) -> None:
        """Asks by this table from now on; keeps connections and breakers of those that stay."""
        known, self._peers = self._peers, {}
        for address in (address for slot in table.slots for address in slot.addresses):
            peer = known.pop(address, None) or Peer(
                address, self._secret, self._speculation, self._clock
            )
            self._peers[address] = peer
        self._slots = [
            _Slot(
                frozenset(slot.holdings),
                slot.version,
                [self._peers[address] for address in slot.addresses],
            )
            for slot in table.slots
        ]
        for peer in known.values():
            peer.close()

    def observe(self, sequence: int, tokens: Int32s) -> None:
        """Nothing: a query brings its tail."""

    def release(self, sequence: int) -> None:
        """Nothing: no shard knows sequences."""

    def retrieve(self, request: RetrieveRequest) -> Retrieving:
        """See `rasd.stages.Retriever`."""
        for peer in self._peers.values():
            peer.review()
        readers: dict[tuple[str, ...], list[int]] = {}
        for place, query in enumerate(request.queries):
            readers.setdefault(query.corpora, []).append(place)
        parts = [part for slot in self._slots for part in self._ask(slot, request, readers)]
        self._turn += 1
        return Retrieving(request, parts, self._settings.nodes, self._clock)

    def close(self) -> None:
        """Leaves the shards to their owner."""
        self.set_table(ShardTable(0))

    def _ask(
        self, slot: _Slot, request: RetrieveRequest, readers: dict[tuple[str, ...], list[int]]
    ) -> list[Part]:
        """Asks a slot: one part, but where tenants differ in whom they leave alone."""
        turn = self._turn % max(len(slot.peers), 1)
        peers = slot.peers[turn:] + slot.peers[:turn]
        groups: dict[Choice, _Group] = {}
        for corpora, places in readers.items():
            if not slot.corpora.isdisjoint(corpora):
                tenant = frozenset(corpora)
                group = groups.setdefault(choose(peers, tenant), _Group())
                group.places += places
                group.tenants.add(tenant)
        parts = []
        for choice, group in groups.items():
            queries = [request.queries[place] for place in group.places]
            query = ShardQuery(slot.version, request.step, flat.pack_queries(queries))
            ask = Ask(request.step, queries, group.tenants, encode(query), self._vocabulary)
            parts.append(Part(ask, group.places, choice, self._speculation.retrieve_deadline_s))
            parts[-1].advance(self._clock())
        return parts


class Retrieving:
    """The `Pending` answer of all slots."""

    def __init__(
        self,
        request: RetrieveRequest,
        parts: list[Part],
        nodes: int,
        clock: Callable[[], float],
    ) -> None:
        self._request = request
        self._parts = parts
        self._nodes = nodes
        self._clock = clock

    def wait(self, timeout_s: float) -> RetrieveReply:
        """What is here at the deadline; earlier if all is. See `rasd.stages.Pending`.

        Other replicas are asked while it waits, or before it gives up.

        Raises:
            StageTimeout: no shard has answered yet.
        """
        deadline = self._clock() + timeout_s
        left = 0.0
        while True:
            take_in(self._clients(), left)
            now = self._clock()
            for part in self._parts:
                part.advance(now)
            waiting = [part for part in self._parts if part.waits]
            if not waiting or now >= deadline:
                break
            left = max(min(deadline - now, *(part.next_s(now) for part in waiting)), 0.0)
        if waiting and not any(part.answer for part in self._parts):
            raise StageTimeout(f"no shard answered in {timeout_s:.3f} s", counted=True)
        return self._merged()

    def _clients(self) -> list[Client]:
        return list({id(client): client for part in self._parts for client in part.owing}.values())

    def _merged(self) -> RetrieveReply:
        answers: list[list[Continuations]] = [[] for _ in self._request.queries]
        partial = False
        for part in self._parts:
            question = part.answer
            partial = partial or question is None or question.partial
            found = question.found if question is not None and question.found is not None else []
            for place, each in zip(part.places, found, strict=False):
                answers[place].append(each)
        return RetrieveReply(self._request.step, merge_all(answers, self._nodes), partial)
