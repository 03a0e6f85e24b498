"""The engine's side of the datastore: asks every slot, merges what comes in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from actors.hedge import Choice, Part, choose
from actors.near import Near
from actors.peer import Ask, Peer, Tenant
from actors.rpc import Client, take_in
from actors.table import ShardTable
from actors.wire import ShardQuery, encode
from rasd.config import RetrievalConfig, SpeculationConfig
from rasd.errors import StageTimeout
from rasd.retrieval import flat
from rasd.retrieval.dense.select import united, widened
from rasd.retrieval.merge import merge_all
from rasd.retrieval.merge import warm_up as warm_up_merge
from rasd.stages import RetrieveQuery, RetrieveReply, RetrieveRequest
from rasd.tree import Int32s
from rasd.trie import Continuations


@dataclass(frozen=True, slots=True)
class _Slot:
    """A slot of the table: the version to ask for, and its processes.

    ``key`` names what it holds: its number and version.
    """

    key: tuple[int, int]
    corpora: frozenset[str]
    version: int
    peers: list[Peer]


@dataclass(slots=True)
class _Group:
    """Queries of a request that the same replicas of a slot are asked for."""

    places: list[int] = field(default_factory=list)
    queries: list[RetrieveQuery] = field(default_factory=list)
    tenants: set[Tenant] = field(default_factory=set)


class RemoteRetriever:
    """A `Retriever` over the slots of a table. Belongs to one thread.

    A request asks each slot once, for all queries that read a corpus it holds. Its replicas
    take turns. One that dies or is slow costs nothing but time: the same is asked of another.
    A slot without any makes the answers partial that read from it; it never makes them late, and
    after three misses costs nothing either (`Peer`). So the engine need not keep away from the
    whole: what is late here says that it has been counted (`StageTimeout.counted`).
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
        dense = settings.dense
        self._near = None if dense is None else Near(dense, settings, vocabulary, clock)
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
                (number, slot.version),
                frozenset(slot.holdings),
                slot.version,
                [self._peers[address] for address in slot.addresses],
            )
            for number, slot in enumerate(table.slots)
        ]
        for peer in known.values():
            peer.close()

    def observe(self, sequence: int, tokens: Int32s) -> None:
        """Its first tokens are its prompt, which may select what it is asked by."""
        if self._near is not None:
            self._near.choices.observe(sequence, tokens)

    def release(self, sequence: int) -> None:
        """Forgets what its prompt selected. No shard knows sequences."""
        if self._near is not None:
            self._near.release(sequence)

    def retrieve(self, request: RetrieveRequest) -> Retrieving:
        """See `rasd.stages.Retriever`."""
        for peer in self._peers.values():
            peer.review()
        copied: list[Continuations | None] = [None] * len(request.queries)
        if self._near is not None:
            self._near.step(request.queries, self._slots)
            copied = [self._near.choices.copied(query) for query in request.queries]
        parts = [part for slot in self._slots for part in self._ask(slot, request)]
        self._turn += 1
        return Retrieving(request, parts, copied, self._settings.nodes, self._clock)

    def close(self) -> None:
        """Leaves the shards to their owner."""
        self.set_table(ShardTable(0))

    def _ask(self, slot: _Slot, request: RetrieveRequest) -> list[Part]:
        """Asks a slot: one part, but where tenants differ in whom they leave alone."""
        turn = self._turn % max(len(slot.peers), 1)
        peers = slot.peers[turn:] + slot.peers[:turn]
        groups: dict[Choice, _Group] = {}
        chosen: dict[tuple[str, ...], _Group] = {}
        for place, query in enumerate(request.queries):
            asked = query if self._near is None else self._near.choices.asks(query, slot.key)
            if asked is None or slot.corpora.isdisjoint(asked.corpora):
                continue
            group = chosen.get(query.corpora)
            if group is None:
                tenant = frozenset(query.corpora)
                group = groups.setdefault(choose(peers, tenant), _Group())
                group.tenants.add(tenant)
                chosen[query.corpora] = group
            group.places.append(place)
            group.queries.append(asked)
        parts = []
        for choice, group in groups.items():
            packed = flat.pack_queries(group.queries)
            body = encode(ShardQuery(slot.version, request.step, packed))
            ask = Ask(request.step, group.queries, group.tenants, body, self._vocabulary)
            parts.append(Part(ask, group.places, choice, self._speculation.retrieve_deadline_s))
            parts[-1].advance(self._clock())
        return parts


class Retrieving:
    """The `Pending` answer of all slots."""

    def __init__(
        self,
        request: RetrieveRequest,
        parts: list[Part],
        copied: list[Continuations | None],
        nodes: int,
        clock: Callable[[], float],
    ) -> None:
        self._request = request
        self._parts = parts
        self._copied = copied
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
        partial: set[int] = set()
        for part in self._parts:
            question = part.answer
            partial.update(part.lacking)
            if question is None or question.found is None:
                continue
            for place, asked, found in zip(
                part.places, question.ask.queries, question.found, strict=True
            ):
                answers[place].append(widened(found, asked, self._request.queries[place]))
        answers = [united(*each) for each in zip(self._copied, answers, strict=True)]
        merged = merge_all(answers, self._nodes)
        return RetrieveReply(self._request.step, merged, tuple(sorted(partial)))
