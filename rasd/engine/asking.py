"""Questions to one drafter and to one retriever, and what of their answers can be used.

Whatever a stage does, nothing here raises: what fails counts as a miss (`rasd.engine.source`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from rasd.engine.round import Round
from rasd.engine.sequence import Sequence as Running
from rasd.engine.sound import sound_continuations, sound_draft
from rasd.engine.source import Asked, Source, entries_of, partial_of
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
from rasd.tree import CORPUS, PROMPT, Draft, Int32s
from rasd.trie import Continuations, advance

_NOTHING_AHEAD: Final = np.zeros(0, np.int32)


class Drafting:
    """A drafter, or none, and what it was told. The stage itself belongs to the engine's owner."""

    def __init__(self, source: Source[DraftReply], vocabulary: int) -> None:
        self.source = source
        self.drafter: Drafter | None = None
        self._vocabulary = vocabulary
        self._released: list[int] = []  # handles the drafter may forget

    def replace(self, drafter: Drafter | None, live: Iterable[Running]) -> None:
        """Asks another one from now on; it is told everything about ``live`` ones."""
        self.drafter = drafter
        self.source.forget()
        self._released.clear()
        for sequence in live:
            sequence.drafted = 0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to tell a drafter that listens."""
        return not self._released or self.drafter is None or self.source.breaker.open

    def release(self, handle: int) -> None:
        """The handle will not come again."""
        if self.drafter is not None:
            self._released.append(handle)

    def ask(self, step: int, rounds: Sequence[Round], worth: float) -> bool:
        """Starts drafting; whether it did."""
        drafter = self.drafter
        if drafter is None or not (rounds or self._released) or not self.source.breaker.allow():
            return False
        wanting = [(each.sequence, each.limit) for each in rounds]
        queries = [
            DraftQuery(s.handle, s.drafted, s.since(s.drafted), limit) for s, limit in wanting
        ]
        request = DraftRequest(step, list(self._released), queries, worth)
        anchors = [(s.handle, len(s.tokens)) for s, _ in wanting]
        if not self.source.ask(step, anchors, lambda: drafter.propose(request)):
            return False
        self._released.clear()
        for sequence, _ in wanting:
            sequence.drafted = len(sequence.tokens)
        return True

    def take(self, live: Mapping[int, Running]) -> dict[int, Draft]:
        """Waits for the answer. A late one is of no use: it hangs from roots that are gone."""
        source = self.source
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


class Retrieving:
    """A retriever of one kind, or none, and what it was told.

    Args:
        kind: PROMPT or CORPUS.
        source: of questions behind the text; ``ahead`` of those behind drafted nodes. They
            share a breaker.
        longest: tokens of the longest suffix.
    """

    def __init__(
        self,
        kind: int,
        source: Source[RetrieveReply],
        ahead: Source[RetrieveReply],
        timings: Timings,
        vocabulary: int,
        longest: int,
    ) -> None:
        self.kind = kind
        self.source = source
        self.ahead = ahead
        self.retriever: Retriever | None = None
        self._timings = timings
        self._vocabulary = vocabulary
        self._longest = longest
        self._told: dict[int, int] = {}  # tokens it knows, by handle

    def replace(self, retriever: Retriever | None, live: Iterable[Running]) -> None:
        """Asks another one from now on; it is told everything about ``live`` ones."""
        self.source.forget()
        self.ahead.forget()
        self._told.clear()
        self.retriever = retriever
        for sequence in live:
            self.tell(sequence)

    def serves(self, each: Round) -> bool:
        """Whether there is anything it may find for the round's sequence."""
        if self.retriever is None or not each.uses & self.kind:
            return False
        return self.kind != CORPUS or bool(each.sequence.request.params.corpora)

    def tell(self, sequence: Running) -> None:
        """Hands over what was decided since it was told last."""
        told = self._told.get(sequence.handle, 0)
        if self.retriever is None or told == len(sequence.tokens):
            return
        try:
            with self._timings.measure(self.source.name, count=0):
                self.retriever.observe(sequence.handle, sequence.since(told))
        except Exception as error:  # a stage may fail in any way
            self.source.miss(error)
        self._told[sequence.handle] = len(sequence.tokens)

    def release(self, handle: int) -> None:
        """The handle will not come again."""
        if self.retriever is None or self._told.pop(handle, None) is None:
            return
        try:
            self.retriever.release(handle)
        except Exception as error:  # as above
            self.source.miss(error)

    # --- behind the text ------------------------------------------------------------------------

    def ask(self, step: int, wanting: Sequence[Running]) -> bool:
        """Asks what follows; whether it did."""
        retriever = self.retriever
        if retriever is None or not wanting or not self.source.breaker.allow():
            return False
        for sequence in wanting:
            self.tell(sequence)
        request = RetrieveRequest(2 * step, [self._query(s, _NOTHING_AHEAD) for s in wanting])
        anchors = [(s.handle, len(s.tokens)) for s in wanting]
        return self.source.ask(request.step, anchors, lambda: retriever.retrieve(request))

    def _query(self, sequence: Running, ahead: Int32s) -> RetrieveQuery:
        params = sequence.request.params
        back = max(self._longest - len(ahead), 0)
        tail = sequence.since(max(len(sequence.tokens) - back, 0))
        return RetrieveQuery(
            sequence.handle,
            np.concatenate((tail, ahead))[-self._longest :] if len(ahead) else tail,
            params.corpora or () if self.kind == CORPUS else (),
            params.return_origins,
            params.passages,
            ahead,
        )

    def take(self, live: Mapping[int, Running]) -> dict[int, Continuations]:
        """Waits for the answer; one that was late in the step before is moved along."""
        source = self.source
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
            checked = self._checked(entry, sequence)
            sound = sound and checked is not None
            if checked is not None and len(checked) and sequence is not None:
                since = sequence.tokens[length:]
                found[handle] = advance(checked, since) if since else checked
        if not sound:
            source.miss("malformed answer")
        elif on_time:
            source.breaker.success()
        if entries is not None:
            _count_partial(asked, reply, [live.get(handle) for handle, _ in asked.anchors])
        return found

    def _checked(self, entry: object, sequence: Running | None) -> Continuations | None:
        return sound_continuations(entry, self._vocabulary, _citable(sequence, self.kind))

    # --- behind drafted nodes -------------------------------------------------------------------

    def ask_ahead(self, step: int, places: Sequence[tuple[Running, Int32s]]) -> bool:
        """Asks what follows the text and int32[n] drafted tokens; whether it did."""
        retriever = self.retriever
        if retriever is None or not places or not self.ahead.breaker.allow():
            return False
        for sequence, _ in places:
            self.tell(sequence)
        queries = [self._query(sequence, ahead) for sequence, ahead in places]
        request = RetrieveRequest(2 * step + 1, queries)
        anchors = [(s.handle, len(s.tokens)) for s, _ in places]
        return self.ahead.ask(request.step, anchors, lambda: retriever.retrieve(request))

    def take_ahead(self, asking: Sequence[Running]) -> list[Continuations | None]:
        """Waits for the answer: per place what was found, or None. A late one is dropped.

        Args:
            asking: the sequences of the places that were asked for.
        """
        nothing: list[Continuations | None] = [None] * len(asking)
        answer = self.ahead.answer()
        self.ahead.late = None
        if answer is None:
            return nothing
        entries = entries_of(answer[1], "found", answer[0])
        if entries is None:
            self.ahead.miss("malformed answer")
            return nothing
        found = [self._checked(*each) for each in zip(entries, asking, strict=True)]
        if None in found:
            self.ahead.miss("malformed answer")
        _count_partial(*answer, asking)
        return [one if one is not None and len(one) else None for one in found]


def _count_partial(
    asked: Asked[RetrieveReply], reply: RetrieveReply, sequences: Iterable[Running | None]
) -> None:
    """Has those of the anchors' sequences count it whose answers lack something."""
    partial = partial_of(reply)
    for place, ((_, length), sequence) in enumerate(zip(asked.anchors, sequences, strict=True)):
        if place in partial and sequence is not None:
            sequence.lack(length)


def _citable(sequence: Running | None, kind: int) -> range | None:
    """Corpora that origins may name, as indices; None if nobody wants to know them."""
    if sequence is None or not sequence.request.params.return_origins:
        return None
    if kind == PROMPT:
        return range(-1, 0)
    return range(len(sequence.request.params.corpora or ()))
