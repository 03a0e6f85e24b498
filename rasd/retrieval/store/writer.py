"""The one writer of a corpus."""

from __future__ import annotations

import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any, Final

import numpy as np

from rasd.config import StoreConfig
from rasd.datastore import Change
from rasd.errors import InvalidRequest, Overloaded, SegmentCorrupt, StorageError, Unavailable
from rasd.retrieval.segment import MAX_TOKENS
from rasd.retrieval.store.corpora import LOCK, corpus_path, partition_path, read_spec
from rasd.retrieval.store.lock import WriterLock
from rasd.retrieval.store.manifest import PartitionManifest, docs_path
from rasd.retrieval.store.partition import PartitionStore
from rasd.retrieval.store.records import Document, Operation, Put, id_digest, partition_of
from rasd.retrieval.store.upkeep import Clock, Report, Submit, Upkeep

WAIT_S: Final = 10.0
"""How long a write waits for a compaction before it is refused."""


class CorpusWriter:
    """Writes to a corpus, and keeps its files small. Safe to use from several threads.

    Compactions run where ``submit`` puts them; they are started and committed by `write`, `tick`
    and `flush`, so `tick` is to be called often.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        settings: StoreConfig,
        submit: Submit,
        clock: Clock = time.monotonic,
        report: Report = lambda _: None,
    ) -> None:
        """Opens a corpus for writing, and fences whoever else had it open.

        Raises:
            NotFound: there is none.
            StoreLocked: another process has it open.
            StorageError: the root is read-only, full or failing.
            SegmentCorrupt, SegmentVersionError: its specification or a manifest is damaged.
        """
        self.spec = read_spec(root, name)
        self._turn = threading.RLock()
        self._closed = False
        self._lock = WriterLock(corpus_path(root, name) / LOCK)
        writer = secrets.token_hex(8)
        try:
            self._stores = [
                PartitionStore(partition_path(root, name, partition), self.spec, writer)
                for partition in range(self.spec.partitions)
            ]
        except BaseException:
            self._lock.release()
            raise
        self._upkeeps = [
            Upkeep(store, self.spec, settings, submit, clock, report) for store in self._stores
        ]

    @property
    def manifests(self) -> list[PartitionManifest]:
        """What each partition consists of now. Raises as `write`."""
        with self._turn:
            return [store.contents.manifest for store in self._stores]

    @property
    def damaged(self) -> dict[str, str]:
        """What is wrong, by file, as in "partition-0003/source-000017.docs", or partition.

        Sources that are left out of compactions, and what keeps a partition from being written
        to, as far as anybody came upon it. Waits for nobody.
        """
        found: dict[str, str] = {}
        for store, upkeep in zip(self._stores, self._upkeeps, strict=True):
            for number, reason in upkeep.damaged.items():
                found[f"{store.path.name}/{docs_path(store.path, number).name}"] = reason
            found |= store.damaged
        return found

    def write(self, operations: Sequence[Operation]) -> list[Change]:
        """Makes a group of operations durable; answers what each came to, in order.

        Each document is replaced as a whole; partitions are written one after the other. After
        an error all, some or none of the group are there, each whole: repeat the call. What
        belongs into a damaged partition is "rejected", the rest of the group is written.

        Raises:
            InvalidRequest: ids are not distinct, a token is out of range, or there are more than a
                segment can hold; nothing was written.
            Overloaded: compaction does not keep up; nothing was written.
            StoreLocked: another process has taken over.
            StorageError: the root refuses it, or all partitions it is for are damaged.
            Unavailable: the writer is closed.
        """
        rows: defaultdict[int, list[tuple[int, bytes, Operation]]] = defaultdict(list)
        for at, (digest, operation) in enumerate(_checked(operations, self.spec.vocabulary)):
            rows[partition_of(digest, self.spec.partitions)].append((at, digest, operation))
        changes: list[Change] = ["rejected"] * len(operations)
        with self._turn:
            self._check_open()
            for partition in self._writable(rows):
                done = self._stores[partition].write([row[1:] for row in rows[partition]])
                for (at, _, _), change in zip(rows[partition], done, strict=True):
                    changes[at] = change
        return changes

    def tick(self) -> bool:
        """Starts and commits compactions that are due, and removes files that are not needed.

        What fails is logged and tried again. Returns whether anything waits to be put into a
        segment, which it is after ``flush_after_s`` at the latest if ticks go on, or is merged.

        Raises:
            StoreLocked: another process has taken over.
            Unavailable: the writer is closed.
        """
        with self._turn:
            self._check_open()
            for upkeep in self._upkeeps:
                upkeep.step()
                upkeep.tidy()
            return any(upkeep.waiting for upkeep in self._upkeeps)

    def flush(self) -> None:
        """Puts all that was written into segments and merges what is due; waits until it is done.

        Raises:
            StoreLocked, StorageError, Unavailable: as `write`.
            Exception: what a compaction failed with, elsewhere.
        """
        with self._turn:
            marks = {
                upkeep: store.reserve()
                for upkeep, store in zip(self._upkeeps, self._stores, strict=True)
            }
        self._settle(self._upkeeps, lambda upkeep: upkeep.step(below=marks[upkeep]))

    def rebuild(self, partition: int, source: int) -> None:
        """Writes a damaged segment anew from its documents; waits until it is done.

        Nothing happens if the source is no longer there.

        Raises:
            InvalidRequest: there is no such partition.
            SegmentCorrupt: its documents are damaged too.
            StoreLocked, StorageError, Unavailable, Exception: as `flush`.
        """
        if not 0 <= partition < self.spec.partitions:
            raise InvalidRequest(
                f"corpus {self.spec.name!r} has {self.spec.partitions} partitions; got {partition}"
            )
        upkeep = self._upkeeps[partition]
        with self._turn:
            upkeep.rebuild(source)
        self._settle([upkeep], Upkeep.step)
        if source in upkeep.damaged:
            raise SegmentCorrupt(upkeep.damaged[source])

    def close(self) -> None:
        """Lets others write. Compactions that run are given up."""
        with self._turn:
            if not self._closed:
                self._closed = True
                for upkeep in self._upkeeps:
                    upkeep.close()
                self._lock.release()

    def _settle(
        self, upkeeps: Iterable[Upkeep], step: Callable[[Upkeep], list[Future[Any]]]
    ) -> None:
        """Steps until nothing is due, waiting without holding the turn."""
        upkeeps = list(upkeeps)
        for upkeep in upkeeps:
            upkeep.hurry()
        while True:
            with self._turn:
                self._check_open()
                running = [future for upkeep in upkeeps for future in step(upkeep)]
                for upkeep in upkeeps:
                    upkeep.tidy()
                    if upkeep.error:
                        raise upkeep.error
            if not running:
                return
            wait(running, return_when=FIRST_COMPLETED)

    def _writable(self, partitions: Iterable[int]) -> list[int]:
        """Those that are sound, once there is room in each. Raises if there are none but others."""
        sound: list[int] = []
        refused: StorageError | None = None
        for partition in partitions:
            try:
                self._make_room(self._upkeeps[partition])
                sound.append(partition)
            except StorageError as error:
                if not self._stores[partition].damaged:
                    raise
                refused = error
        if refused and not sound:
            raise refused
        return sound

    def _make_room(self, upkeep: Upkeep) -> None:
        deadline = time.monotonic() + WAIT_S
        while True:
            running = upkeep.step()
            excess = upkeep.excess()
            if not excess:
                return
            left = deadline - time.monotonic()
            if not running or left <= 0:
                raise Overloaded(excess)
            wait(running, left, return_when=FIRST_COMPLETED)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"the writer of corpus {self.spec.name!r} is closed")


def _checked(operations: Sequence[Operation], vocabulary: int) -> list[tuple[bytes, Operation]]:
    """The operations, each with the digest of its id."""
    found: list[tuple[bytes, Operation]] = []
    seen: set[bytes] = set()
    size = 0  # of the index of it all
    for operation in operations:
        id_ = operation.document.id if isinstance(operation, Put) else operation.id
        digest = id_digest(id_)
        if digest in seen:
            raise InvalidRequest(f"ids of a group must differ; {id_!r} comes twice")
        seen.add(digest)
        if isinstance(operation, Put):
            _check_tokens(operation.document, vocabulary)
            size += len(operation.document.tokens) + 1
        found.append((digest, operation))
    if size > MAX_TOKENS:
        raise InvalidRequest(f"a group holds at most {MAX_TOKENS} tokens; got {size}")
    return found


def _check_tokens(document: Document, vocabulary: int) -> None:
    tokens = document.tokens
    if tokens.ndim != 1 or tokens.dtype != np.uint32 or not len(tokens):
        raise InvalidRequest(
            f"tokens of a document must be uint32[n], n >= 1; {document.id!r} has "
            f"{tokens.dtype}{list(tokens.shape)}"
        )
    if int(tokens.max()) >= vocabulary:
        raise InvalidRequest(
            f"token ids must be in [0, {vocabulary}); {document.id!r} holds {tokens.max()}"
        )
