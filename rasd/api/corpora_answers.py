"""The answers of `/v1/corpora` and `/v1/datastore`. The OpenAPI page shows these very classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rasd.api.answers import fields_of
from rasd.api.auth import Caller
from rasd.api.corpora_errors import failure_for_client
from rasd.api.corpora_protocol import Paging
from rasd.datastore import (
    Change,
    CorpusInfo,
    DatastoreStatus,
    Page,
    StoredDocument,
    Written,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusAnswer(CorpusInfo):
    """A corpus: how it was made, and what it holds now. Its id is its name."""

    id: str
    object: Literal["corpus"] = "corpus"

    @classmethod
    def of(cls, corpus: CorpusInfo) -> CorpusAnswer:
        """That of a corpus."""
        return cls(**fields_of(corpus), id=corpus.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentEntry:
    """One line of a listing."""

    id: str
    object: Literal["document"] = "document"
    token_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentAnswer(DocumentEntry):
    """A document with all its content; a listing leaves out the tokens of a text."""

    text: str | None
    tokens: list[int] | None
    metadata: dict[str, Any]

    @classmethod
    def of(cls, document: StoredDocument) -> DocumentAnswer:
        """That of a document, tokens included."""
        return cls(**fields_of(document), token_count=len(document.tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listing:
    """Part of a listing. ``after=last_id`` asks for the next one."""

    object: Literal["list"] = "list"
    first_id: str | None
    last_id: str | None
    has_more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CorporaAnswer(_Listing):
    """Corpora by name."""

    data: list[CorpusAnswer]

    @classmethod
    def of(cls, corpora: Sequence[CorpusInfo], paging: Paging) -> CorporaAnswer:
        """The page that is asked for, of all corpora."""
        ordered = sorted(corpora, key=lambda corpus: corpus.name)
        left = [one for one in ordered if paging.after is None or one.name > paging.after]
        shown = list(map(CorpusAnswer.of, left[: paging.limit]))
        return cls(
            data=shown,
            first_id=shown[0].id if shown else None,
            last_id=shown[-1].id if shown else None,
            has_more=len(left) > len(shown),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentsAnswer(_Listing):
    """Documents in the datastore's own order; those in the files of ``damaged`` are on no page."""

    data: Sequence[DocumentEntry | DocumentAnswer]
    damaged: list[str]

    @classmethod
    def listed(cls, page: Page) -> DocumentsAnswer:
        """Ids and sizes."""
        return cls._of(
            page, [DocumentEntry(id=one.id, token_count=one.tokens) for one in page.documents]
        )

    @classmethod
    def whole(cls, page: Page, documents: Sequence[StoredDocument]) -> DocumentsAnswer:
        """With what they were made of; ``documents`` are those of the page still there."""
        shown = [DocumentAnswer.of(one) for one in documents]
        return cls._of(
            page, [one if one.text is None else replace(one, tokens=None) for one in shown]
        )

    @classmethod
    def _of(cls, page: Page, shown: Sequence[DocumentEntry]) -> DocumentsAnswer:
        return cls(
            data=shown,
            first_id=shown[0].id if shown else None,
            last_id=page.after or (shown[-1].id if shown else None),
            has_more=page.after is not None,
            damaged=page.damaged,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a document."""

    id: str
    change: Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection(Outcome):
    """And why it was not taken."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenAnswer:
    """What became of each document, in order."""

    object: Literal["list"] = "list"
    data: list[Rejection | Outcome]
    rejected: int

    @classmethod
    def of(cls, written: Sequence[Written]) -> WrittenAnswer:
        """That of a call, as the catalog says what became of it."""
        data = [
            Rejection(id=one.id, change=one.change, error=one.error)
            if one.error
            else Outcome(id=one.id, change=one.change)
            for one in written
        ]
        return cls(data=data, rejected=sum(one.change == "rejected" for one in written))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedAnswer:
    """That something is gone, as OpenAI says it."""

    id: str
    object: Literal["corpus.deleted", "document.deleted"]
    deleted: Literal[True] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusAnswer(DatastoreStatus):
    """The whole datastore, as far as the caller may know it."""

    object: Literal["datastore"] = "datastore"
    corpora: list[CorpusAnswer]  # type: ignore[assignment]

    @classmethod
    def of(cls, status: DatastoreStatus) -> StatusAnswer:
        """That of a status, all of it: see `visible`."""
        corpora = list(map(CorpusAnswer.of, status.corpora))
        writer = status.writer
        if writer is not None and writer.failure is not None:
            writer = replace(writer, failure=failure_for_client(writer.failure))
        return cls(**fields_of(status) | {"corpora": corpora, "writer": writer})


def visible(status: DatastoreStatus, caller: Caller) -> DatastoreStatus:
    """What of it the caller may know.

    That is the corpora it may read. Shards tell how much there is in all, the writer what is done
    with it; the version and whether partitions move tell when others are made or dropped. Only who
    may read everything sees those.
    """
    corpora = [corpus for corpus in status.corpora if caller.may_read(corpus.name)]
    if caller.corpora is None:
        return replace(status, corpora=corpora)
    return replace(status, corpora=corpora, shards=[], version=0, moving=False, writer=None)
