"""`rasd datastore export`: a corpus as JSONL, from which `rasd datastore add` makes the same."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, NoReturn

import msgspec
import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rasd.cli.client import Client, corpus_path
from rasd.cli.console import LOCAL, Key, Url, errors, fail, printable, say, size

_PATIENCE_S: Final = 120.0


def export(
    corpus: Annotated[str, typer.Argument(help="Name of the corpus.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; `-` is standard output.")
    ] = Path("-"),
    url: Url = LOCAL,
    key: Key = "",
) -> None:
    """Write all documents of a corpus as JSONL: `id`, `text` or `tokens`, and `metadata`.

    - `rasd datastore export docs -o docs.jsonl`, then
      `rasd datastore add copy docs.jsonl` makes a corpus of the same documents.

    What is added or deleted meanwhile may or may not be among them. The file appears once it is
    complete. Where files of the corpus are damaged, those are named, what can be read stays in
    FILE`.part`, and the exit code is 1.
    """
    damaged: set[str] = set()
    with Client(url, key, patience_s=_PATIENCE_S) as client:
        total = client.call("GET", corpus_path(corpus))["documents"]
        with _opened(output, damaged) as file, _bar() as progress:
            task = progress.add_task(printable(corpus), total=total)
            written = documents = 0
            for page in client.pages(corpus_path(corpus, "documents"), content="true"):
                damaged |= set(page["damaged"])
                for document in page["data"]:
                    written += file.write(_line(document))
                    documents += 1
                    progress.update(task, advance=1)
    say(f"{documents:,} documents, {size(written)}")
    if damaged:
        _tell(damaged, output)


def _tell(damaged: set[str], output: Path) -> NoReturn:
    for name in sorted(damaged):
        say(f"damaged, its documents are missing: {name}", style="red")
    place = "" if str(output) == "-" else f"; what can be read is in {_part(output)}"
    fail(f"the export is incomplete{place}")


def _line(document: dict[str, Any]) -> bytes:
    kept: dict[str, Any] = {"id": document["id"]}
    content = "tokens" if document["text"] is None else "text"
    kept[content] = document[content]
    if document["metadata"]:
        kept["metadata"] = document["metadata"]
    return msgspec.json.encode(kept) + b"\n"


@contextlib.contextmanager
def _opened(output: Path, damaged: set[str]) -> Iterator[BinaryIO]:
    """The file, which takes its name only if nothing fails and nothing is damaged in the end."""
    if str(output) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = _part(output)
    try:
        file = part.open("wb")
    except OSError as error:
        fail(f"{part}: {error.strerror}")
    try:
        with file:
            yield file
        if not damaged:
            os.replace(part, output)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _part(output: Path) -> Path:
    return output.with_name(f"{output.name}.part")


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("documents"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=errors(),
        transient=True,
    )
