"""The target in processes of its own: one rank per shard of the model, and the engine's side."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from actors.cluster import keep_loaded, log_to_stderr, node_address
from actors.features import FeatureSender
from actors.rpc import Call, Client, Server, take_in
from actors.wire import Done, Reset, encode
from rasd.config import TargetConfig
from rasd.errors import RasdError, StageError, StageTimeout
from rasd.stages import Target, TargetInfo, VerifyReply, VerifyRequest

# Collectives end with the engine's patience, not with this; ranks load at different speeds.
_COLLECTIVE_TIMEOUT: Final = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class TargetRef:
    """Where the ranks of a target listen, rank 0 first, and what it is.

    ``eos`` are the tokens that end its texts.
    """

    addresses: tuple[str, ...]
    info: TargetInfo
    eos: frozenset[int] = frozenset()

    @classmethod
    def of(cls, ranks: Sequence[TargetRef]) -> TargetRef:
        """The target made of ranks, each of which knows itself."""
        addresses = tuple(address for rank in ranks for address in rank.addresses)
        return replace(ranks[0], addresses=addresses)


class TargetService:
    """Answers for one rank. Only rank 0 answers steps; the others report errors.

    An error that is not ours leaves cache and ranks in doubt, and ends the service.
    """

    def __init__(self, target: Target, host: str, secret: bytes, *, rank: int = 0) -> None:
        self._target = target
        self._rank = rank
        self._sequences: set[int] = set()
        self.server = Server(
            host,
            secret,
            {VerifyRequest: self._verify, Reset: self._reset},
            fatal=lambda error: not isinstance(error, RasdError),
        )

    def _verify(self, request: VerifyRequest) -> VerifyReply | None:
        self._sequences.difference_update(request.release)
        self._sequences.update(admission.sequence for admission in request.admit)
        reply = self._target.verify(request).wait(0)
        return reply if self._rank == 0 else None

    def _reset(self, _: Reset) -> Done:
        if self._sequences:
            self._target.verify(VerifyRequest(0, sorted(self._sequences), [], [])).wait(0)
            self._sequences.clear()
        return Done()


class TargetRank:
    """Actor: holds one rank of a target. Its owner re-creates all ranks when one is gone."""

    def __init__(self, config: TargetConfig, secret: bytes, rank: int) -> None:
        log_to_stderr()
        self._config = config
        self._secret = secret
        self._host = node_address()
        self._rank = rank
        self._features = FeatureSender(secret)
        self._service: TargetService | None = None

    def meeting_point(self) -> tuple[str, int]:
        """On rank 0: an address and a free port for the ranks to meet."""
        with socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET) as free:
            free.bind((self._host, 0))
            return self._host, int(free.getsockname()[1])

    def load(self, meeting_point: tuple[str, int]) -> TargetRef:
        """Loads the model; all ranks at the same time. Returns this rank.

        Raises:
            ModelError, ConfigError: see `rasd.target.LocalTarget.load`.
        """
        if self._config.tensor_parallel > 1:
            self._join(meeting_point)
        from rasd.local import eos_of
        from rasd.target import LocalTarget

        target = LocalTarget.load(self._config, features=self._features)
        self._service = TargetService(target, self._host, self._secret, rank=self._rank)
        keep_loaded()
        return TargetRef((self._service.server.address,), target.info, eos_of(target.model))

    def ping(self) -> None:
        """Answers."""

    def point_features(self, address: str | None) -> None:
        """Sends features to the drafter that receives there."""
        self._features.point_to(address)

    def run(self) -> None:
        """Serves; ends with the process. Whoever waits for it learns of the death at once."""
        if self._service is None:
            raise RuntimeError("load comes first")
        self._service.server.serve()

    def _join(self, meeting_point: tuple[str, int]) -> None:
        import torch

        host, port = meeting_point
        world = self._config.tensor_parallel
        # Ray shows each rank only its own device, which is therefore number 0.
        where = {"MASTER_ADDR": host, "MASTER_PORT": port, "LOCAL_RANK": 0}
        place = {"RANK": self._rank, "WORLD_SIZE": world}
        os.environ.update({name: str(value) for name, value in (where | place).items()})
        torch.distributed.init_process_group(
            "nccl" if self._config.device.startswith("cuda") else "gloo",
            rank=self._rank,
            world_size=world,
            timeout=_COLLECTIVE_TIMEOUT,
        )


class RemoteTarget:
    """A `Target` whose ranks are other processes; every rank gets every request.

    Belongs to one thread. Taking over a target makes it forget the sequences of whoever had it.

    Raises:
        StageUnavailable, StageTimeout: a rank does not answer within ``timeout_s``.
    """

    def __init__(self, ref: TargetRef, secret: bytes, *, timeout_s: float) -> None:
        self._info = ref.info
        self._clients = [Client(address, secret) for address in ref.addresses]
        try:
            self._reset(time.monotonic() + timeout_s)
        except StageError:
            self.close()
            raise

    def _reset(self, deadline: float) -> None:
        for call in [client.call(Reset(), Done) for client in self._clients]:
            call.wait(deadline - time.monotonic())

    @property
    def info(self) -> TargetInfo:
        return self._info

    @property
    def address(self) -> str:
        """Where rank 0 listens, which no other target ever does."""
        return self._clients[0].address

    def verify(self, request: VerifyRequest) -> Verifying:
        """See `rasd.stages.Target`."""
        body = encode(request)
        return Verifying([client.send(body, VerifyReply) for client in self._clients])

    def close(self) -> None:
        """Leaves the ranks to their owner."""
        for client in self._clients:
            client.close()


class Verifying:
    """The `Pending` answer of all ranks: rank 0's, or the first error of any."""

    def __init__(self, calls: Sequence[Call[VerifyReply]]) -> None:
        self._calls = calls

    def wait(self, timeout_s: float) -> VerifyReply:
        """See `rasd.stages.Pending`."""
        deadline = time.monotonic() + timeout_s
        clients = [call.client for call in self._calls]
        while True:
            left = deadline - time.monotonic()
            if not any(call.settled for call in self._calls):
                take_in(clients, left)
            for call in self._calls:
                if call.settled:
                    return call.wait(0)
            for client in clients:
                client.check()
            if left <= 0:
                raise StageTimeout(f"the target did not answer in {timeout_s:.3f} s")
