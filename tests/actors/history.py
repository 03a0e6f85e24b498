"""Documents whose visibility can be read off an answer, and what an answer may say when.

A document of a group says: the key of the group, its own number, its version, and a filler. A
question is a key; each visible document of the group is one branch of the answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rasd.config import RetrievalConfig
from rasd.datastore import NewDocument
from rasd.trie import Continuations
from tests.retrieval import brute

SETTINGS = RetrievalConfig(suffix_max=4, suffix_min=4, depth=3, nodes=64)
FOUND_S = 1.0
"""How long after its acknowledgement a write may go unnoticed."""

_KEY, _NUMBER, _VERSION, _FILLER = 10, 100, 1100, 4000
_PER_GROUP = 8


def key(group: int) -> list[int]:
    """The question about a group."""
    return [_KEY + group // 50, _KEY + group % 50, _KEY + 60, _KEY + 61]


def tokens(number: int, version: int) -> list[int]:
    """What a document says."""
    branch = [_NUMBER + number, _VERSION + version, _FILLER]
    return [*key(number // _PER_GROUP), *branch, _FILLER + 1 + number % 100]


def document(number: int, version: int) -> NewDocument:
    """To be added."""
    return NewDocument(f"doc-{number}", tokens=tokens(number, version))


@dataclass(slots=True)
class _Write:
    """``version`` is None for a deletion; ``acknowledged`` while it is under way, None."""

    version: int | None
    began: float
    acknowledged: float | None = None


@dataclass(slots=True)
class History:
    """What was written when. One writer; any thread may ask."""

    documents: int
    _writes: dict[int, list[_Write]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def groups(self) -> int:
        """How many questions there are."""
        return -(-self.documents // _PER_GROUP)

    def begin(self, number: int, version: int | None) -> None:
        """A write is about to be sent, maybe several times."""
        with self._lock:
            self._writes.setdefault(number, []).append(_Write(version, time.monotonic()))

    def acknowledge(self, number: int) -> None:
        """It is durable."""
        with self._lock:
            self._writes[number][-1].acknowledged = time.monotonic()

    def now(self, number: int) -> int | None:
        """The version that was written last; None if there is none."""
        writes = self._writes.get(number)
        return writes[-1].version if writes else None

    def allowed(self, number: int, asked: float, answered: float) -> set[int | None]:
        """Versions that a question may see which was asked and answered then; None is absence."""
        with self._lock:
            allowed: set[int | None] = {None}
            for write in self._writes.get(number, []):
                if write.began > answered:
                    break
                if write.acknowledged is not None and write.acknowledged < asked - FOUND_S:
                    allowed = set()  # what was before is overdue
                allowed.add(write.version)
            return allowed

    def check(self, group: int, found: Continuations, asked: float, answered: float) -> None:
        """Fails unless the answer is what brute force finds in documents that may be visible."""
        seen = versions(found)
        numbers = range(group * _PER_GROUP, min((group + 1) * _PER_GROUP, self.documents))
        assert seen.keys() <= set(numbers), (group, seen)
        for number in numbers:
            allowed = self.allowed(number, asked, answered)
            assert seen.get(number) in allowed, (
                f"document {number} (group {group}): version {seen.get(number)}, not {allowed}; "
                f"writes {self._writes.get(number)}, asked {asked:.3f}, answered {answered:.3f}"
            )
        texts: list[Sequence[int]] = [tokens(number, seen[number]) for number in seen]
        expected = brute.search(texts, key(group), SETTINGS)
        assert brute.same(found, expected), (brute.as_lists(found), brute.as_lists(expected))


def versions(found: Continuations) -> dict[int, int]:
    """The version of each document that an answer shows; fails if it shows one twice."""
    seen: dict[int, int] = {}
    for node, parent in enumerate(found.parents.tolist()):
        if parent != -1 and found.parents[parent] == -1:
            number = int(found.tokens[parent]) - _NUMBER
            assert number not in seen, f"document {number} in two versions"
            seen[number] = int(found.tokens[node]) - _VERSION
    return seen
