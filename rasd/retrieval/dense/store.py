"""What is near a prompt in the corpora that a process holds."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from rasd.config import DenseConfig
from rasd.retrieval.dense.embed import Embedder, Float32s
from rasd.retrieval.dense.index import PassageIndex
from rasd.retrieval.dense.passages import PROMPT_TOKENS, Cut, Passage, prompt_spans
from rasd.retrieval.segment import Int64s, Segment, UInt32s
from rasd.retrieval.shard import ShardStore
from rasd.tree import UInt8s

_GROWN: Final = 2  # a corpus is fitted anew when it has so many times the tokens, or 1 / so many
_FIT_TOKENS: Final = 2**24

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Corpus:
    """Indexes by identity of their segment, which they keep alive; ``tokens`` at the fitting."""

    embedder: Embedder
    tokens: int
    indexes: dict[int, PassageIndex] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Hit:
    """Passage ``row`` of a cut, in the corpus of this number."""

    score: float
    corpus: int
    row: int
    cut: Cut
    digests: Callable[[Int64s], UInt8s]

    def passage(self) -> Passage:
        """The same with its tokens, which are copied."""
        rows = np.array([self.row])
        documents, offsets = self.cut.places(rows)
        spans = self.cut.spans(rows)
        return Passage(
            self.corpus,
            self.digests(documents)[0].tobytes(),
            int(offsets[0]),
            self.score,
            np.array(spans.tokens[spans.starts[0] : spans.ends[0]]),
        )


class DenseStore:
    """Indexes of the passages that stores show. Any thread may search, one refreshes.

    A segment whose index is not built yet adds nothing; a document that is deleted is found no
    more from the moment on that its store knows. Statistics are those of a corpus alone.
    """

    def __init__(self, embedder: Embedder, settings: DenseConfig) -> None:
        self._embedder = embedder
        self._width = settings.passage_tokens
        self._corpora: dict[str, _Corpus] = {}

    @property
    def passages(self) -> int:
        """How many are indexed."""
        return sum(len(index.cut) for index in self._indexes())

    @property
    def bytes(self) -> int:
        """Memory of the indexes."""
        return sum(index.bytes for index in self._indexes())

    def refresh(self, stores: Iterable[ShardStore]) -> bool:
        """Indexes what ``stores`` show now, and drops the rest; whether anything was built.

        Takes as long as it takes, about 10 seconds per 100M tokens; searches go on meanwhile.
        """
        shown: dict[str, dict[int, Segment]] = {}
        for store in stores:
            for name, views in store.views.items():
                parts = shown.setdefault(name, {})
                parts |= {id(p.segment): p.segment for view in views for p in view.parts}
        shown = {name: segments for name, segments in shown.items() if segments}
        self._corpora = {name: known for name, known in self._corpora.items() if name in shown}
        built = [self._follow(name, segments) for name, segments in shown.items()]
        return any(built)

    def search(
        self, store: ShardStore, prompt: UInt32s, corpora: Sequence[str], count: int
    ) -> list[Passage]:
        """The ``count`` passages of these corpora nearest to a prompt uint32[n], best first.

        Only living documents of what ``store`` shows. Of the prompt, the newest tokens count,
        cut as documents are: what is near any piece is near. Corpora that an embedder need not be
        fitted to share its vectors.
        """
        spans = prompt_spans(prompt[-PROMPT_TOKENS:], self._width, PROMPT_TOKENS)
        found: list[_Hit] = []
        embedded: dict[int, tuple[Embedder, Float32s]] = {}  # by identity, which it keeps
        for number, name in enumerate(corpora):
            known = self._corpora.get(name)
            if known is None:
                continue
            embedder = known.embedder
            if id(embedder) not in embedded:
                embedded[id(embedder)] = (embedder, embedder.embed(spans))
            vectors = embedded[id(embedder)][1]
            found += self._hits(store, known, number, name, vectors, count)
        return [hit.passage() for hit in heapq.nsmallest(count, found, key=lambda hit: -hit.score)]

    def _hits(
        self,
        store: ShardStore,
        known: _Corpus,
        number: int,
        name: str,
        vectors: Float32s,
        count: int,
    ) -> list[_Hit]:
        hits: list[_Hit] = []
        for view in store.views.get(name, ()):
            for part, digests in zip(view.parts, view.digests, strict=True):
                index = known.indexes.get(id(part.segment))
                if index is None:
                    continue
                scores, rows = index.search(vectors, count, part)
                hits += [
                    _Hit(score, number, row, index.cut, digests)
                    for score, row in zip(scores.tolist(), rows.tolist(), strict=True)
                ]
        return hits

    def _follow(self, name: str, segments: dict[int, Segment]) -> bool:
        known = self._corpora.get(name)
        tokens = sum(len(segment.suffixes) for segment in segments.values())
        if known is None or not tokens / _GROWN <= known.tokens <= tokens * _GROWN:
            known = _Corpus(self._fitted(segments.values(), tokens), tokens)
        kept = {key: index for key, index in known.indexes.items() if key in segments}
        built = {
            key: PassageIndex.build(segment, known.embedder, self._width)
            for key, segment in segments.items()
            if key not in kept
        }
        new = _Corpus(known.embedder, known.tokens, kept | built)
        self._corpora = {**self._corpora, name: new}  # swapped whole: searches go on
        if built:
            _log.debug("%s: %d segments indexed by meaning", name, len(built))
        return bool(built)

    def _fitted(self, segments: Iterable[Segment], tokens: int) -> Embedder:
        """To all passages, or every so many of a large corpus."""
        every = tokens // _FIT_TOKENS + 1
        cuts = [Cut.of(segment, self._width) for segment in segments]
        return self._embedder.fitted([cut.every(every) for cut in cuts])

    def _indexes(self) -> list[PassageIndex]:
        return [index for known in self._corpora.values() for index in known.indexes.values()]
