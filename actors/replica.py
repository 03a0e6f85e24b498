"""One replica's stages: target ranks, drafter and engine, owned by the router.

The router holds every request's tokens, so that any of them may die: a drafter is re-created
alone, a rank with all ranks, the engine alone, or with target and drafter where they live in its
process; text goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from actors.channel import EngineChannel
from actors.cluster import CPU_SHARE, start_actor
from actors.draft import DraftActor, DrafterRef
from actors.engine import EngineActor
from actors.keeper import Keeper, Part
from actors.table import ShardTable
from actors.target import TargetRank, TargetRef
from actors.wire import TargetLost
from rasd.config import AppConfig
from rasd.errors import ConfigError, StageError

_log = logging.getLogger(__name__)

LOAD_DEADLINE_S: Final = 1800.0
"""Big checkpoints from cold storage take their time; a load that hangs must still end."""

_TELL_DEADLINE_S: Final = 10.0
# A drafter on a GPU shares that of the first rank: features then stay on the node.
_RANK_GPU: Final = 0.75


def together(config: AppConfig) -> bool:
    """Whether target and drafter live in the engine's process.

    Raises:
        ConfigError: they should, but the target has several ranks.
    """
    placement, ranks = config.engine.placement, config.target.tensor_parallel
    if placement == "together" and ranks > 1:
        raise ConfigError(f"engine.placement together needs tensor_parallel 1; got {ranks}")
    if placement == "auto":
        return ranks == 1 and config.target.device == "cpu"
    return placement == "together"


def bundles(config: AppConfig) -> list[dict[str, float]]:
    """A replica's placement group: router with engine, then the ranks, drafter with the first."""
    gpu = {"GPU": 1.0} if config.target.device.startswith("cuda") else {}
    if together(config):
        return [{"CPU": 2 * CPU_SHARE, **gpu}]
    ranks = [{"CPU": 2 * CPU_SHARE, **gpu} for _ in range(config.target.tensor_parallel)]
    return [{"CPU": 2 * CPU_SHARE}, *ranks]


