"""The router's side of the datastore: its contract over a handle, its errors as they were."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from actors.cluster import cause_of
from rasd.datastore import (
    CorpusInfo,
    DatastoreStatus,
    NewDocument,
    Page,
    Scale,
    StoredDocument,
    Written,
)
from rasd.errors import RasdError, Unavailable

_DEADLINE_S: Final = 30.0
"""A controller that restarts is waited for; it is back sooner, or not soon."""
_WRITE_S: Final = 110.0


class RemoteDatastore:
    """A `rasd.datastore.Datastore` behind a Serve handle.

    Beside its own errors every method raises `Unavailable` while the controller or the writer
    is away. Then a write may have happened or not: it may be repeated.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def corpora(self) -> list[CorpusInfo]:
        """See `rasd.datastore.Catalog.corpora`."""
        return list(await self._ask("corpora"))

    async def corpus(self, name: str) -> CorpusInfo:
        """See `rasd.datastore.Catalog.corpus`."""
        found: CorpusInfo = await self._ask("corpus", name)
        return found

    async def create(self, name: str, partitions: int | None = None) -> CorpusInfo:
        """See `rasd.datastore.Catalog.create`."""
        made: CorpusInfo = await self._ask("create", name, partitions)
        return made

    async def drop(self, name: str) -> None:
        """See `rasd.datastore.Catalog.drop`."""
        await self._ask("drop", name, deadline_s=_WRITE_S)

    async def add(self, name: str, documents: Sequence[NewDocument]) -> list[Written]:
        """See `rasd.datastore.Catalog.add`."""
        return list(await self._ask("add", name, list(documents), deadline_s=_WRITE_S))

    async def delete(self, name: str, ids: Sequence[str]) -> list[Written]:
        """See `rasd.datastore.Catalog.delete`."""
        return list(await self._ask("delete", name, list(ids), deadline_s=_WRITE_S))

    async def get(self, name: str, id: str) -> StoredDocument:
        """See `rasd.datastore.Catalog.get`."""
        document: StoredDocument = await self._ask("get", name, id)
        return document

    async def page(self, name: str, after: str | None, limit: int) -> Page:
        """See `rasd.datastore.Catalog.page`."""
        page: Page = await self._ask("page", name, after, limit)
        return page

    async def resolve(self, name: str, digests: Sequence[bytes]) -> list[str | None]:
        """See `rasd.datastore.Catalog.resolve`."""
        return list(await self._ask("resolve", name, list(digests)))

    async def names(self) -> list[str]:
        """See `rasd.datastore.Datastore.names`."""
        return list(await self._ask("names"))

    async def status(self) -> DatastoreStatus:
        """See `rasd.datastore.Datastore.status`."""
        status: DatastoreStatus = await self._ask("status")
        return status

    async def scale(self, scale: Scale) -> DatastoreStatus:
        """See `rasd.datastore.Datastore.scale`."""
        status: DatastoreStatus = await self._ask("scale", scale)
        return status

    async def _ask(self, method: str, *args: Any, deadline_s: float = _DEADLINE_S) -> Any:
        try:
            async with asyncio.timeout(deadline_s):
                answer = await self._handle.call.remote(method, *args)
        except (RayError, RayServeException) as error:
            message = f"the datastore was lost: {cause_of(error)!r}; repeat the call"
            raise Unavailable(message) from error
        except TimeoutError as error:
            message = f"the datastore did not answer within {deadline_s:g} s; repeat the call"
            raise Unavailable(message) from error
        if isinstance(answer, RasdError):
            raise answer
        return answer
