"""The datastore as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rasd.cli.console import count, latency, plural, printable, seconds, size


def status_tables(status: dict[str, Any]) -> RenderableType:
    """Corpora and shards of an answer of ``GET /v1/datastore``."""
    parts: list[RenderableType] = [_corpora(status["corpora"])]
    if status["shards"]:
        parts += ["", _shards(status["shards"])]
    parts += ["", scale_line(status), *_damaged(status["corpora"])]
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
            overflow="fold" if at == 0 else "ellipsis",
            no_wrap=at > 0,
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


def _shards(shards: list[dict[str, Any]]) -> RenderableType:
    columns = ("shard", "address", "partitions", "tokens", "memory", "queries", "per s")
    return grid(
        "Shards",
        (*columns, "p50", "p99", "lag"),
        (
            (
                f"{shard['slot']}.{shard['replica']}",
                shard["address"].removeprefix("tcp://"),
                f"{shard['partitions']:,}",
                count(shard["tokens"]),
                size(shard["resident_bytes"]),
                count(shard["queries"]),
                count(shard["queries_per_s"]),
                latency(shard["p50_ms"]),
                latency(shard["p99_ms"]),
                seconds(shard["lag_s"]),
            )
            for shard in shards
        ),
        left=2,
    )


def _damaged(corpora: list[dict[str, Any]]) -> list[RenderableType]:
    return [
        Text(printable(f"damaged: {corpus['name']}: {name}"), "red")
        for corpus in corpora
        for name in corpus["damaged"]
    ]


def bad(number: int) -> Text:
    """A count that should be 0."""
    return Text(f"{number:,}", "red" if number else "")
