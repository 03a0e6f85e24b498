"""`rasd datastore export`: a corpus as JSONL, from which `rasd datastore add` makes the same."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

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
from rasd.errors import NotFound

_PATIENCE_S: Final = 120.0
_IN_FLIGHT: Final = 8


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
    complete.
    """
    with Client(url, key, patience_s=_PATIENCE_S) as client:
        total = client.call("GET", corpus_path(corpus))["documents"]
        with _opened(output) as file, _bar() as progress:
            task = progress.add_task(printable(corpus), total=total)
            written = documents = 0
            for document in _documents(client, corpus):
                written += file.write(_line(document))
                documents += 1
                progress.update(task, advance=1)
    say(f"{documents:,} documents, {size(written)}")


def _documents(client: Client, corpus: str) -> Iterator[dict[str, Any]]:
    """All that are still there when they are asked for, in the order of the listing."""
    waiting: deque[Future[dict[str, Any] | None]] = deque()

    def get(id_: str) -> dict[str, Any] | None:
        try:
            return client.call("GET", corpus_path(corpus, "documents", id_))
        except NotFound:
            return None  # deleted since it was listed

    with ThreadPoolExecutor(_IN_FLIGHT, "rasd-export") as pool:
        try:
            for entry in client.pages(corpus_path(corpus, "documents")):
                # No more than a few at once: documents may be large.
                if len(waiting) >= _IN_FLIGHT and (found := waiting.popleft().result()):
                    yield found
                waiting.append(pool.submit(get, entry["id"]))
            while waiting:
                if found := waiting.popleft().result():
                    yield found
        finally:
            client.stop()
            pool.shutdown(cancel_futures=True)


def _line(document: dict[str, Any]) -> bytes:
    kept: dict[str, Any] = {"id": document["id"]}
    content = "tokens" if document["text"] is None else "text"
    kept[content] = document[content]
    if document["metadata"]:
        kept["metadata"] = document["metadata"]
    return msgspec.json.encode(kept) + b"\n"


@contextlib.contextmanager
def _opened(output: Path) -> Iterator[BinaryIO]:
    """The file, which takes its name only if nothing fails."""
    if str(output) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = output.with_name(f"{output.name}.part")
    try:
        file = part.open("wb")
    except OSError as error:
        fail(f"{part}: {error.strerror}")
    try:
        with file:
            yield file
        os.replace(part, output)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


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
