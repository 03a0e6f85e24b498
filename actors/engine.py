"""The engine in a process of its own: the loop's mailbox is a socket, its stages are remote."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable
from typing import Final

import zmq

from actors.cluster import log_to_stderr, node_address
from actors.draft import DrafterRef, RemoteDrafter
from actors.retrieve import RemoteRetriever
from actors.rpc import bind, open_socket
from actors.table import ShardTable
from actors.target import RemoteTarget, TargetRef
from actors.wire import Step, TargetLost, admits, decode, encode
from rasd.config import AppConfig
from rasd.engine.api import EngineSettings, Gauges, Output
from rasd.engine.engine import Engine
from rasd.engine.loop import Cancel, Command, Submit, run
from rasd.errors import RasdError, StageError, WireError
from rasd.retrieval.prompt import PromptRetriever

_log = logging.getLogger(__name__)

# Nobody wakes the loop for an action from another thread: it looks this often while idle.
_GLANCE_S: Final = 0.05
_TAKEOVER_S: Final = 30.0

Action = Callable[[], None]


class SocketMailbox:
    """A `rasd.engine.loop.Mailbox` on a socket, for one router. Used by one thread but for `do`.

    Nothing is dropped on the way out: what a slow router has not read is bounded by the lengths
    of its requests, and waits.

    Attributes:
        refused: messages that were malformed, unexpected, or lacked the secret.
    """

    def __init__(self, host: str, secret: bytes) -> None:
        self.refused = 0
        self._secret = secret
        self._router: bytes | None = None
        self._actions: queue.SimpleQueue[Action] = queue.SimpleQueue()
        self._socket = open_socket(zmq.ROUTER)
        self._socket.hwm = 0
        self.address = bind(self._socket, host)

    def do(self, action: Action) -> None:
        """Runs ``action`` in the loop's thread, between steps. Any thread may call."""
        self._actions.put(action)

    def act(self, timeout_s: float = 0.0) -> None:
        """Runs the actions that are here; waits for the first at most ``timeout_s``."""
        try:
            self._actions.get(timeout_s > 0, timeout_s)()
            while True:
                self._actions.get_nowait()()
        except queue.Empty:
            return

    def receive(self, timeout_s: float) -> list[Command]:
        """See `Mailbox`; may return before anything has come."""
        self.act()
        commands: list[Command] = []
        patience_ms = int(1000 * min(timeout_s, _GLANCE_S))
        while self._socket.poll(0 if commands else patience_ms):
            command = self._read(self._socket.recv_multipart())
            if command is not None:
                commands.append(command)
        return commands

    def send(self, outputs: list[Output], gauges: Gauges) -> None:
        """See `Mailbox`."""
        self.tell(Step(outputs, gauges))

    def tell(self, message: Step | TargetLost) -> None:
        """Sends to the router, once it has shown itself."""
        if self._router is not None:
            self._socket.send_multipart([self._router, self._secret, encode(message)])

    def close(self) -> None:
        """What was not sent is lost."""
        self._socket.close()

    def _read(self, frames: list[bytes]) -> Command | None:
        try:
            if len(frames) != 3 or not admits(self._secret, frames[1]):
                raise WireError("a message lacks the secret")
            command = decode(frames[2])
            if not isinstance(command, Submit | Cancel):
                raise WireError(f"{type(command).__name__} is not expected here")
        except WireError as error:
            self.refused += 1
            _log.warning("a message is refused: %s", error)
            return None
        self._router = frames[0]
        return command


class EngineService:
    """An engine with remote stages. `run` owns it; the other methods may come from any thread.

    Raises:
        StageError: the target does not answer.
    """

    def __init__(
        self,
        config: AppConfig,
        target: TargetRef,
        drafter: DrafterRef | None,
        *,
        host: str,
        secret: bytes,
    ) -> None:
        self._secret = secret
        self._deadline_s = config.engine.verify_deadline_s
        self._target = RemoteTarget(target, secret, timeout_s=_TAKEOVER_S)
        self._drafter: RemoteDrafter | None = None
        self._corpora = RemoteRetriever(
            config.retrieval, config.speculation, secret, target.info.vocabulary
        )
        settings = EngineSettings(config.engine, config.speculation, config.retrieval)
        self._engine = Engine(
            self._target,
            settings,
            prompt=PromptRetriever(config.retrieval),
            corpus=self._corpora,
            eos=target.eos,
            features=config.drafter is not None,
        )
        self.mailbox = SocketMailbox(host, secret)
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
        """Serves until the process ends, over any number of targets."""
        while True:
            try:
                run(self._engine, self.mailbox)
                return
            except StageError as error:
                self._report(self._target.address, error)
                self._target.close()
                self._await_target()

    def _await_target(self) -> None:
        """Acts on what the owner says until there is a target again."""
        lost = self._target
        while self._target is lost:
            self.mailbox.act(timeout_s=1.0)

    def _report(self, address: str, error: StageError) -> None:
        _log.warning("the target at %s is lost: %s", address, error)
        self.mailbox.tell(TargetLost(address, str(error)))

    def _take_target(self, ref: TargetRef) -> None:
        try:
            target = RemoteTarget(ref, self._secret, timeout_s=_TAKEOVER_S)
        except StageError as error:  # its owner makes another one
            self._report(ref.addresses[0], error)
            return
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

    def timings(self) -> dict[str, tuple[float, int]]:
        """Seconds and occurrences per part of a step (`rasd.engine.timings`)."""
        timings = self._engine.timings
        return {part: (timings.seconds[part], timings.counts[part]) for part in timings.seconds}


class EngineActor:
    """Actor: the engine. Its owner re-creates it when it is gone."""

    def __init__(self, config: AppConfig, secret: bytes) -> None:
        log_to_stderr()
        self._config = config
        self._secret = secret
        self._service: EngineService | None = None

    def start(self, target: TargetRef, drafter: DrafterRef | None, table: ShardTable) -> str:
        """Takes over the stages. Returns where the mailbox is.

        Raises:
            StageError: the target does not answer.
        """
        service = EngineService(
            self._config, target, drafter, host=node_address(), secret=self._secret
        )
        service.set_table(table)
        self._service = service
        return service.mailbox.address

    def run(self) -> None:
        """Serves; ends with the process. Whoever waits for it learns of the death at once."""
        self._started.run()

    def ping(self) -> None:
        """Answers."""

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
