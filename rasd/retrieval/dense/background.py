"""Indexes of meaning that are built beside everything else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from rasd.config import DenseConfig
from rasd.retrieval.dense.embed import Embedder
from rasd.retrieval.dense.passages import Passage
from rasd.retrieval.dense.store import DenseStore
from rasd.retrieval.segment import UInt32s
from rasd.retrieval.shard import ShardStore

_log = logging.getLogger(__name__)


class Background:
    """A `DenseStore` with a thread that loads its embedder and builds what is missing.

    Any thread may call. Until there is something, nothing is found.
    """

    def __init__(self, load: Callable[[], Embedder], settings: DenseConfig) -> None:
        """``load`` is called in the thread; what it raises is logged, and nothing is ever found."""
        self._load = load
        self._settings = settings
        self._indexes: DenseStore | None = None
        self._stores: tuple[ShardStore, ...] = ()
        self._due = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="dense", daemon=True)
        self._thread.start()

    @property
    def passages(self) -> int:
        """How many can be found."""
        return 0 if self._indexes is None else self._indexes.passages

    def follow(self, stores: Sequence[ShardStore]) -> None:
        """Indexes what these show now, soon, and drops the rest. Call it after each change."""
        self._stores = tuple(stores)
        self._due.set()

    def search(
        self, store: ShardStore, prompt: UInt32s, corpora: Sequence[str], count: int
    ) -> list[Passage]:
        """See `DenseStore.search`."""
        indexes = self._indexes
        return [] if indexes is None else indexes.search(store, prompt, corpora, count)

    def close(self) -> None:
        """Ends the thread after what it builds now. Does not wait."""
        self._closed = True
        self._due.set()

    def _run(self) -> None:
        try:
            self._indexes = DenseStore(self._load(), self._settings)
        except Exception:
            _log.exception("nothing is selected by meaning")
            return
        while self._due.wait() and not self._closed:
            self._due.clear()
            try:
                self._indexes.refresh(self._stores)
            except Exception:  # one more write, and it is tried again
                _log.exception("what is new cannot be selected by meaning yet")
