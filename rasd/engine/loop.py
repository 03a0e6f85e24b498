"""The loop around an engine: commands in, outputs out. Knows no transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from rasd.engine.api import Gauges, Output, Request, Statistics
from rasd.engine.engine import Engine
from rasd.errors import RasdError, RequestError, ServerError

IDLE_S: Final = 0.5
"""How long an idle loop waits for a command before it looks around again."""


@dataclass(frozen=True, slots=True)
class Submit:
    """Start a request."""

    request: Request


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a sequence; one that ended already is ignored."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End everything and return."""


Command = Submit | Cancel | Stop


class Mailbox(Protocol):
    """Where commands come from and outputs go. Used by one thread."""

    def receive(self, timeout_s: float) -> list[Command]:
        """What has come, in order; waits for the first at most ``timeout_s``, 0 not at all."""
        ...

    def send(self, outputs: list[Output], gauges: Gauges) -> None:
        """Everything one step brought, in one message."""
        ...


def run(engine: Engine, mailbox: Mailbox) -> None:
    """Serves until `Stop`. Every submitted request gets exactly one finish.

    A request that the engine refuses ends with an error output of the refusal's code.

    Raises:
        StageError: the target failed. Nothing is lost: `Engine.replace_target`, then run again.
    """
    while True:
        for command in mailbox.receive(0.0 if engine.has_work else IDLE_S):
            match command:
                case Submit(request):
                    _submit(engine, mailbox, request)
                case Cancel(sequence):
                    engine.cancel(sequence)
                case Stop():
                    mailbox.send(engine.cancel_all(), engine.gauges())
                    return
        if engine.has_work:
            mailbox.send(engine.step(), engine.gauges())


def _submit(engine: Engine, mailbox: Mailbox, request: Request) -> None:
    try:
        engine.add(request)
    except RasdError as error:
        mailbox.send([refusal(request.sequence, error)], engine.gauges())


def refusal(sequence: int, error: RasdError) -> Output:
    """The only output of a request that was refused."""
    code = error.code if isinstance(error, RequestError | ServerError) else ServerError.code
    return Output(sequence, [], [], Statistics(), finish="error", error=str(error), error_code=code)
