"""A retriever of this process whose sequences search what is near their prompts first."""

from __future__ import annotations

from rasd.config import DenseConfig, RetrievalConfig
from rasd.retrieval.dense.choices import Choices
from rasd.retrieval.dense.select import united, widened
from rasd.retrieval.dense.store import DenseStore
from rasd.retrieval.merge import merge_all
from rasd.retrieval.shard import LocalRetriever
from rasd.stages import Pending, Ready, RetrieveReply, RetrieveRequest
from rasd.tree import Int32s

_HERE = 0  # the one source there is


class DenseRetriever(LocalRetriever):
    """As `LocalRetriever`. Indexes what is there at once, and anew at each `refresh`."""

    def __init__(
        self,
        inner: LocalRetriever,
        settings: RetrievalConfig,
        dense: DenseConfig,
        indexes: DenseStore,
        vocabulary: int,
    ) -> None:
        """Takes the place of ``inner``; ``indexes`` are filled from its store."""
        super().__init__(inner.store, settings)
        self._choices = Choices(dense, settings, vocabulary)
        self._indexes = indexes
        self._nodes = settings.nodes
        indexes.refresh([self.store])

    def observe(self, sequence: int, tokens: Int32s) -> None:
        """Keeps the prompt until it is asked about."""
        self._choices.observe(sequence, tokens)

    def release(self, sequence: int) -> None:
        """Forgets what its prompt selected."""
        self._choices.release(sequence)

    def refresh(self) -> None:
        """Also indexes what is new."""
        super().refresh()
        self._indexes.refresh([self.store])

    def retrieve(self, request: RetrieveRequest) -> Pending[RetrieveReply]:
        """See `LocalRetriever.retrieve`. Asks about new prompts first: a millisecond each."""
        for wish in self._choices.wishes(request.queries):
            found = self._indexes.search(self.store, wish.prompt, wish.corpora, wish.count)
            self._choices.answered(wish.sequence, {_HERE: found})
        asked = [self._choices.asks(query, _HERE) for query in request.queries]
        kept = {place: query for place, query in enumerate(asked) if query is not None}
        reply = super().retrieve(RetrieveRequest(request.step, [*kept.values()])).wait(0)
        answers = iter(reply.found)
        rows = []
        for query, narrow in zip(request.queries, asked, strict=True):
            others = [] if narrow is None else [widened(next(answers), narrow, query)]
            rows.append(united(self._choices.copied(query), others))
        places = [*kept]
        partial = tuple(places[number] for number in reply.partial)
        return Ready(RetrieveReply(request.step, merge_all(rows, self._nodes), partial))
