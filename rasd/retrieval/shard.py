"""The partitions one shard holds, and a retriever over them in this process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from rasd.config import RetrievalConfig
from rasd.errors import SegmentError
from rasd.retrieval import kernels
from rasd.retrieval.corpus import Corpus, open_corpus
from rasd.retrieval.search import Index, Part
from rasd.stages import Pending, Ready, RetrieveQuery, RetrieveReply, RetrieveRequest
from rasd.tree import Int32s
from rasd.trie import Continuations

_MAX_INDEXES = 256


class ShardStore:
    """Some partitions of some corpora, searched together. Read-only; one thread asks."""

    def __init__(
        self,
        root: Path,
        holdings: Mapping[str, Iterable[int] | None],
        *,
        vocabulary: int,
        tokenizer_hash: str,
    ) -> None:
        """Opens the partitions of each corpus named in ``holdings``, all of them if None.

        What is damaged does not serve: see ``damaged``. Compiles the search.

        Raises:
            NotFound, InvalidRequest: there is no such corpus or partition.
            SegmentError: a whole corpus is damaged, newer, or of another tokenizer.
        """
        self._corpora: dict[str, Corpus] = {
            name: open_corpus(
                root,
                name,
                vocabulary=vocabulary,
                tokenizer_hash=tokenizer_hash,
                partitions=partitions,
            )
            for name, partitions in holdings.items()
        }
        self._indexes: dict[tuple[str, ...], Index] = {}
        kernels.warm_up()

    @property
    def damaged(self) -> dict[str, dict[str, SegmentError]]:
        """Per corpus that lacks some, the files that were refused, and why."""
        return {name: corpus.refused for name, corpus in self._corpora.items() if corpus.refused}

    @property
    def tokens(self) -> int:
        """Tokens that are searched, over all corpora."""
        return sum(
            segment.header.tokens
            for corpus in self._corpora.values()
            for segments in corpus.segments.values()
            for segment in segments
        )

    def search(
        self, queries: list[RetrieveQuery], settings: RetrievalConfig
    ) -> list[Continuations]:
        """Answers in the order of the queries; see `Index.search`.

        A query reads the corpora it names and no other; those not held here add nothing. Over
        several the longest suffix wins, and equal ones are summed exactly.
        """
        return [self._index(query.corpora).search(query.tail, settings) for query in queries]

    def _index(self, names: tuple[str, ...]) -> Index:
        index = self._indexes.get(names)
        if index is None:
            if len(self._indexes) >= _MAX_INDEXES:  # cheap to make, but callers choose the key
                self._indexes.clear()
            index = self._indexes[names] = Index(
                Part(segment)
                for name in sorted(self._corpora.keys() & set(names))
                for segments in self._corpora[name].segments.values()
                for segment in segments
            )
        return index


class LocalRetriever:
    """A `Retriever` over a store in this process."""

    def __init__(self, store: ShardStore, settings: RetrievalConfig) -> None:
        self._store = store
        self._settings = settings

    def observe(self, sequence: int, tokens: Int32s) -> None:
        """Nothing: a query brings its tail."""

    def release(self, sequence: int) -> None:
        """Nothing: no sequence is known here."""

    def retrieve(self, request: RetrieveRequest) -> Pending[RetrieveReply]:
        """Searches at once. ``partial`` if a corpus asked for lacks a segment."""
        found = self._store.search(request.queries, self._settings)
        damaged = self._store.damaged.keys()
        partial = any(not damaged.isdisjoint(query.corpora) for query in request.queries)
        return Ready(RetrieveReply(request.step, found, partial))

    def close(self) -> None:
        """Nothing: the files are unmapped with the last reference to the store."""
