"""What the commands share: where the service is, how errors end a command, how numbers look."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from rasd.errors import RasdError

LOCAL: Final = "http://127.0.0.1:8000"

Url = Annotated[str, typer.Option(envvar="RASD_URL", help="Where the service listens.")]
Key = Annotated[str, typer.Option(envvar="RASD_API_KEY", help="API key, where one is needed.")]


class Commands(TyperGroup):
    """Commands that end with our own errors in one line, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except RasdError as error:
            fail(str(error))


def fail(message: str, code: int = 1) -> NoReturn:
    """Ends the command with a message."""
    say(message, style="red")
    raise typer.Exit(code)


def say(message: str, *, style: str = "") -> None:
    """A line for the user, beside the command's output."""
    errors().print(printable(message), style=style, markup=False, highlight=False, soft_wrap=True)


def errors() -> Console:
    """The console for messages and progress."""
    return Console(file=sys.stderr)


def printable(text: str) -> str:
    """Text of others, safe for a terminal: control characters become escapes."""
    return "".join(
        one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode()
        for one in text
    )


def count(number: float) -> str:
    """A count in at most six characters: 999, 12.3k, 4.56M."""
    return _scaled(number, ("", "k", "M", "G", "T"))


def size(number: float) -> str:
    """Bytes: 999 B, 12.3 kB, 4.56 MB."""
    return _scaled(number, (" B", " kB", " MB", " GB", " TB"))


def latency(ms: float) -> str:
    """Milliseconds, as microseconds where they are few; a dash where nothing was measured."""
    if ms <= 0:
        return "–"
    return f"{1000 * ms:.0f} µs" if ms < 1 else f"{ms:.3g} ms"


def seconds(value: float) -> str:
    """A duration: 0.31 s, 12 s, 3 min 20 s."""
    if value < 100:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def plural(number: int, noun: str) -> str:
    """A counted noun: 1 shard, 1,200 shards."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _scaled(number: float, units: Sequence[str], step: int = 1000) -> str:
    value, unit = float(number), 0
    while abs(value) >= 999.5 and unit + 1 < len(units):
        value, unit = value / step, unit + 1
    digits = f"{value:.3g}" if unit or value != int(value) else f"{value:.0f}"
    return digits + units[unit]
