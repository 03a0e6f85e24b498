"""Sequences and what their prompts selected, from admission to release. Asks nobody itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from rasd.config import DenseConfig, RetrievalConfig
from rasd.retrieval.dense.passages import PROMPT_TOKENS, Passage
from rasd.retrieval.dense.select import DECIDING, Run, Selection, Source, narrowed, select
from rasd.retrieval.search import Index, Part
from rasd.retrieval.segment import UInt32s, build_segment
from rasd.stages import RetrieveQuery
from rasd.tree import Int32s
from rasd.trie import DIGEST_BYTES, Continuations, Origins

MAX_SEQUENCES: Final = 1024
"""Of more, the oldest are forgotten, and search as if nothing had been selected."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A prompt uint32[n] that has not been asked yet: the ``count`` best passages are wanted."""

    sequence: int
    prompt: UInt32s
    corpora: tuple[str, ...]
    count: int


@dataclass(slots=True)
class _Chosen:
    """A sequence: its prompt until it is asked, and what came of it."""

    prompt: UInt32s
    asked: bool = False
    copies: int = 0
    selection: Selection | None = None
    copied: Copied | None = None


class Copied:
    """Runs of text searched as a corpus of their own."""

    def __init__(self, runs: Sequence[Run], settings: RetrievalConfig, vocabulary: int) -> None:
        """Sorts them: 2 ms for 8,000 tokens. There is at least one run.

        Raises:
            InvalidRequest: a token is not below ``vocabulary``.
        """
        segment = build_segment([run.tokens for run in runs], vocabulary=vocabulary)
        self._runs = runs
        self._segment = segment
        self._index = Index([Part(segment)])
        self._settings = settings

    def search(self, query: RetrieveQuery) -> Continuations:
        """See `rasd.retrieval.search.Index.search`; with origins where they are asked for."""
        found = self._index.search(query.tail, self._settings)
        return replace(found, origins=self._origins(query, found)) if query.origins else found

    def _origins(self, query: RetrieveQuery, found: Continuations) -> Origins:
        places = self._index.places(query.tail, found)
        rows, offsets = self._segment.locate(places[:, 1])
        runs = [self._runs[row] for row in rows.tolist()]
        digests = np.frombuffer(b"".join(run.document for run in runs), np.uint8)
        starts = np.array([run.offset for run in runs], np.int64)
        return Origins(
            np.array([run.corpus for run in runs], np.int32),
            digests.reshape(-1, DIGEST_BYTES),
            (starts + offsets).astype(np.int32),
        )


class Choices:
    """Says per query whom to ask, and what the copied passages answer. Belongs to one thread.

    A sequence that was not observed, not answered, or for which nothing was found, is asked
    about everywhere.
    """

    def __init__(self, settings: DenseConfig, retrieval: RetrievalConfig, vocabulary: int) -> None:
        self._settings = settings
        self._retrieval = retrieval
        self._vocabulary = vocabulary
        self._known: dict[int, _Chosen] = {}

    def observe(self, sequence: int, tokens: Int32s) -> None:
        """Keeps the first tokens of a sequence, its prompt."""
        if sequence not in self._known:
            if len(self._known) >= MAX_SEQUENCES:
                del self._known[next(iter(self._known))]
            newest = tokens[-PROMPT_TOKENS:].astype(np.uint32)
            self._known[sequence] = _Chosen(newest)

    def release(self, sequence: int) -> None:
        """Forgets the sequence; unknown ones are ignored."""
        self._known.pop(sequence, None)

    def wishes(self, queries: Iterable[RetrieveQuery]) -> list[Wish]:
        """The prompts to ask about now, each once: their sequences ask for the first time."""
        wished: list[Wish] = []
        for query in queries:
            known = self._known.get(query.sequence)
            if known is None or known.asked:
                continue
            known.asked = True
            asked = self._settings.passages if query.passages is None else query.passages
            known.copies = asked
            count = max(asked, DECIDING if self._settings.ask == "selected" else 0)
            if count and query.corpora:
                wished.append(Wish(query.sequence, known.prompt, query.corpora, count))
        return wished

    def answered(self, sequence: int, answers: Mapping[Source, Sequence[Passage]]) -> None:
        """What the sources found for a wish. Those that are missing here will always be asked.

        Passages must be sound: of the corpora asked, and tokens below the vocabulary.
        """
        known = self._known.get(sequence)
        if known is None or not any(answers.values()):
            return
        selection = select(answers, known.copies)
        if selection.runs:
            known.copied = Copied(selection.runs, self._retrieval, self._vocabulary)
        known.selection = selection

    def asks(self, query: RetrieveQuery, source: Source) -> RetrieveQuery | None:
        """What to ask ``source`` for a query; None for nothing."""
        known = self._known.get(query.sequence)
        if known is None or known.selection is None or self._settings.ask == "all":
            return query
        if self._settings.ask == "none":
            return None if known.copied is not None else query
        reads = known.selection.reads.get(source)
        return query if reads is None else narrowed(query, reads)

    def copied(self, query: RetrieveQuery) -> Continuations | None:
        """What the passages of its sequence answer; None if it has none."""
        known = self._known.get(query.sequence)
        if known is None or known.copied is None:
            return None
        return known.copied.search(query)
