"""Questions to one drafter and to one retriever, and what of their answers can be used.

Whatever a stage does, nothing here raises: what fails counts as a miss (`rasd.engine.source`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        return self._ask(self.source, 2 * step, [(each, _NOTHING_AHEAD) for each in wanting])

    def take(self, live: Mapping[int, Running]) -> dict[int, Continuations]:
        """Waits for the answer; one that was late in the step before is moved along."""
        source = self.source
        late, wanting = source.late_answer(), source.asked
        on_time = source.answer()
        if on_time is None and wanting is not None:
            self._lack(live.get(handle) for handle, _ in wanting.anchors)
        answer = on_time or late
        if answer is None:
            return {}
        asked, reply = answer
        sequences = [live.get(handle) for handle, _ in asked.anchors]
        checked = self._checked(asked, reply, sequences)
        found: dict[int, Continuations] = {}
        for (handle, length), sequence, one in zip(asked.anchors, sequences, checked, strict=True):
            if one is not None and len(one) and sequence is not None:
                since = sequence.tokens[length:]
                found[handle] = advance(one, since) if since else one
        if None in checked:
            source.miss("malformed answer")
        elif on_time:
            source.breaker.success()
        if on_time:  # what is late was missed in its own step
            self._lack(_lacking(reply, sequences, checked))
        return found

    # --- behind drafted nodes -------------------------------------------------------------------

    def ask_ahead(self, step: int, places: Sequence[tuple[Running, Int32s]]) -> bool:
        """Asks what follows the text and int32[n] drafted tokens; whether it did."""
        return self._ask(self.ahead, 2 * step + 1, places)

    def take_ahead(self, asking: Sequence[Running]) -> list[Continuations | None]:
        """Waits for the answer: per place what was found, or None. A late one is dropped.

        Args:
            asking: the sequences of the places that were asked for.
        """
        answer = self.ahead.answer()
        self.ahead.late = None
        if answer is None:
            self._lack(asking)
            return [None] * len(asking)
        found = self._checked(*answer, asking)
        if None in found:
            self.ahead.miss("malformed answer")
        self._lack(_lacking(answer[1], asking, found))
        return [one if one is not None and len(one) else None for one in found]

    # --- both -----------------------------------------------------------------------------------

    def _ask(
        self,
        source: Source[RetrieveReply],
        step: int,
        places: Sequence[tuple[Running, Int32s]],
    ) -> bool:
        retriever = self.retriever
        if retriever is None or not places:
            return False
        if source.breaker.allow():
            for sequence, _ in places:
                self.tell(sequence)
            request = RetrieveRequest(step, [self._query(*place) for place in places])
            anchors = [(s.handle, len(s.tokens)) for s, _ in places]
            if source.ask(step, anchors, lambda: retriever.retrieve(request)):
                return True
        self._lack(sequence for sequence, _ in places)
        return False

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

    def _checked(
        self,
        asked: Asked[RetrieveReply],
        reply: RetrieveReply,
        sequences: Sequence[Running | None],
    ) -> list[Continuations | None]:
        """Per anchor what can be used of the answer; None where it is malformed."""
        entries = entries_of(reply, "found", asked) or [None] * len(asked.anchors)
        return [
            sound_continuations(entry, self._vocabulary, _citable(sequence, self.kind))
            for entry, sequence in zip(entries, sequences, strict=True)
        ]

    def _lack(self, sequences: Iterable[Running | None]) -> None:
        """Has those sequences count the step: they do without some or all of their corpora."""
        if self.kind == CORPUS:
            for sequence in sequences:
                if sequence is not None:
                    sequence.lack()


def _lacking(
    reply: RetrieveReply,
    sequences: Iterable[Running | None],
    found: Iterable[Continuations | None],
) -> Iterator[Running | None]:
    """Those of the sequences that got nothing that can be used, or not all there is."""
    partial = partial_of(reply)
    for place, (sequence, one) in enumerate(zip(sequences, found, strict=True)):
        if one is None or place in partial:
            yield sequence


def _citable(sequence: Running | None, kind: int) -> range | None:
    """Corpora that origins may name, as indices; None if nobody wants to know them."""
    if sequence is None or not sequence.request.params.return_origins:
        return None
    if kind == PROMPT:
        return range(-1, 0)
    return range(len(sequence.request.params.corpora or ()))
