"""A datastore in memory, with the rules of the contract and hooks to make it fail."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rasd.datastore import (
    CorpusInfo,
    DatastoreStatus,
    DocumentInfo,
    Failure,
    NewDocument,
    Page,
    Scale,
    ShardInfo,
    StoredDocument,
    WriterInfo,
    Written,
)
from rasd.errors import Conflict, NotFound

VOCABULARY = 1000
LONGEST = 4 * 1024 * 1024


@dataclass
class FakeDatastore:
    """Tokens of a text are its bytes. What ``fault`` raises for a call's name, the call raises.

    ``calls`` are names of calls with their arguments, in the order they came.
    """

    corpora_: dict[str, dict[str, StoredDocument]] = field(default_factory=dict)
    partitions: dict[str, int] = field(default_factory=dict)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    fault: Callable[[str, Any], Any] | None = None
    scaled: Scale | None = None
    failure: Failure | None = None

    async def corpora(self) -> list[CorpusInfo]:
        await self._called("corpora", None)
        return [self._info(name) for name in sorted(self.corpora_)]

    async def corpus(self, name: str) -> CorpusInfo:
        await self._called("corpus", name)
        self._documents(name)
        return self._info(name)

    async def create(self, name: str, partitions: int | None = None) -> CorpusInfo:
        await self._called("create", (name, partitions))
        there = self.partitions.get(name)
        if there is not None and partitions not in (None, there):
            raise Conflict(f"the corpus {name!r} has {there} partitions; got {partitions}")
        if there is None:
            self.corpora_[name], self.partitions[name] = {}, partitions or 4
        return self._info(name)

    async def drop(self, name: str) -> None:
        await self._called("drop", name)
        self._documents(name)
        del self.corpora_[name], self.partitions[name]

    async def add(self, name: str, documents: Sequence[NewDocument]) -> list[Written]:
        await self._called("add", (name, list(documents)))
        there = self._documents(name)
        return [_add(there, document) for document in documents]

    async def delete(self, name: str, ids: Sequence[str]) -> list[Written]:
        await self._called("delete", (name, list(ids)))
        there = self._documents(name)
        return [Written(i, "deleted" if there.pop(i, None) else "missing") for i in ids]

    async def get(self, name: str, id: str) -> StoredDocument:
        await self._called("get", (name, id))
        if id not in self._documents(name):
            raise NotFound(f"there is no document {id!r} in {name!r}")
        return self.corpora_[name][id]

    async def page(self, name: str, after: str | None, limit: int) -> Page:
        await self._called("page", (name, after, limit))
        there = self._documents(name)
        left = sorted((_mark(i), i) for i in there if after is None or _mark(i) > _mark(after))
        shown = left[:limit]
        documents = [DocumentInfo(i, len(there[i].tokens)) for _, i in shown]
        return Page(documents, shown[-1][1] if len(left) > limit else None)

    async def resolve(self, name: str, digests: Sequence[bytes]) -> list[str | None]:
        raise NotImplementedError

    async def names(self) -> list[str]:
        await self._called("names", None)
        return sorted(self.corpora_)

    async def status(self) -> DatastoreStatus:
        await self._called("status", None)
        configured = Scale(1, 1)
        scale = self.scaled or configured
        return DatastoreStatus(
            scale=scale,
            configured=configured,
            override=self.scaled is not None,
            moving=False,
            version=len(self.calls),
            corpora=[self._info(name) for name in sorted(self.corpora_)],
            shards=[
                _shard(slot, replica)
                for slot in range(scale.shards)
                for replica in range(scale.replicas)
            ],
            writer=WriterInfo(7, 0.5, 2, 1, 3, 4, self.failure),
        )

    async def scale(self, scale: Scale) -> DatastoreStatus:
        await self._called("scale", scale)
        self.scaled = scale
        return replace(await self.status(), moving=True)

    async def _called(self, name: str, arguments: Any) -> None:
        self.calls.append((name, arguments))
        await asyncio.sleep(0)
        if self.fault is not None:
            outcome = self.fault(name, arguments)
            if asyncio.iscoroutine(outcome):
                await outcome

    def _documents(self, name: str) -> dict[str, StoredDocument]:
        if name not in self.corpora_:
            raise NotFound(f"there is no corpus {name!r}", param="name")
        return self.corpora_[name]

    def _info(self, name: str) -> CorpusInfo:
        documents = self.corpora_[name].values()
        tokens = sum(len(document.tokens) for document in documents)
        return CorpusInfo(
            name=name,
            partitions=self.partitions[name],
            vocabulary=VOCABULARY,
            tokenizer_hash="0" * 64,
            created=1.0,
            documents=len(documents),
            tokens=tokens,
            segments=1 if documents else 0,
            bytes=9 * tokens,
            memory_tokens=tokens // 2,
            damaged=[],
        )


def _add(there: dict[str, StoredDocument], new: NewDocument) -> Written:
    if (new.text is None) == (new.tokens is None):
        return Written(new.id, "rejected", "a document has either text or tokens")
    tokens = list(new.text.encode()) if new.text is not None else list(new.tokens or [])
    if not tokens:
        return Written(new.id, "rejected", "a document must have at least 1 token; got 0")
    if len(tokens) > LONGEST:
        return Written(new.id, "rejected", f"at most {LONGEST} bytes; got {len(tokens)}")
    if not all(0 <= token < VOCABULARY for token in tokens):
        return Written(new.id, "rejected", f"token ids must be in [0, {VOCABULARY})")
    made = StoredDocument(new.id, tokens, new.text, new.metadata)
    before = there.get(new.id)
    there[new.id] = made
    if before is None:
        return Written(new.id, "created")
    return Written(new.id, "unchanged" if before == made else "replaced")


def _mark(id_: str) -> str:
    return hashlib.sha256(id_.encode()).hexdigest()[:8]


def _shard(slot: int, replica: int) -> ShardInfo:
    return ShardInfo(
        slot=slot,
        replica=replica,
        address=f"127.0.0.1:{5000 + slot}",
        node="node-a",
        partitions=4,
        tokens=1000,
        resident_bytes=120_000_000,
        queries=4200,
        queries_per_s=12.5,
        p50_ms=0.042,
        p99_ms=0.31,
        lag_s=0.0,
    )
