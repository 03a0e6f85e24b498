"""A drafter in a process of its own, and the engine's side of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from actors.cluster import keep_loaded, log_to_stderr, node_address
from actors.features import FeatureReceiver
from actors.rpc import Call, Client, Server
from actors.wire import Done, Reset
from rasd.config import DrafterConfig, TargetConfig
from rasd.draft import LoadedDrafter, drafter_class
from rasd.stages import DraftReply, DraftRequest, Features


@dataclass(frozen=True, slots=True)
class DrafterRef:
    """Where a drafter listens: for requests, and for features."""

    address: str
    features: str


class DraftService:
    """Answers for a drafter. Waits for features on their way, at most ``patience_s``.

    Requests and features come by two ways, so that a request may overtake its features.
    """

    def __init__(
        self, drafter: LoadedDrafter, host: str, secret: bytes, *, patience_s: float
    ) -> None:
        self._drafter = drafter
        self._patience_s = patience_s
        self._sequences: set[int] = set()
        self._features = FeatureReceiver(host, secret)
        self.server = Server(host, secret, {DraftRequest: self._propose, Reset: self._reset})
        self.server.also_read(self._features.socket, lambda: self._features.drain(self))

    @property
    def ref(self) -> DrafterRef:
        """Where it listens."""
        return DrafterRef(self.server.address, self._features.address)

    def put(self, features: Features) -> None:
        """Hands features on; it is their sink."""
        self._sequences.add(features.sequence)
        self._drafter.put(features)

    def _propose(self, request: DraftRequest) -> DraftReply:
        self._sequences.difference_update(request.release)
        self._sequences.update(query.sequence for query in request.queries)
        self._features.drain(self)
        deadline = time.monotonic() + self._patience_s
        while not all(map(self._drafter.ready, request.queries)):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._features.drain(self, left)
        return self._drafter.propose(request).wait(0)

    def _reset(self, _: Reset) -> Done:
        self._drafter.propose(DraftRequest(0, sorted(self._sequences), [])).wait(0)
        self._sequences.clear()
        return Done()


class DraftActor:
    """Actor: holds one drafter. Its owner re-creates it when it is gone."""

    def __init__(
        self, config: DrafterConfig, target: TargetConfig, secret: bytes, patience_s: float
    ) -> None:
        log_to_stderr()
        self._config = config
        self._target = target
        self._secret = secret
        self._patience_s = patience_s
        self._service: DraftService | None = None

    def load(self) -> DrafterRef:
        """Loads the drafter. Returns where it listens.

        Raises:
            ModelError, ConfigError: see `rasd.draft.LoadedDrafter.load`.
        """
        config, target = self._config, self._target
        drafter = drafter_class(config.kind).load(config, target.model, revision=target.revision)
        self._service = DraftService(
            drafter, node_address(), self._secret, patience_s=self._patience_s
        )
        keep_loaded()
        return self._service.ref

    def ping(self) -> None:
        """Answers."""

    def run(self) -> None:
        """Serves; ends with the process. Whoever waits for it learns of the death at once."""
        import torch

        if self._service is None:
            raise RuntimeError("load comes first")
        torch.set_num_threads(self._config.threads)
        self._service.server.serve()


class RemoteDrafter:
    """A `Drafter` in another process. Belongs to one thread.

    Taking over a drafter makes it forget the sequences of whoever had it.
    """

    def __init__(self, ref: DrafterRef, secret: bytes) -> None:
        self._client = Client(ref.address, secret)
        self._reset = self._client.call(Reset(), Done)

    def propose(self, request: DraftRequest) -> Call[DraftReply]:
        """See `rasd.stages.Drafter`."""
        return self._client.call(request, DraftReply)

    def close(self) -> None:
        """Leaves the drafter to its owner."""
        self._client.close()
