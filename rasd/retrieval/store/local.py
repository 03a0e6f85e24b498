"""The catalog of a storage root, in one process: the only one that writes there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from rasd.config import CorpusConfig, DatastoreConfig
from rasd.datastore import (
    Change,
    CorpusInfo,
    NewDocument,
    Page,
    StoredDocument,
    WriterInfo,
    Written,
)
from rasd.errors import Conflict, NotFound, Overloaded, RasdError, TokenizerMismatch, Unavailable
from rasd.retrieval.store.browse import IDLE_S, Browser, Browsers
from rasd.retrieval.store.compactions import Compactions
from rasd.retrieval.store.corpora import CorpusSpec, create_corpus, drop_corpus, read_spec
from rasd.retrieval.store.counters import WriteCounters
from rasd.retrieval.store.info import all_corpora, corpus_info, with_damaged
from rasd.retrieval.store.intake import Intake, id_fault, quoted, rejected, weight, written
from rasd.retrieval.store.prepare import check_fits, is_filled, prepare
from rasd.retrieval.store.records import Delete, Document, Put
from rasd.retrieval.store.room import Room
from rasd.retrieval.store.seed import Progress, Seeding
from rasd.retrieval.store.upkeep import Submit
from rasd.retrieval.store.writer import CorpusWriter
from rasd.retrieval.store.writers import Writers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_DELETE_BYTES: Final = 64
_READING, _THINKING = 4, 2

T = TypeVar("T")
_log = logging.getLogger(__name__)


class LocalCatalog:
    """A `rasd.datastore.Catalog` over a storage root. Belongs to one event loop.

    Corpora are opened for writing when they are first written to; reading takes no lock. A
    caller that is cancelled harms no other, and what it asked for may happen all the same.

    Attributes:
        counters: what was written since the start, and what failed.
    """

    def __init__(
        self,
        root: Path,
        tokenizer: PreTrainedTokenizerFast,
        settings: DatastoreConfig,
        submit: Submit,
    ) -> None:
        """Touches no file.

        Args:
            submit: runs compactions, which take seconds to minutes of a core each; best in
                other processes, of which each must see ``root`` at the same place.
        """
        self.counters = WriteCounters()
        self._root = root
        self._settings = settings
        self._intake = Intake(tokenizer, max_document_bytes=settings.store.max_document_bytes)
        self._compactions = Compactions(submit, settings.compactions)
        self._writers = Writers(root, settings.store, self._compactions, self.counters)
        self._browsers = Browsers(root)
        self._tidying: asyncio.Task[None] | None = None
        self._room = Room()
        self._closed = False
        self._readers = ThreadPoolExecutor(_READING, "rasd-read")
        self._thinkers = ThreadPoolExecutor(_THINKING, "rasd-tokenise")

    async def close(self) -> None:
        """Ends what is being written, refuses what waits, and lets others write."""
        self._closed = True
        if self._tidying is not None:
            self._tidying.cancel()
        await self._writers.close()
        self._readers.shutdown(wait=False)
        self._thinkers.shutdown(wait=False)

    async def resume(self) -> None:
        """Goes on with what a writer left that was killed; what cannot be opened is logged.

        Only corpora of which something waits to be indexed are opened for that.
        """
        for corpus in await self.corpora():
            if corpus.memory_tokens:
                try:
                    await self._writers.use(corpus.name, CorpusWriter.tick)
                except RasdError as error:
                    _log.warning("corpus %s is not looked after: %s", corpus.name, error)

    # --- corpora --------------------------------------------------------------------------------

    async def corpora(self) -> list[CorpusInfo]:
        """As `Catalog.corpora`."""
        found = await self._read(all_corpora, self._root)
        return [with_damaged(corpus, self._writers.damaged(corpus.name)) for corpus in found]

    async def corpus(self, name: str) -> CorpusInfo:
        """As `Catalog.corpus`."""
        found = await self._read(corpus_info, self._root, name)
        return with_damaged(found, self._writers.damaged(name))

    async def create(self, name: str, partitions: int | None = None) -> CorpusInfo:
        """As `Catalog.create`; None stands for the configured number, or what is there."""
        await self._read(self._create, name, partitions)
        return await self._read(corpus_info, self._root, name)

    async def drop(self, name: str) -> None:
        """As `Catalog.drop`; what is being written to it is lost or refused."""
        await self._writers.close_one(name, partial(drop_corpus, self._root, name))

    async def flush(self, name: str) -> None:
        """Puts all of a corpus into segments and merges what is due; waits until it is done.

        Raises:
            NotFound, StoreLocked, StorageError, Unavailable: it could not be done.
        """
        await self._writers.use(name, CorpusWriter.flush)

    async def rebuild(self, name: str, partition: int, source: int) -> None:
        """Writes a damaged segment anew; see `CorpusWriter.rebuild`."""
        await self._writers.use(name, lambda writer: writer.rebuild(partition, source))

    async def writer(self) -> WriterInfo:
        """What is written and compacted here."""
        counters, compactions = self.counters, self._compactions
        return WriterInfo(
            commits=counters.commits,
            commit_seconds=counters.commit_seconds,
            failed_commits=counters.failed["commit"],
            compactions=compactions.running,
            waiting=compactions.waiting,
            failed_compactions=counters.failed["compaction"],
            failure=counters.failure,
        )

    async def seed(self, corpus: CorpusConfig, progress: Progress | None = None) -> CorpusInfo:
        """Makes and fills a corpus of the configuration unless that is done.

        Raises:
            ConfigError: its source is not there, or gives nothing.
            StoreLocked: another process writes to it.
            TokenizerMismatch, SegmentError, StorageError: it cannot be used, or not be made.
        """
        name = corpus.name
        if not await self._read(is_filled, self._root, name):
            seeding = await self._read(Seeding, self._root, corpus, self._intake, progress)
            await self._read(prepare, self._root, name, self._intake, self._settings.partitions)
            if await self._writers.use(name, lambda _: seeding.begin()):
                await self._fill(name, seeding)
        check_fits(await self._read(read_spec, self._root, name), self._intake)
        return await self._read(corpus_info, self._root, name)

    async def _fill(self, name: str, seeding: Seeding) -> None:
        batches = seeding.batches()
        while (batch := await self._think(next, batches, None)) is not None:
            try:
                changes = await self._writers.write(name, batch.puts, batch.size)
            except Overloaded:
                await self.flush(name)
                changes = await self._writers.write(name, batch.puts, batch.size)
            seeding.wrote(batch, changes)
        await self.flush(name)
        await self._read(seeding.finish)

    def _create(self, name: str, partitions: int | None) -> None:
        if partitions is None:
            try:
                partitions = read_spec(self._root, name).partitions
            except NotFound:
                partitions = self._settings.partitions
        create_corpus(
            self._root,
            name,
            partitions=partitions,
            vocabulary=self._intake.vocabulary,
            tokenizer_hash=self._intake.tokenizer_hash,
        )

    # --- documents ------------------------------------------------------------------------------

    async def add(self, name: str, documents: Sequence[NewDocument]) -> list[Written]:
        """As `Catalog.add`.

        Raises:
            Conflict: the corpus is of another tokenizer.
        """
        spec = await self._check(name)
        with self._room.taken(len(documents), sum(map(weight, documents))):
            answers = await self._think(self._intake.check, documents)
            passed = [at for at, answer in enumerate(answers) if answer is None]
            made = await self._think(self._intake.tokenise, [documents[at] for at in passed])
            puts: list[tuple[int, Put]] = []
            for at, one in zip(passed, made, strict=True):
                if isinstance(one, Document):
                    puts.append((at, Put(one)))
                else:
                    answers[at] = one
            size = sum(weight(documents[at]) for at, _ in puts)
            changes = await self._writers.write(name, [put for _, put in puts], size)
        for (at, put), change in zip(puts, changes, strict=True):
            answers[at] = written(spec, put.document.id, change)
        self.counters.documents += len(puts) - changes.count("rejected")
        self.counters.bytes += size
        return self._answered(answers)

    async def delete(self, name: str, ids: Sequence[str]) -> list[Written]:
        """As `Catalog.delete`. An id that comes again is missing by then."""
        spec = await self._read(read_spec, self._root, name)
        answers = [rejected(id_, fault) if (fault := id_fault(id_)) else None for id_ in ids]
        deletes = {id_: Delete(id_) for id_, no in zip(ids, answers, strict=True) if not no}
        size = _DELETE_BYTES * len(deletes)
        with self._room.taken(len(deletes), size):
            changes = await self._writers.write(name, list(deletes.values()), size)
        first: dict[str, Change] = dict(zip(deletes, changes, strict=True))
        self.counters.deletes += len(deletes) - changes.count("rejected")
        return self._answered(
            [
                answer or written(spec, id_, first.pop(id_, "missing"))
                for id_, answer in zip(ids, answers, strict=True)
            ]
        )

    async def get(self, name: str, id: str) -> StoredDocument:
        """As `Catalog.get`.

        Raises:
            SegmentError: the document is in a damaged file, or may have been.
        """
        if id_fault(id):
            raise NotFound(f"corpus {name!r} has no document {quoted(id)}", param="id")
        return await self._browse(name, lambda browser: browser.get(id))

    async def page(self, name: str, after: str | None, limit: int) -> Page:
        """As `Catalog.page`."""
        return await self._browse(name, lambda browser: browser.page(after, limit))

    async def resolve(self, name: str, digests: Sequence[bytes]) -> list[str | None]:
        """As `Catalog.resolve`."""
        return await self._browse(name, lambda browser: browser.resolve(digests))

    async def _browse(self, name: str, call: Callable[[Browser], T]) -> T:
        if self._tidying is None:
            self._tidying = asyncio.create_task(self._tidy())
        return await self._read(lambda: call(self._browsers.of(name)))

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(IDLE_S)
            self._browsers.tidy()

    async def _check(self, name: str) -> CorpusSpec:
        spec = await self._read(read_spec, self._root, name)
        try:
            check_fits(spec, self._intake)
        except TokenizerMismatch as error:
            raise Conflict(str(error)) from error
        return spec

    def _answered(self, answers: Sequence[Written | None]) -> list[Written]:
        """The answers, each of which is there."""
        found = [answer for answer in answers if answer is not None]
        self.counters.rejected += sum(answer.change == "rejected" for answer in found)
        return found

    async def _read(self, call: Callable[..., T], *values: Any) -> T:
        return await self._in(self._readers, call, *values)

    async def _think(self, call: Callable[..., T], *values: Any) -> T:
        return await self._in(self._thinkers, call, *values)

    async def _in(self, threads: ThreadPoolExecutor, call: Callable[..., T], *values: Any) -> T:
        if self._closed:
            raise Unavailable("the datastore is closed")
        return await asyncio.get_running_loop().run_in_executor(threads, call, *values)
