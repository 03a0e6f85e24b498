"""The datastore as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from rasd.cli.console import count, latency, plural, printable, seconds, size

_HELD: Final = ("address", "partitions", "tokens", "memory")
_WORK: Final = ("queries", "per s", "p50", "p99", "lag")
_WIDE: Final = 1000


def status_tables(status: dict[str, Any]) -> RenderableType:
    """Corpora and shards of an answer of ``GET /v1/datastore``."""
    parts: list[RenderableType] = [_corpora(status["corpora"])]
    if status["shards"]:
        parts += ["", _Shards(status["shards"])]
    parts += ["", scale_line(status)]
    if writer := status.get("writer"):  # an older service says nothing of it
        parts += _writer(writer)
    parts += _damaged(status["corpora"])
    return Group(*parts)


def scale_line(status: dict[str, Any]) -> Text:
    """How the datastore is scaled, and why."""
    line = Text(scale_of(status["scale"]))
    if status["override"]:
        configured = scale_of(status["configured"])
        line.append(f", set by hand until the next deployment, which says {configured}", "yellow")
    if status["moving"]:
        line.append("; partitions are moving", "yellow")
    return line


def scale_of(scale: dict[str, Any]) -> str:
    """Such as "2 shards of 1 replica"."""
    return f"{plural(scale['shards'], 'shard')} of {plural(scale['replicas'], 'replica')}"


def grid(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, left: int = 1
) -> Table:
    """A table whose first ``left`` columns are text, the others numbers."""
    table = Table(
        title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    for at, column in enumerate(columns):
        table.add_column(
            column,
            justify="left" if at < left else "right",
            header_style="dim",
            overflow="fold" if at < left else "ellipsis",
            no_wrap=at >= left,
        )
    for row in rows:
        table.add_row(*(Text(printable(one)) if isinstance(one, str) else one for one in row))
    return table


def _corpora(corpora: list[dict[str, Any]]) -> RenderableType:
    if not corpora:
        return Text("no corpora; make one with: rasd datastore add NAME SOURCE")
    columns = ("corpus", "documents", "tokens", "in memory", "size", "segments", "partitions")
    return grid(
        "Corpora",
        (*columns, "damaged"),
        (
            (
                corpus["name"],
                f"{corpus['documents']:,}",
                count(corpus["tokens"]),
                count(corpus["memory_tokens"]),
                size(corpus["bytes"]),
                f"{corpus['segments']:,}",
                f"{corpus['partitions']:,}",
                bad(len(corpus["damaged"])),
            )
            for corpus in corpora
        ),
    )


class _Shards:
    """A table of what shards hold and how they do, or two where one is too wide."""

    def __init__(self, shards: list[dict[str, Any]]) -> None:
        self._names = [(f"{shard['slot']}.{shard['replica']}",) for shard in shards]
        self._held = [_held(shard) for shard in shards]
        self._work = [_work(shard) for shard in shards]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = zip(self._names, self._held, self._work, strict=True)
        one = grid("Shards", ("shard", *_HELD, *_WORK), (sum(row, ()) for row in rows), left=2)
        needed = console.measure(one, options=options.update(max_width=_WIDE)).maximum
        if needed <= options.max_width:
            yield one
            return
        held = (name + row for name, row in zip(self._names, self._held, strict=True))
        yield grid("Shards", ("shard", *_HELD), held, left=2)
        yield ""
        work = (name + row for name, row in zip(self._names, self._work, strict=True))
        yield grid("Searches", ("shard", *_WORK), work)


def _held(shard: dict[str, Any]) -> tuple[str, ...]:
    return (
        shard["address"].removeprefix("tcp://"),
        f"{shard['partitions']:,}",
        count(shard["tokens"]),
        size(shard["resident_bytes"]),
    )


def _work(shard: dict[str, Any]) -> tuple[str, ...]:
    return (
        count(shard["queries"]),
        count(shard["queries_per_s"]),
        latency(shard["p50_ms"]),
        latency(shard["p99_ms"]),
        seconds(shard["lag_s"]),
    )


def _writer(writer: dict[str, Any]) -> list[Text]:
    """What runs and waits, and what failed since the writer started."""
    lines = []
    if writer["compactions"]:
        running = f"{plural(writer['compactions'], 'compaction')} running, "
        lines.append(Text(f"{running}{writer['waiting']:,} waiting"))
    if failure := writer["failure"]:
        compactions = plural(writer["failed_compactions"], "compaction")
        commits = plural(writer["failed_commits"], "commit")
        last = f"{failure['work']} of {failure['corpus']}, {seconds(failure['age_s'])} ago"
        lines.append(Text(f"failed: {compactions}, {commits}; the last one a {last}", "red"))
        lines.append(Text(printable(failure["error"]), "red"))
    return lines


def _damaged(corpora: list[dict[str, Any]]) -> list[RenderableType]:
    return [
        Text(printable(f"damaged: {corpus['name']}: {name}"), "red")
        for corpus in corpora
        for name in corpus["damaged"]
    ]


def bad(number: int) -> Text:
    """A count that should be 0."""
    return Text(f"{number:,}", "red" if number else "")
