"""The engine's process: the loop, and its models where they are not remote."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from actors.cluster import keep_loaded, log_to_stderr, node_address
from actors.draft import DrafterRef, RemoteDrafter
from actors.mailbox import SocketMailbox
from actors.retrieve import RemoteRetriever
from actors.table import ShardTable
from actors.target import RemoteTarget, TargetRef
from actors.wire import TargetLost
from rasd.config import AppConfig
from rasd.engine.api import EngineSettings
from rasd.engine.engine import Engine
from rasd.engine.loop import run
from rasd.errors import RasdError, StageError, StageTimeout
from rasd.retrieval.prompt import PromptRetriever
from rasd.stages import Drafter, Target

if TYPE_CHECKING:
    from rasd.local import Models

_log = logging.getLogger(__name__)

_TAKEOVER_S: Final = 30.0


class EngineService:
    """An engine and its stages. `run` owns it; the other methods may come from any thread.

    Models that are here live and die with it; of remote ones there may be any number in its time.

    Raises:
        StageError: the target does not answer.
    """

    def __init__(
        self,
        config: AppConfig,
        target: TargetRef | Models,
        drafter: DrafterRef | None,
        *,
        host: str,
        secret: bytes,
    ) -> None:
        self._secret = secret
        self._deadline_s = config.engine.verify_deadline_s
        self._target: RemoteTarget | None = None
        self._drafter: RemoteDrafter | None = None
        stage: Target
        resident: Drafter | None = None
        if isinstance(target, TargetRef):
            stage = self._target = RemoteTarget(target, secret, timeout_s=_TAKEOVER_S)
        else:
            stage, resident = target.target, target.drafter
        self._corpora = RemoteRetriever(
            config.retrieval, config.speculation, secret, stage.info.vocabulary
        )
        settings = EngineSettings(config.engine, config.speculation, config.retrieval)
        self._engine = Engine(
            stage,
            settings,
            drafter=resident,
            prompt=PromptRetriever(config.retrieval),
            corpus=self._corpora,
            eos=target.eos,
            features=config.drafter is not None,
        )
        self.mailbox = SocketMailbox(host, secret, config.router.stream_interval_s)
        if drafter is not None:
            self.replace_drafter(drafter)

    def replace_target(self, ref: TargetRef) -> None:
        """Goes on with another target."""
        self.mailbox.do(lambda: self._take_target(ref))

    def replace_drafter(self, ref: DrafterRef | None) -> None:
        """Drafts with another drafter, or with none."""
        self.mailbox.do(lambda: self._take_drafter(ref))

    def set_table(self, table: ShardTable) -> None:
        """Asks the shards of this table from now on."""
        self.mailbox.do(lambda: self._corpora.set_table(table))

    def run(self) -> None:
        """Serves until the process ends, over any number of targets.

        Raises:
            StageError: the target here failed; what it holds is in doubt, so the process must end.
        """
        self._warm_up()
        while True:
            try:
                run(self._engine, self.mailbox)
                return
            except StageError as error:
                if self._target is None:
                    raise
                self._report(self._target.address, error)
                self._target.close()
                self._await_target()

    def _warm_up(self) -> None:
        """A target that fails is not reported yet: nobody may listen. The first step reports it."""
        self.mailbox.act()  # a drafter that is here is measured, too
        try:
            self._engine.warm_up()
        except StageError as error:
            if self._target is None:
                raise
            _log.warning("costs are not known: %s", error)

    def _await_target(self) -> None:
        """Acts on what the owner says until there is a target again."""
        lost = self._target
        while self._target is lost:
            self.mailbox.act(timeout_s=1.0)

    def _report(self, address: str, error: StageError) -> None:
        _log.warning("the target at %s is lost: %s", address, error)
        self.mailbox.tell_lost(TargetLost(address, str(error)))

    def _take_target(self, ref: TargetRef) -> None:
        try:
            target = RemoteTarget(ref, self._secret, timeout_s=_TAKEOVER_S)
        except StageError as error:  # its owner makes another one
            self._report(ref.addresses[0], error)
            return
        if self._target is not None:
            self._target.close()
        self._engine.replace_target(target)
        self._target = target

    def _take_drafter(self, ref: DrafterRef | None) -> None:
        if self._drafter is not None:
            self._drafter.close()
            self._drafter = None
        try:
            self._drafter = None if ref is None else RemoteDrafter(ref, self._secret)
        except RasdError as error:  # text goes on without it; its owner makes another one
            _log.warning("the drafter does not answer: %s", error)
        self._engine.replace_drafter(self._drafter)

    def check(self) -> None:
        """Raises `StageTimeout` if the loop is stuck, as with models that are here it may be."""
        stuck_s = time.monotonic() - self.mailbox.seen_s
        if stuck_s > self._deadline_s + _TAKEOVER_S:
            raise StageTimeout(f"a step has lasted for {stuck_s:.0f} s")

    def timings(self) -> dict[str, tuple[float, int]]:
        """Seconds and occurrences per part of a step (`rasd.engine.timings`)."""
        return self._engine.timings.totals()


class EngineActor:
    """Actor: the engine. Its owner re-creates it when it is gone."""

    def __init__(self, config: AppConfig, secret: bytes) -> None:
        log_to_stderr()
        self._config = config
        self._secret = secret
        self._models: Models | None = None
        self._service: EngineService | None = None

    def load(self) -> TargetRef:
        """Loads target and drafter into this process, to stay. Says what the target is.

        Raises:
            ModelError, ConfigError: see `rasd.local.load_models`.
        """
        from rasd.local import load_models

        self._models = load_models(self._config)
        keep_loaded()
        return TargetRef((), self._models.target.info, self._models.eos)

    def start(self, target: TargetRef, drafter: DrafterRef | None, table: ShardTable) -> str:
        """Takes over the stages, or those loaded here. Returns where the mailbox is.

        Raises:
            StageError: the target does not answer.
        """
        service = EngineService(
            self._config,
            self._models or target,
            drafter,
            host=node_address(),
            secret=self._secret,
        )
        service.set_table(table)
        self._service = service
        return service.mailbox.address

    def run(self) -> None:
        """Serves; ends with the process. Whoever waits for it learns of the death at once."""
        self._started.run()

    def ping(self) -> None:
        """Answers, unless the engine is stuck."""
        if self._service is not None:
            self._service.check()

    def replace_target(self, ref: TargetRef) -> None:
        """See `EngineService.replace_target`."""
        self._started.replace_target(ref)

    def replace_drafter(self, ref: DrafterRef | None) -> None:
        """See `EngineService.replace_drafter`."""
        self._started.replace_drafter(ref)

    def set_table(self, table: ShardTable) -> None:
        """See `EngineService.set_table`."""
        self._started.set_table(table)

    def timings(self) -> dict[str, tuple[float, int]]:
        """See `EngineService.timings`."""
        return self._started.timings()

    @property
    def _started(self) -> EngineService:
        if self._service is None:
            raise RuntimeError("start comes first")
        return self._service
