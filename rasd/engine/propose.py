"""Asks drafter and retrievers for the next trees. Whatever they do, an answer comes in time.

A source that raises, is late, or answers nonsense contributes nothing to the step; three such
misses in a row and it is left alone until a probe succeeds. Knows no target.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import numpy as np

from rasd import kernels
from rasd.config import RetrievalConfig, SpeculationConfig
from rasd.engine.api import Origin
from rasd.engine.breaker import Breaker
from rasd.engine.sequence import Sequence
from rasd.engine.source import Source, entries_of
from rasd.engine.speculate import USES, Proposals, build_tree, sound_continuations, sound_draft
from rasd.engine.timings import Timings
from rasd.stages import (
    Drafter,
    DraftQuery,
    DraftReply,
    DraftRequest,
    RetrieveQuery,
    Retriever,
    RetrieveReply,
    RetrieveRequest,
)
from rasd.tree import CORPUS, DRAFT, PROMPT, Draft, DraftTree, Int32s
from rasd.trie import Continuations, advance

logger = logging.getLogger(__name__)


class Proposer:
    """Owns the questions to the sources; the stages themselves belong to the engine's owner.

    Not thread-safe. Nothing here raises.
    """

    def __init__(
        self,
        speculation: SpeculationConfig,
        retrieval: RetrievalConfig,
        vocabulary: int,
        timings: Timings,
        clock: Callable[[], float],
    ) -> None:
        def breaker() -> Breaker:
            return Breaker(speculation.breaker_misses, speculation.breaker_probe_s, clock)

        kernels.warm_up()
        self._config = speculation
        self._retrieval = retrieval
        self._vocabulary = vocabulary
        self._timings = timings
        self._drafts: Source[DraftReply] = Source(
            "draft", speculation.draft_deadline_s, breaker(), timings
        )
        self._found: dict[int, Source[RetrieveReply]] = {
            kind: Source(name, speculation.retrieve_deadline_s, breaker(), timings)
            for kind, name in ((PROMPT, "prompt"), (CORPUS, "corpus"))
        }
        self._drafter: Drafter | None = None
        self._retrievers: dict[int, Retriever] = {}
        self._released: list[int] = []  # handles the drafter may forget
        self._proposals: dict[int, Proposals] = {}  # what the newest trees were made of

    # --- stages -----------------------------------------------------------------------------

    def set_drafter(self, drafter: Drafter | None, live: Iterable[Sequence]) -> None:
        """Asks another drafter from now on; it is told everything about ``live`` ones."""
        self._drafter = drafter
        self._drafts.forget()
        self._released.clear()
        for sequence in live:
            sequence.drafted = 0

    def set_retriever(
        self, kind: int, retriever: Retriever | None, live: Iterable[Sequence]
    ) -> None:
        """Asks another retriever from now on; ``kind`` is PROMPT or CORPUS."""
        self._found[kind].forget()
        self._retrievers.pop(kind, None)
        if retriever is not None:
            self._retrievers[kind] = retriever
            for sequence in live:
                self._observe(kind, sequence, sequence.since(0))

    @property
    def idle(self) -> bool:
        """Whether there is nothing to tell a drafter that listens."""
        return not self._released or self._drafter is None or self._drafts.breaker.open

    # --- the life of a sequence at the stages -----------------------------------------------

    def admit(self, sequence: Sequence) -> None:
        """It has a new handle."""
        self.extend(sequence, sequence.since(0))

    def extend(self, sequence: Sequence, tokens: Int32s) -> None:
        """Tokens of it were decided."""
        for kind in self._retrievers:
            self._observe(kind, sequence, tokens)

    def retire(self, handle: int, sequence: Sequence) -> None:
        """The handle will not come again."""
        uses = self.uses(sequence)
        if uses & DRAFT and self._drafter is not None:
            self._released.append(handle)
        for kind, retriever in self._retrievers.items():
            if uses & kind:
                try:
                    retriever.release(handle)
                except Exception as error:  # a stage may fail in any way
                    self._found[kind].miss(error)

    def _observe(self, kind: int, sequence: Sequence, tokens: Int32s) -> None:
        if self.uses(sequence) & kind:
            try:
                with self._timings.measure(self._found[kind].name, count=0):
                    self._retrievers[kind].observe(sequence.handle, tokens)
            except Exception as error:  # as above
                self._found[kind].miss(error)

    # --- a step -----------------------------------------------------------------------------

    def uses(self, sequence: Sequence) -> int:
        """The sources that may propose for it: those it wants and the settings allow."""
        return USES[sequence.request.params.speculation] & USES[self._config.mode]

    def budget(self, sequence: Sequence) -> int:
        """Nodes its next tree may have beside the root."""
        params = sequence.request.params
        if not sequence.decoding or sequence.remaining <= 1:
            return 0
        return self._config.nodes if params.nodes is None else params.nodes

    def ask(self, step: int, running: Iterable[Sequence]) -> None:
        """Starts all sources on the next trees, before waiting for any.

        The corpus goes first: it may be far away. The prompt goes last: it is always near.
        """
        hungry = [sequence for sequence in running if self.budget(sequence) > 0]
        self._ask_retriever(CORPUS, step, hungry)
        self._ask_drafter(step, hungry)
        self._ask_retriever(PROMPT, step, hungry)

    def _ask_drafter(self, step: int, hungry: list[Sequence]) -> None:
        drafter = self._drafter
        wanting = [s for s in hungry if self.uses(s) & DRAFT]
        if drafter is None or not (wanting or self._released) or not self._drafts.breaker.allow():
            return
        queries = [
            DraftQuery(s.handle, s.drafted, s.since(s.drafted), self.budget(s)) for s in wanting
        ]
        request = DraftRequest(step, list(self._released), queries)
        anchors = [(s.handle, len(s.tokens)) for s in wanting]
        if self._drafts.ask(step, anchors, lambda: drafter.propose(request)):
            self._released.clear()
            for sequence in wanting:
                sequence.drafted = len(sequence.tokens)

    def _ask_retriever(self, kind: int, step: int, hungry: list[Sequence]) -> None:
        retriever = self._retrievers.get(kind)
        wanting = [s for s in hungry if self._reads(s, kind)]
        if retriever is None or not wanting or not self._found[kind].breaker.allow():
            return
        longest = self._retrieval.suffix_max
        queries = [
            RetrieveQuery(
                s.handle,
                s.since(max(len(s.tokens) - longest, 0)),
                s.request.params.corpora or () if kind == CORPUS else (),
                s.request.params.return_origins,
                s.request.params.passages,
            )
            for s in wanting
        ]
        request = RetrieveRequest(step, queries)
        anchors = [(s.handle, len(s.tokens)) for s in wanting]
        self._found[kind].ask(step, anchors, lambda: retriever.retrieve(request))

    def _reads(self, sequence: Sequence, kind: int) -> bool:
        readable = kind != CORPUS or bool(sequence.request.params.corpora)
        return readable and bool(self.uses(sequence) & kind)

    def trees(self, running: Iterable[Sequence]) -> dict[int, DraftTree]:
        """The trees to verify next, by handle, of all decoding sequences."""
        live = {s.handle: s for s in running if s.decoding}
        proposals = self._proposals = self._collect(live)
        with self._timings.measure("fuse"):
            return {h: self._tree(s, proposals[h]) for h, s in live.items()}

    def origin(self, handle: int, tree: DraftTree | None, path: Int32s) -> Origin | None:
        """Where the accepted nodes ``path`` of one of the newest `trees` stand, as far as known.

        All in one place: where a node was found, the nodes above it stand before it.
        """
        if tree is None or tree.origins is None:
            return None
        known = np.flatnonzero(tree.origins[path] >= 0)
        if len(known) == 0:
            return None
        above = int(known[-1])
        row = int(tree.origins[path[above]])
        corpus, document, offset = self._proposals[handle].origin(row)
        return Origin(corpus, document, offset - above, above + 1)

    def _tree(self, sequence: Sequence, proposals: Proposals) -> DraftTree:
        try:
            return build_tree(
                sequence.root,
                proposals,
                self._config,
                mode=sequence.request.params.speculation,
                nodes=self.budget(sequence),
                depth=sequence.remaining - 1,
            )
        except Exception:  # proposals are checked, but must never cost text
            logger.exception("sequence %d decodes plainly", sequence.number)
            return DraftTree.root(sequence.root)

    def _collect(self, live: dict[int, Sequence]) -> dict[int, Proposals]:
        """What has come for the decoding sequences."""
        drafts = self._take_drafts(live)
        prompt = self._take_found(PROMPT, live)
        corpus = self._take_found(CORPUS, live)
        return {
            handle: Proposals(drafts.get(handle), prompt.get(handle), corpus.get(handle))
            for handle in live
        }

    def _take_drafts(self, live: dict[int, Sequence]) -> dict[int, Draft]:
        """Late ones are of no use: they hang from roots that are gone."""
        source = self._drafts
        answer = source.answer()
        if answer is None:
            return {}
        asked, reply = answer
        entries = entries_of(reply, "drafts", asked)
        if entries is None:
            source.miss("malformed reply")
            return {}
        drafts: dict[int, Draft] = {}
        sound = True
        for (handle, _), entry in zip(asked.anchors, entries, strict=True):
            if entry is None or handle not in live:
                continue
            draft = sound_draft(entry, live[handle].root, self._vocabulary)
            if draft is None:
                sound = False
            else:
                drafts[handle] = draft
        if sound:
            source.breaker.success()
        else:
            source.miss("malformed draft")
        return drafts

    def _take_found(self, kind: int, live: dict[int, Sequence]) -> dict[int, Continuations]:
        source = self._found[kind]
        late = source.late_answer()
        answer = source.answer()
        on_time = answer is not None
        answer = answer or late
        if answer is None:
            return {}
        asked, reply = answer
        entries = entries_of(reply, "found", asked)
        found: dict[int, Continuations] = {}
        sound = entries is not None
        for (handle, length), entry in zip(asked.anchors, entries or [], strict=False):
            sequence = live.get(handle)
            checked = sound_continuations(entry, self._vocabulary, _citable(sequence, kind))
            sound = sound and checked is not None
            if checked is not None and len(checked) and sequence is not None:
                since = sequence.tokens[length:]
                found[handle] = advance(checked, since) if since else checked
        if not sound:
            source.miss("malformed answer")
        elif on_time:
            source.breaker.success()
        return found


def _citable(sequence: Sequence | None, kind: int) -> range | None:
    """Corpora that origins may name, as indices; None if nobody wants to know them."""
    if sequence is None or not sequence.request.params.return_origins:
        return None
    if kind == PROMPT:
        return range(-1, 0)
    return range(len(sequence.request.params.corpora or ()))