class Replica:
    """Owns the stages and tells them of each other. Belongs to the router's event loop."""

    def __init__(self, config: AppConfig, secret: bytes, channel: EngineChannel) -> None:
        self._config = config
        self._secret = secret
        self._channel = channel
        self._table = ShardTable(0)
        self._ranks: list[Any] = []
        self._engine: Any = None
        self._target_ref: TargetRef | None = None
        self._drafter_ref: DrafterRef | None = None
        self._engine_address = ""
        self._target_up = asyncio.Event()
        self._together = together(config)
        self.keepers = {
            "engine": _keeper("engine", self._create_engine, self._share_engine, self._lose_engine)
        }
        if not self._together:
            self._keep_stages()
        channel.on_engine_lost = self.keepers["engine"].condemn
        channel.on_target_lost = self._condemn_target

    def _keep_stages(self) -> None:
        """Target and drafter have processes of their own."""
        self.keepers["target"] = _keeper(
            "target", self._create_target, self._share_target, self._lose_target
        )
        if self._config.drafter is not None:
            self.keepers["drafter"] = _keeper(
                "drafter",
                self._create_drafter,
                self._share_drafter,
                self._lose_drafter,
                vital=False,
            )

    async def start(self) -> TargetRef:
        """Brings everything up. Says what the target is.

        Raises:
            Exception: what the first stage that failed said; nothing is left behind.
        """
        starts = [asyncio.create_task(keeper.start()) for keeper in self.keepers.values()]
        try:
            await asyncio.gather(*starts)
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
            self.close()
            raise
        if self._target_ref is None:
            raise RuntimeError("the target was lost while the replica started")
        return self._target_ref

    @property
    def failure(self) -> Exception | None:
        """Why this replica cannot recover; None while it can."""
        return next((k.failed for k in self.keepers.values() if k.failed is not None), None)

    async def set_table(self, table: ShardTable) -> None:
        """The datastore has changed."""
        self._table = table
        await self._tell_engine("set_table", table)

    async def engine_timings(self) -> dict[str, tuple[float, int]]:
        """Where the engine's time went so far; empty while there is no engine."""
        return {} if self._engine is None else dict(await self._engine.timings.remote())

    def close(self) -> None:
        """Kills everything."""
        self._channel.close()
        for keeper in self.keepers.values():
            keeper.close()

    # --- target -----------------------------------------------------------------------------

    async def _create_target(self, crew: list[Any]) -> None:
        config = self._config.target
        gpus = 0.0
        if config.device.startswith("cuda"):
            gpus = _RANK_GPU if self._drafter_gpu() else 1.0
        for rank in range(config.tensor_parallel):
            share = gpus if rank == 0 else float(gpus > 0)
            crew.append(
                start_actor(TargetRank, config, self._secret, rank, bundle=1 + rank, gpus=share)
            )
        self._ranks = crew
        meeting_point = await crew[0].meeting_point.remote()
        loaded = await asyncio.gather(*(rank.load.remote(meeting_point) for rank in crew))
        self._target_ref = TargetRef.of(loaded)

    async def _share_target(self) -> None:
        await self._point_features()
        await self._tell_engine("replace_target", self._target_ref)
        self._target_up.set()
        self._set_available()

    def _condemn_target(self, message: TargetLost) -> None:
        """The engine's verdict; it may be about a target that is replaced by now."""
        if self._target_ref is not None and message.address == self._target_ref.addresses[0]:
            self.keepers["target"].condemn(message.reason)

    def _lose_target(self) -> None:
        self._ranks, self._target_ref = [], None
        self._target_up.clear()
        self._set_available()

    # --- drafter ----------------------------------------------------------------------------

    def _drafter_gpu(self) -> float:
        drafter = self._config.drafter
        on_gpu = drafter is not None and drafter.device.startswith("cuda")
        return 1.0 - _RANK_GPU if on_gpu else 0.0

    async def _create_drafter(self, crew: list[Any]) -> None:
        patience_s = self._config.speculation.draft_deadline_s / 4
        settings = (self._config.drafter, self._config.target, self._secret, patience_s)
        drafter = start_actor(DraftActor, *settings, bundle=1, gpus=self._drafter_gpu())
        crew.append(drafter)
        self._drafter_ref = await drafter.load.remote()

    async def _share_drafter(self) -> None:
        await self._point_features()
        await self._tell_engine("replace_drafter", self._drafter_ref)

    def _lose_drafter(self) -> None:
        self._drafter_ref = None

    async def _point_features(self) -> None:
        if self._ranks and self._drafter_ref is not None:
            address = self._drafter_ref.features
            await _told("rank 0", self._ranks[0].point_features.remote(address))

    # --- engine -----------------------------------------------------------------------------

    async def _create_engine(self, crew: list[Any]) -> None:
        gpus = float(self._together and self._config.target.device.startswith("cuda"))
        engine = start_actor(EngineActor, self._config, self._secret, bundle=0, gpus=gpus)
        crew.append(engine)
        if self._together:
            self._target_ref = await engine.load.remote()
            self._target_up.set()
        else:
            await engine.ping.remote()  # its process starts while the target loads
            await self._target_up.wait()
        target, drafter, table = self._target_ref, self._drafter_ref, self._table
        try:
            address = await engine.start.remote(target, drafter, table)
        except StageError as error:  # it answers Ray but not the engine
            if self._target_ref is target:
                self.keepers["target"].condemn(repr(error))
            raise
        self._engine, self._engine_address = engine, address
        # What came while it started, nobody could tell it.
        if self._target_ref is not target and self._target_ref is not None:
            await self._tell_engine("replace_target", self._target_ref)
        if self._drafter_ref is not drafter:
            await self._tell_engine("replace_drafter", self._drafter_ref)
        if self._table is not table:
            await self._tell_engine("set_table", self._table)

    async def _share_engine(self) -> None:
        self._channel.connect(self._engine_address)
        self._set_available()

    def _lose_engine(self) -> None:
        self._engine, self._engine_address = None, ""
        self._channel.disconnect()
        if self._together:
            self._lose_target()
        self._set_available()

    async def _tell_engine(self, method: str, *args: Any) -> None:
        if self._engine is not None:
            await _told("the engine", getattr(self._engine, method).remote(*args))

    def _set_available(self) -> None:
        self._channel.available = self._target_up.is_set() and bool(self._engine_address)


def _keeper(
    name: str,
    create: Callable[[list[Any]], Awaitable[None]],
    share: Callable[[], Awaitable[None]],
    lose: Callable[[], None],
    *,
    vital: bool = True,
) -> Keeper:
    return Keeper(Part(name, create, share, lose, LOAD_DEADLINE_S, vital))


async def _told(name: str, call: Awaitable[Any]) -> None:
    """Waits for a call that may be in vain: who is gone is told when re-created."""
    try:
        async with asyncio.timeout(_TELL_DEADLINE_S):
            await call
    except Exception as error:
        _log.warning("%s did not hear: %r", name, error)
