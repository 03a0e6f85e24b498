"""Shards whose answers are known and which fail on demand: held, killed, wrong or late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from actors.rpc import Server
from actors.table import Holdings, ShardTable, Slot
from actors.wire import ShardQuery, ShardReply
from rasd.config import RetrievalConfig
from rasd.errors import StageUnavailable
from rasd.retrieval.flat import pack_answers, unpack_queries
from rasd.stages import RetrieveQuery, RetrieveRequest
from rasd.trie import Continuations
from tests.actors.threads import HOST, SECRET
from tests.retrieval import brute

VOCABULARY = 50
PARTITIONS = 4
SETTINGS = RetrievalConfig(suffix_min=2, depth=4, nodes=256)

Texts = Mapping[str, Mapping[int, list[list[int]]]]
"""Documents by corpus and partition."""


def texts(*corpora: str, seed: int = 5) -> Texts:
    """Documents of few different tokens, so that they have much in common."""
    draw = np.random.default_rng(seed)
    return {
        name: {p: draw.integers(0, 8, (5, 60)).tolist() for p in range(PARTITIONS)}
        for name in corpora
    }


def asking(step: int, *corpora: str, queries: int = 6) -> RetrieveRequest:
    """Questions of 5 tokens."""
    draw = np.random.default_rng(step)
    tails = [draw.integers(0, 8, 5).astype(np.int32) for _ in range(queries)]
    return RetrieveRequest(step, [RetrieveQuery(i, t, corpora) for i, t in enumerate(tails)])


def together(*requests: RetrieveRequest) -> RetrieveRequest:
    """The queries of all of them in one step, the first's."""
    return RetrieveRequest(requests[0].step, [q for each in requests for q in each.queries])


def answer(documents: Texts, holdings: Holdings, query: RetrieveQuery) -> Continuations:
    """By brute force, what the partitions of ``holdings`` say that the query may read."""
    mine = [
        text
        for name in query.corpora
        for partition in holdings.get(name, ())
        for text in documents[name][partition]
    ]
    return brute.search(mine, query.tail.tolist(), SETTINGS)


def first_tokens(found: Continuations) -> dict[int, int]:
    """The tokens right behind the anchor and their counts."""
    first = found.parents == -1
    return dict(zip(found.tokens[first].tolist(), found.counts[first].tolist(), strict=True))


class _Died(BaseException):
    pass


class FakeShard:
    """Answers for its holdings while its gate is open.

    Attributes:
        gate: answers wait while it is not set, as in a process that is frozen.
        dying: ends without an answer at the next question.
        change: what becomes of its answers.
        heard: queries it was asked for, in order.
    """

    def __init__(
        self, stack: ExitStack, documents: Texts, holdings: Holdings, version: int = 1
    ) -> None:
        self.holdings = holdings
        self.version = version
        self.gate = threading.Event()
        self.gate.set()
        self.dying = False
        self.change: Callable[[ShardReply], object] = lambda reply: reply
        self.heard: list[list[RetrieveQuery]] = []
        self._documents = documents
        self._known: dict[tuple[tuple[str, ...], bytes], Continuations] = {}
        self._server = Server(HOST, SECRET, {ShardQuery: self._answer})
        self.address = self._server.address
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        stack.callback(self.stop)

    def stop(self) -> None:
        """It is gone, in an orderly way."""
        self._server.stop()
        self.gate.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        try:
            self._server.serve()
        except _Died:
            pass

    def _answer(self, query: ShardQuery) -> object:
        queries = unpack_queries(query.queries)
        self.heard.append(queries)
        if self.dying:
            raise _Died
        if not self.gate.wait(20):
            raise StageUnavailable("held for too long")
        if query.version != self.version:
            raise StageUnavailable(f"version {query.version} is not held")
        found = [self._find(each) for each in queries]
        return self.change(ShardReply(query.step, pack_answers(found)))

    def _find(self, query: RetrieveQuery) -> Continuations:
        key = query.corpora, query.tail.tobytes()
        if key not in self._known:  # brute force is slow
            self._known[key] = answer(self._documents, self.holdings, query)
        return self._known[key]


def deal(slots: int, *corpora: str) -> list[Holdings]:
    """Partitions of all corpora, dealt in turn."""
    return [
        {name: tuple(range(slot, PARTITIONS, slots)) for name in corpora} for slot in range(slots)
    ]


def table(shards: Sequence[Sequence[FakeShard]], version: int = 1) -> ShardTable:
    """The replicas of each slot in turn; a slot without any is left out of no table."""
    return ShardTable(
        version,
        tuple(
            Slot(replicas[0].holdings, tuple(each.address for each in replicas), version)
            for replicas in shards
        ),
    )
