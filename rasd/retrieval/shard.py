"""The partitions one shard holds, searched together, and a retriever over them in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from rasd.config import RetrievalConfig
from rasd.errors import SegmentError
from rasd.retrieval import kernels
from rasd.retrieval.search import Index
from rasd.retrieval.store.held import HeldCorpus, Pool
from rasd.retrieval.store.layout import Int64s, UInt8s
from rasd.retrieval.store.reader import PartitionView
from rasd.stages import Pending, Ready, RetrieveQuery, RetrieveReply, RetrieveRequest
from rasd.tree import Int32s
from rasd.trie import DIGEST_BYTES, Continuations, Origins

Damage = Mapping[str, Mapping[str, SegmentError]]
"""Per corpus that lacks some, the files that are refused, and why."""

_MAX_SCOPES: Final = 256


@dataclass(frozen=True, slots=True)
class _Scope:
    """What the queries that name the same corpora search.

    Attributes:
        digests: per part of the index, gives the digests of ids of its documents.
        corpora: per part, which of the names it belongs to.
    """

    index: Index
    digests: Sequence[Callable[[Int64s], UInt8s]]
    corpora: Sequence[int]

    @classmethod
    def of(cls, names: tuple[str, ...], views: Mapping[str, tuple[PartitionView, ...]]) -> _Scope:
        read = [
            (names.index(name), view)
            for name in dict.fromkeys(names)
            for view in views.get(name, ())
        ]
        return cls(
            Index(part for _, view in read for part in view.parts),
            [digests for _, view in read for digests in view.digests],
            [corpus for corpus, view in read for _ in view.parts],
        )

    def located(self, tail: Int32s, found: Continuations) -> Continuations:
        """The answer to ``tail`` with an origin for each node."""
        nodes = len(found)
        corpora = np.full(nodes, -1, np.int32)
        documents = np.zeros((nodes, DIGEST_BYTES), np.uint8)
        offsets = np.zeros(nodes, np.int32)
        places = self.index.places(tail, found)
        for part in np.unique(places[:, 0]).tolist():
            rows = np.flatnonzero(places[:, 0] == part)
            ordinals, offsets[rows] = self.index.parts[part].segment.locate(places[rows, 1])
            corpora[rows] = self.corpora[part]
            documents[rows] = self.digests[part](ordinals)
        return replace(found, origins=Origins(corpora, documents, offsets))


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What is searched from one `ShardStore.refresh` to the next."""

    views: dict[str, tuple[PartitionView, ...]] = field(default_factory=dict)
    damaged: Damage = field(default_factory=dict)
    scopes: dict[tuple[str, ...], _Scope] = field(default_factory=dict)

    def scope(self, names: tuple[str, ...]) -> _Scope:
        """Made once, also if several threads ask; then the last one counts."""
        scope = self.scopes.get(names)
        if scope is None:
            if len(self.scopes) >= _MAX_SCOPES:  # cheap to make, but callers choose the names
                self.scopes.clear()
            scope = self.scopes[names] = _Scope.of(names, self.views)
        return scope

    def followed_by(
        self, views: dict[str, tuple[PartitionView, ...]], damaged: Damage
    ) -> _Snapshot:
        """The next one; scopes that read the same are taken along."""
        changed = {name for name in views if views[name] != self.views.get(name)}
        scopes = dict(self.scopes)  # searches may add to it meanwhile
        kept = {names: scope for names, scope in scopes.items() if changed.isdisjoint(names)}
        return _Snapshot(views, damaged, kept)


