"""Keeps up with a partition, and with a corpus that may be dropped and made anew."""

from __future__ import annotations

import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from rasd.errors import NotFound, SegmentCorrupt, SegmentError
from rasd.retrieval.store.corpora import SPEC, CorpusSpec, corpus_path, read_spec
from rasd.retrieval.store.follow import Moved, Probe, follow, may_pass
from rasd.retrieval.store.manifest import PartitionManifest, manifest_path

RETRY_S: Final = 5.0
"""After this time a file that the system would not read is tried again."""
_TRIES: Final = 3
_NOBODY: Final = (-1, -1)

Identity = tuple[int, int]
"""Tells a corpus from one of the same name that was made after it was dropped."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A partition as one manifest has it; what of it is to the follower. Immutable.

    Attributes:
        version: of the manifest; 0 before the first.
        refused: why files do not serve, by name below the corpus.
    """

    version: int = 0
    refused: Mapping[str, SegmentError] = field(default_factory=dict)


V = TypeVar("V", bound=View)


class PartitionFollower(ABC, Generic[V]):
    """Follows one partition. ``view`` may be read from any thread at any time."""

    def __init__(self, path: Path, empty: V) -> None:
        """Reads nothing yet."""
        self.view = empty
        self._empty = empty
        self._path = path
        self._probe = Probe(path)
        self._lock = threading.Lock()
        self._again_at = float("inf")

    @abstractmethod
    def _build(self, manifest: PartitionManifest) -> V:
        """What a manifest says. Raises `Moved`; nothing is remembered then."""

    @property
    def waiting_s(self) -> float:
        """Age of the oldest manifest that ``view`` does not show; 0 if there is none."""
        return self._probe.waiting_s()

    def refresh(self) -> bool:
        """Follows the newest manifest; returns whether the view is another one. Never raises.

        Where nothing changed it looks for two names. Threads wait for each other.
        """
        if not self._probe.changed() and time.monotonic() < self._again_at:
            return False
        with self._lock:
            before = self.view
            try:
                self.view = follow(self._path, self._probe, self._build)
            except Moved as error:
                _logger.warning("%s; trying again", error)
            except (NotFound, SegmentError) as error:
                self.view = self._without_manifest(error)
            again = any(map(may_pass, self.view.refused.values()))
            self._again_at = time.monotonic() + RETRY_S if again else float("inf")
            return self.view is not before

    def _without_manifest(self, error: NotFound | SegmentError) -> V:
        """What was served goes on, unless the partition is gone."""
        file = self._name(manifest_path(self._path, self._probe.version))
        if str(self.view.refused.get(file)) == str(error):
            return self.view
        _logger.error("refused: %s", error)
        if isinstance(error, NotFound):
            return replace(self._empty, refused={file: SegmentCorrupt(str(error))})
        return replace(self.view, refused={**self.view.refused, file: error})

    def _name(self, file: Path) -> str:
        return f"{self._path.name}/{file.name}"


class _Refreshed(Protocol):
    def refresh(self) -> bool: ...


R = TypeVar("R", bound=_Refreshed)


class CorpusFollower(Generic[R]):
    """Whatever corpus has a name just now, or none.

    Attributes:
        partitions: what ``open_`` made of it; empty if it is not there or refused.
        refused: why it is.
    """

    def __init__(
        self, root: Path, name: str, open_: Callable[[CorpusSpec, Identity], list[R]]
    ) -> None:
        """Reads nothing yet. ``open_`` may refuse a corpus with a `SegmentError`.

        Raises:
            InvalidRequest: the name is none.
        """
        self._spec = str(corpus_path(root, name) / SPEC)
        self._root = root
        self._name = name
        self._open_with = open_
        self._identity: Identity = _NOBODY
        self.partitions: list[R] = []
        self.refused: SegmentError | None = None

    @property
    def there(self) -> bool:
        """Whether there was such a corpus at the last `refresh`."""
        return self._identity != _NOBODY

    def refresh(self) -> None:
        """Refreshes all partitions, those of another corpus if there is another. Never raises.

        One thread at a time.
        """
        for _ in range(_TRIES):
            identity = self._look()
            if identity != self._identity:
                self._open(identity)
            for partition in self.partitions:
                partition.refresh()
            if self._look() == identity:  # else they may have read what is another's
                return
        self._identity, self.partitions = _NOBODY, []  # made and dropped all the time

    def _look(self) -> Identity:
        try:
            found = os.stat(self._spec)
        except OSError:
            return _NOBODY
        return found.st_ino, found.st_mtime_ns

    def _open(self, identity: Identity) -> None:
        before, self.refused = self.refused, None
        self._identity, self.partitions = identity, []
        if identity == _NOBODY:
            return
        try:
            self.partitions = self._open_with(read_spec(self._root, self._name), identity)
        except NotFound:  # dropped just now
            self._identity = _NOBODY
        except SegmentError as error:
            self.refused = error
            if str(before) != str(error):
                _logger.error("refused: %s", error)
            if may_pass(error):
                self._identity = _NOBODY
