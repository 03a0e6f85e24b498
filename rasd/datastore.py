"""What can be asked of a datastore: its corpora, their documents, its shape. A contract.

Implemented in one process by `rasd.retrieval.store`, and over a running service by its HTTP
routes and by ``actors``. Messages are plain numbers, strings and lists, so that they cross
processes as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

MAX_SHARDS: Final = 256
MAX_REPLICAS: Final = 16

Work = Literal["commit", "compaction"]
Change = Literal["created", "replaced", "unchanged", "deleted", "missing", "rejected"]


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A document to add: text or token ids, never both. ``metadata`` is a JSON object."""

    id: str
    text: str | None = None
    tokens: list[int] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it is kept. ``text`` is None where it was given as tokens."""

    id: str
    tokens: list[int]
    text: str | None
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one document. ``error`` is the reason where it was rejected."""

    id: str
    change: Change
    error: str = ""


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    """One line of a listing."""

    id: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some documents. ``after`` is the last one's id if there are more behind it, else None.

    ``damaged`` names files of the corpus whose documents are on no page: while there are any, a
    listing may lack some.
    """

    documents: list[DocumentInfo]
    after: str | None
    damaged: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CorpusInfo:
    """A corpus: how it was made, and what it holds now.

    ``tokens`` and ``documents`` count what is live; ``segments`` are of all partitions together;
    ``memory_tokens`` are those not yet in a segment, deleted ones too, as they take memory until
    they are indexed; ``damaged`` names files that do not serve, or cannot be written to.
    """

    name: str
    partitions: int
    vocabulary: int
    tokenizer_hash: str
    created: float
    documents: int
    tokens: int
    segments: int
    bytes: int
    memory_tokens: int
    damaged: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One shard process. ``slot`` tells which partitions; replicas of a slot hold the same.

    ``lag_s`` is the age of the oldest write that it does not search yet, 0 if there is none.
    Latencies are of searches of whole batches, inside the shard.
    """

    slot: int
    replica: int
    address: str
    node: str
    partitions: int
    tokens: int
    resident_bytes: int
    queries: int
    queries_per_s: float
    p50_ms: float
    p99_ms: float
    lag_s: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that went wrong ``age_s`` ago, of which corpus, and why."""

    work: Work
    corpus: str
    error: str
    age_s: float


@dataclass(frozen=True, slots=True)
class WriterInfo:
    """The process that writes: what it does, and how often what happened since it started.

    ``compactions`` run now, and ``waiting`` ones wait for their turn. ``failure`` is the last.
    """

    commits: int
    commit_seconds: float
    failed_commits: int
    compactions: int
    waiting: int
    failed_compactions: int
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """``shards`` slots, each with ``replicas`` processes; 1 to `MAX_SHARDS` and `MAX_REPLICAS`."""

    shards: int
    replicas: int


@dataclass(frozen=True, slots=True)
class DatastoreStatus:
    """The whole datastore. ``override`` is set while a scale asked for over HTTP is in effect.

    ``writer`` is None while there is none.
    """

    scale: Scale
    configured: Scale
    override: bool
    moving: bool
    version: int
    corpora: list[CorpusInfo]
    shards: list[ShardInfo]
    writer: WriterInfo | None = None


class Catalog(Protocol):
    """Corpora and their documents. Every method may raise `rasd.errors.Unavailable`."""

    async def corpora(self) -> list[CorpusInfo]:
        """All corpora, by name."""
        ...

    async def corpus(self, name: str) -> CorpusInfo:
        """One corpus.

        Raises:
            NotFound: there is none.
        """
        ...

    async def create(self, name: str, partitions: int | None = None) -> CorpusInfo:
        """Makes an empty corpus. Making it again the same way changes nothing.

        Raises:
            Conflict: it exists with another number of partitions, or of another tokenizer.
            InvalidRequest: the name or the number is wrong.
        """
        ...

    async def drop(self, name: str) -> None:
        """Removes a corpus with everything in it.

        Raises:
            NotFound: there is none.
        """
        ...

    async def add(self, name: str, documents: Sequence[NewDocument]) -> list[Written]:
        """Adds or replaces documents; answers in order, once all accepted ones are durable.

        Each document counts on its own: one that is rejected says why and harms no other.
        Adding again what is there changes nothing, so a call may be repeated.

        Raises:
            NotFound, StoreLocked, StorageError, Overloaded: nothing, or not all, was written;
                repeat the call.
        """
        ...

    async def delete(self, name: str, ids: Sequence[str]) -> list[Written]:
        """Deletes documents; "missing" is no error. Raises as `add`."""
        ...

    async def get(self, name: str, id: str) -> StoredDocument:
        """One document.

        Raises:
            NotFound: no such corpus or document.
        """
        ...

    async def page(self, name: str, after: str | None, limit: int) -> Page:
        """Documents in an order of their own that writes and merges do not change.

        Args:
            after: an id, be it there or not, behind which the page starts; None for the first.

        Raises:
            NotFound, InvalidRequest: no such corpus; ``after`` is no text.
        """
        ...

    async def resolve(self, name: str, digests: Sequence[bytes]) -> list[str | None]:
        """Ids of documents by digest (`rasd.trie.Origins`); None for those that are gone."""
        ...


class Datastore(Catalog, Protocol):
    """A catalog that is served by shards."""

    async def names(self) -> list[str]:
        """The corpora that shards search, or will within a moment."""
        ...

    async def status(self) -> DatastoreStatus:
        """Everything there is to know."""
        ...

    async def scale(self, scale: Scale) -> DatastoreStatus:
        """Sets an override, in effect until the configuration is deployed anew."""
        ...
