"""How many shards there should be: as configured, unless somebody asked for another number since.

What was asked for is kept in a file until the configuration is deployed anew. A controller that
restarts must keep it, and one that is deployed must not; but Serve configures both alike, and one
that is deployed again as it is hears nothing at all. So the file names what it overrides, and
Serve is asked when it deployed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import msgspec
from pydantic import Field, ValidationError
from ray import serve

from rasd.config import Section
from rasd.datastore import MAX_REPLICAS, MAX_SHARDS, Scale
from rasd.errors import ConfigError, InvalidRequest, StorageError, Unavailable
from rasd.retrieval.files import storing, write_atomically

_log = logging.getLogger(__name__)


LOOK_S: Final = 1.0
"""How often Serve is asked whether it deployed, and how long it may take to configure then."""

_ANSWER_S: Final = 10.0


class ScaleSetting(Section):
    """The deployment's ``user_config``: ``shards`` slots, each held by ``replicas`` processes."""

    shards: Annotated[int, Field(ge=1, le=MAX_SHARDS)] = 1
    replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS)] = 1


class Deployed(msgspec.Struct, frozen=True):
    """A deployment, and the scale it configures.

    ``built`` differs for every build of the application, ``at`` (seconds since 1970) for every
    deployment of the same build.
    """

    built: str
    at: float
    shards: int
    replicas: int


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    shards: Annotated[int, msgspec.Meta(ge=1, le=MAX_SHARDS)]
    replicas: Annotated[int, msgspec.Meta(ge=1, le=MAX_REPLICAS)]
    deployed: Deployed


class OverrideFile:
    """The override of one application below a storage root."""

    def __init__(self, root: Path, application: str) -> None:
        # A dot in front: no corpus is called so.
        self._path = root / f".scale-{quote(application, safe='')}.json"

    def read(self, deployed: Deployed) -> Scale | None:
        """The scale that overrides this deployment; None if there is none.

        Raises:
            StorageError: the system does not let it be read.
        """
        try:
            with storing(self._path):
                raw = self._path.read_bytes() if self._path.exists() else b""
            kept = msgspec.json.decode(raw, type=_Kept) if raw else None
        except msgspec.MsgspecError as error:
            _log.error("%s counts as no override: %s", self._path, error)
            return None
        if kept is None or kept.deployed != deployed:
            return None
        return Scale(kept.shards, kept.replicas)

    def write(self, scale: Scale, deployed: Deployed) -> None:
        """Keeps a scale.

        Raises:
            StorageError: the root refuses it.
        """
        kept = _Kept(scale.shards, scale.replicas, deployed)
        with storing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, [msgspec.json.encode(kept)])


class Scaling:
    """The scale in effect. Belongs to one event loop.

    Args:
        file: where an override is kept.
        built: a name of this build of the application.
        deployed_at: says when that was deployed last; blocks; raises `Unavailable`.
        on_change: called with the scale when it changes.

    Attributes:
        configured: by the deployment; 1 and 1 before `configure`.
        override: what is in effect instead; None if nothing is.
    """

    def __init__(
        self,
        file: OverrideFile,
        built: str,
        deployed_at: Callable[[], float],
        on_change: Callable[[Scale], None],
    ) -> None:
        self.configured = Scale(1, 1)
        self.override: Scale | None = None
        self._file = file
        self._built = built
        self._deployed_at = deployed_at
        self._on_change = on_change
        self._shown: Scale | None = None
        self._known = False  # whether it was looked if there is an override

    @property
    def current(self) -> Scale:
        """What is in effect."""
        return self.override or self.configured

    async def configure(self, user_config: dict[str, Any]) -> None:
        """Sets what is configured; at a deployment, and at a start.

        Raises:
            ConfigError: naming each wrong key.
        """
        try:
            setting = ScaleSetting.model_validate(user_config)
        except ValidationError as error:
            raise ConfigError(f"user_config of Datastore: {error}") from error
        self.configured = Scale(setting.shards, setting.replicas)
        await self._look()

    async def set(self, scale: Scale) -> None:
        """Overrides what is configured, durably.

        Raises:
            InvalidRequest: a number is out of range.
            Unavailable: Serve does not tell which deployment this is.
            StorageError: the root refuses it.
        """
        for name, most in (("shards", MAX_SHARDS), ("replicas", MAX_REPLICAS)):
            if not 1 <= (got := getattr(scale, name)) <= most:
                raise InvalidRequest(f"{name} must be 1 to {most}; got {got}", param=name)
        deployed = await self._deployed()
        await asyncio.to_thread(self._file.write, scale, deployed)
        self.override, self._known = scale, True
        _log.info("%s, until the next deployment", scale)
        self._show()

    async def watch(self) -> None:
        """Follows deployments that change no configuration. Runs for as long as its owner."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self.override is None and self._known:
                continue
            with suppress(Unavailable, StorageError):
                if await self._kept() is None:
                    await asyncio.sleep(LOOK_S)  # Serve may be about to configure another scale
            await self._look()

    async def _look(self) -> None:
        """Takes the override from its file. While Serve is silent all stays as it is."""
        before = self.override
        try:
            kept = await self._kept()
        except (Unavailable, StorageError) as error:
            self._known = False
            _log.warning("whether the scale is overridden is not known: %s", error)
        else:
            if before == self.override:  # else another was asked for meanwhile
                self.override, self._known = kept, True
        self._show()

    async def _kept(self) -> Scale | None:
        deployed = await self._deployed()
        return await asyncio.to_thread(self._file.read, deployed)

    async def _deployed(self) -> Deployed:
        try:
            async with asyncio.timeout(_ANSWER_S):
                at = await asyncio.to_thread(self._deployed_at)
        except TimeoutError as error:
            raise Unavailable(f"Serve did not answer within {_ANSWER_S:g} s") from error
        return Deployed(self._built, at, self.configured.shards, self.configured.replicas)

    def _show(self) -> None:
        if self._shown != self.current:
            self._shown = self.current
            _log.info("wanted: %s%s", self.current, " (override)" if self.override else "")
            self._on_change(self.current)


def application_name() -> str:
    """The application that this replica belongs to."""
    return str(serve.get_replica_context().app_name)


def deployed_at(application: str) -> float:
    """When the application was deployed last. Blocks.

    Raises:
        Unavailable: Serve does not know.
    """
    try:
        return float(serve.status().applications[application].last_deployed_time_s)
    except Exception as error:
        raise Unavailable(f"Serve does not tell when it was deployed: {error!r}") from error
