"""Documents on their way to the service: in batches, a few at once, acknowledged in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from rasd.cli.client import Client, corpus_path
from rasd.cli.console import say
from rasd.cli.journal import Journal, Outcome
from rasd.cli.reading import Item
from rasd.errors import InvalidRequest, PayloadTooLarge, ServerError

DOCUMENTS: Final = 500
BYTES: Final = 1024 * 1024
"""A batch is closed when it has so many, or when the next document would be over so much."""

IN_FLIGHT: Final = 4


@dataclass(slots=True)
class Batch:
    """Documents that are sent together, and what was refused between them, in order."""

    items: list[Item] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    bytes: int = 0

    def add(self, item: Item) -> None:
        """Puts it at the end."""
        self.items.append(item)
        if item.document is not None:
            self.ids.add(item.id)
            self.bytes += len(item.document)

    def takes(self, item: Item) -> bool:
        """Whether it may be added. An id comes once, so that the later document counts."""
        room = self.bytes + len(item.document or b"") <= BYTES and len(self.items) < DOCUMENTS
        return not self.items or (room and item.id not in self.ids)


def batches(items: Iterable[Item]) -> Iterator[Batch]:
    """Groups items as they come."""
    batch = Batch()
    for item in items:
        if not batch.takes(item):
            yield batch
            batch = Batch()
        batch.add(item)
    if batch.items:
        yield batch


class Upload:
    """Sends batches to a corpus.

    Args:
        settled: told of the outcomes of each batch, in the order of the items, once it is noted.
    """

    def __init__(
        self,
        client: Client,
        corpus: str,
        journal: Journal,
        settled: Callable[[list[Outcome]], None],
    ) -> None:
        self._client = client
        self._path = corpus_path(corpus, "documents")
        self._journal = journal
        self._settled = settled
        self._waiting: deque[tuple[Batch, Future[list[Outcome]]]] = deque()

    def run(self, items: Iterable[Item]) -> None:
        """Sends all. On an interruption, what is on its way is still waited for and noted.

        Raises:
            RasdError: the service refuses for good, or for longer than is worth waiting.
        """
        with ThreadPoolExecutor(IN_FLIGHT, "rasd-upload") as pool:
            try:
                for batch in batches(items):
                    while self._must_wait(batch):
                        self._settle()
                    self._waiting.append((batch, pool.submit(self._send, batch)))
                while self._waiting:
                    self._settle()
            except BaseException as error:
                self._client.stop()
                if isinstance(error, KeyboardInterrupt) and self._waiting:
                    say("interrupted; waiting for the answers to what was sent")
                self._settle_what_succeeds()
                raise

    def _must_wait(self, batch: Batch) -> bool:
        # Two with the same document at once could arrive in any order.
        crowded = len(self._waiting) >= IN_FLIGHT
        return crowded or any(batch.ids & other.ids for other, _ in self._waiting)

    def _settle(self) -> None:
        future = self._waiting[0][1]
        outcomes = future.result()
        self._waiting.popleft()
        try:
            self._journal.note(outcomes)
        except OSError as error:
            say(f"the upload goes on, but could not be resumed: {error}")
        self._settled(outcomes)

    def _settle_what_succeeds(self) -> None:
        # Only the first of them: what is noted later must not hide a gap.
        while self._waiting and not self._waiting[0][1].exception():
            self._settle()
        for _, future in self._waiting:
            future.cancel()

    def _send(self, batch: Batch) -> list[Outcome]:
        sent = iter(self._add([item for item in batch.items if item.document is not None]))
        return [
            Outcome(item, "rejected", item.reason) if item.document is None else next(sent)
            for item in batch.items
        ]

    def _add(self, items: list[Item]) -> list[Outcome]:
        if not items:
            return []
        documents = b",".join(item.document or b"" for item in items)
        try:
            answer = self._client.call("POST", self._path, b'{"documents":[' + documents + b"]}")
        except (InvalidRequest, PayloadTooLarge) as error:
            # One of them spoils the whole body: it is looked for, so that the others get in.
            if len(items) == 1:
                return [Outcome(items[0], "rejected", str(error))]
            middle = len(items) // 2
            return self._add(items[:middle]) + self._add(items[middle:])
        return _outcomes(items, answer["data"])


def _outcomes(items: list[Item], data: list[dict[str, Any]]) -> list[Outcome]:
    if len(data) != len(items):
        raise ServerError(f"the service answered {len(data)} of {len(items)} documents")
    return [
        Outcome(item, one["change"], one.get("error", ""))
        for item, one in zip(items, data, strict=True)
    ]