class ShardStore:
    """Some partitions of some corpora, searched together. Read-only, and follows their writers.

    Any thread may search, and sees all partitions as one `refresh` found them.
    """

    def __init__(
        self,
        root: Path,
        holdings: Mapping[str, Iterable[int] | None],
        *,
        vocabulary: int,
        tokenizer_hash: str,
        beside: ShardStore | None = None,
    ) -> None:
        """Opens the partitions of each corpus named in ``holdings``, all of them if None.

        A corpus or partition that is not there is empty until it comes. What is damaged, or
        made with another tokenizer, does not serve: see ``damaged``. Compiles the search.

        Args:
            beside: partitions that this store of the same root has open are shared with it.

        Raises:
            InvalidRequest: a name is none.
        """
        self._pool: Pool = Pool() if beside is None else beside._pool
        self._corpora = {
            name: HeldCorpus(
                root,
                name,
                None if partitions is None else frozenset(partitions),
                vocabulary=vocabulary,
                tokenizer_hash=tokenizer_hash,
                pool=self._pool,
            )
            for name, partitions in holdings.items()
        }
        self._snapshot = _Snapshot()
        kernels.warm_up()
        self.refresh()

    @property
    def damaged(self) -> Damage:
        """What is refused, as of the last `refresh`."""
        return self._snapshot.damaged

    @property
    def tokens(self) -> int:
        """Live tokens that are searched, over all corpora."""
        return sum(view.tokens for views in self._snapshot.views.values() for view in views)

    @property
    def views(self) -> Mapping[str, tuple[PartitionView, ...]]:
        """Per corpus what is searched now, in order of the partitions held."""
        return self._snapshot.views

    @property
    def versions(self) -> dict[str, tuple[int, ...]]:
        """Per corpus, the manifests that are searched, in order of the partitions held."""
        return {
            name: tuple(view.version for view in views)
            for name, views in self._snapshot.views.items()
        }

    @property
    def lag_s(self) -> float:
        """Age of the oldest commit that is not searched yet, 0 if there is none. Looks for it."""
        return max((corpus.waiting_s for corpus in self._corpora.values()), default=0.0)

    def refresh(self) -> bool:
        """Shows what was written since the last time; returns whether there was anything.

        Never raises. One thread at a time; searches go on meanwhile.
        """
        for corpus in self._corpora.values():
            corpus.refresh()
        before = self._snapshot
        views = {name: corpus.views for name, corpus in self._corpora.items()}
        refused = {name: corpus.refused for name, corpus in self._corpora.items()}
        damaged = {name: files for name, files in refused.items() if files}
        if views == before.views and damaged.keys() == before.damaged.keys():
            return False
        self._snapshot = before.followed_by(views, damaged)
        return True

    def search(
        self, queries: Sequence[RetrieveQuery], settings: RetrievalConfig
    ) -> list[Continuations]:
        """Answers in the order of the queries; see `Index.search`.

        A query reads the corpora it names and no other; those not held here add nothing. Over
        several the longest suffix wins, and equal ones are summed exactly.
        """
        snapshot = self._snapshot
        rows: dict[tuple[str, ...], list[int]] = {}
        for row, query in enumerate(queries):
            rows.setdefault(query.corpora, []).append(row)
        found: dict[int, Continuations] = {}
        for names, group in rows.items():
            scope = snapshot.scope(names)
            answers = scope.index.search_all([queries[row].tail for row in group], settings)
            for row, answer in zip(group, answers, strict=True):
                query = queries[row]
                found[row] = scope.located(query.tail, answer) if query.origins else answer
        return [found[row] for row in range(len(queries))]


class LocalRetriever:
    """A `Retriever` over a store in this process."""

    def __init__(self, store: ShardStore, settings: RetrievalConfig) -> None:
        self.store = store
        self._settings = settings

    def observe(self, sequence: int, tokens: Int32s) -> None:
        """Nothing: a query brings its tail."""

    def release(self, sequence: int) -> None:
        """Nothing: no sequence is known here."""

    def refresh(self) -> None:
        """From now on finds what was written before."""
        self.store.refresh()

    def retrieve(self, request: RetrieveRequest) -> Pending[RetrieveReply]:
        """Searches at once. ``partial`` are those who read a corpus that lacks a damaged file."""
        found = self.store.search(request.queries, self._settings)
        damaged = self.store.damaged.keys()
        partial = (p for p, q in enumerate(request.queries) if not damaged.isdisjoint(q.corpora))
        return Ready(RetrieveReply(request.step, found, tuple(partial)))

    def close(self) -> None:
        """Nothing: the files are unmapped with the last reference to the store."""
