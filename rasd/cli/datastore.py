"""`rasd datastore`: the corpora of a running service, and files of a storage root."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from rasd.cli.add import add
from rasd.cli.client import Client, corpus_path
from rasd.cli.console import LOCAL, Commands, Key, Url, fail, plural, printable
from rasd.cli.export import export
from rasd.cli.tables import scale_line, scale_of, status_tables
from rasd.cli.verify import verify
from rasd.datastore import MAX_REPLICAS, MAX_SHARDS
from rasd.errors import RasdError

PATIENCE_S: Final = 10.0
"""How long a call is repeated while the service is overloaded or restarts."""

_BATCH: Final = 1000

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help=(
        "Fill, change and watch the corpora that the service retrieves from.\n\n"
        "- `rasd datastore add handbook docs/` makes a corpus of the files below a folder\n"
        "- `rasd datastore status --watch 1` shows what there is and how it does\n"
        "- `rasd datastore scale --shards 4` spreads it over four processes\n"
        "- `rasd datastore export handbook -o handbook.jsonl` writes it all out\n\n"
        "`RASD_URL` and `RASD_API_KEY` say where the service is and who asks; changing anything "
        "takes a key with `manage: true`, where keys are needed."
    ),
)
app.command()(add)

Name = Annotated[str, typer.Argument(help="Name of the corpus.")]


@app.command()
def create(
    corpus: Name,
    partitions: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Slices to spread over shards; fixed once made."),
    ] = None,
    url: Url = LOCAL,
    key: Key = "",
) -> None:
    """Make an empty corpus. Where it is there already, made the same way, nothing changes.

    - `rasd datastore create handbook --partitions 16`

    `add` makes a corpus, too; this is for choosing the number of partitions.
    """
    body = {"name": corpus} | ({} if partitions is None else {"partitions": partitions})
    with Client(url, key, patience_s=PATIENCE_S) as client:
        made, new = client.create(body)
    held = f"{plural(made['partitions'], 'partition')}, {plural(made['documents'], 'document')}"
    typer.echo(f"{made['name']}: {'made' if new else 'is there already'}, with {held}")


@app.command()
def delete(
    corpus: Name,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of documents.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="The whole corpus, with everything in it.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before --all.")] = False,
    url: Url = LOCAL,
    key: Key = "",
) -> None:
    """Delete documents by id, or a whole corpus.

    - `rasd datastore delete handbook intro.md guides/setup.md`
    - `xargs -d '\\n' rasd datastore delete handbook < ids.txt` takes ids from a file
    - `rasd datastore delete handbook --all` asks, then removes the corpus
    """
    if everything == bool(ids):
        fail("name the documents to delete, or say --all for the whole corpus, not both")
    with Client(url, key, patience_s=PATIENCE_S) as client:
        if everything:
            _drop(client, corpus, yes)
        else:
            _delete(client, corpus, ids or [])


def _drop(client: Client, corpus: str, yes: bool) -> None:
    held = client.call("GET", corpus_path(corpus))
    if not yes:
        question = f"Remove {corpus!r} with {plural(held['documents'], 'document')}?"
        typer.confirm(question, abort=True, err=True)
    client.call("DELETE", corpus_path(corpus))
    typer.echo(f"{corpus}: removed, with {plural(held['documents'], 'document')}")


def _delete(client: Client, corpus: str, ids: Sequence[str]) -> None:
    data: list[dict[str, Any]] = []
    for start in range(0, len(ids), _BATCH):
        body = {"ids": ids[start : start + _BATCH]}
        data += client.call("POST", corpus_path(corpus, "documents", "delete"), body)["data"]
    for one in data:
        if one["change"] != "deleted":
            said = one.get("error") or "there is no such document"
            typer.echo(printable(f"{one['id']}: {said}"), err=True)
    deleted = sum(one["change"] == "deleted" for one in data)
    typer.echo(f"{plural(deleted, 'document')} deleted")
    if any(one["change"] == "rejected" for one in data):
        raise typer.Exit(1)


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print the service's answer.")] = False,
    watch: Annotated[
        float | None, typer.Option(min=0.1, help="Look again every so many seconds.")
    ] = None,
    url: Url = LOCAL,
    key: Key = "",
) -> None:
    """Show corpora and shards: sizes, segments, lag, query rate and latency.

    Tokens *in memory* were written last and are not in a segment yet; they are searched all the
    same. *lag* is the age of the oldest write that a shard does not search yet. Latencies are of
    whole batches, inside the shard.
    """
    with Client(url, key, patience_s=PATIENCE_S) as client:
        if as_json or watch is None:
            _show(client, as_json)
        if watch is None:
            return
        try:
            _watch(client, watch, as_json)
        except KeyboardInterrupt:
            return


def _show(client: Client, as_json: bool) -> None:
    found = client.call("GET", "/v1/datastore")
    if as_json:
        typer.echo(json.dumps(found))
    else:
        Console().print(status_tables(found))


def _watch(client: Client, every_s: float, as_json: bool) -> None:
    if as_json:
        while True:
            _pause(every_s)
            _show(client, as_json)
    with Live(console=Console(), screen=False, auto_refresh=False) as live:
        while True:
            try:
                live.update(status_tables(client.call("GET", "/v1/datastore")), refresh=True)
            except RasdError as error:
                live.update(Text(printable(str(error)), "red"), refresh=True)
            _pause(every_s)


def _pause(seconds: float) -> None:
    time.sleep(seconds)


@app.command()
def scale(
    shards: Annotated[
        int | None, typer.Option(min=1, max=MAX_SHARDS, help="Processes that share the partitions.")
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, max=MAX_REPLICAS, help="Processes that hold the same.")
    ] = None,
    url: Url = LOCAL,
    key: Key = "",
) -> None:
    """Change how many processes serve; without a failed query, and without building anything.

    - `rasd datastore scale --shards 4 --replicas 2`

    It is in effect until the next `serve deploy`, whose configuration then counts again. Two
    replicas keep every answer complete when a process or node is lost.
    """
    if shards is None and replicas is None:
        fail("say how many: --shards, --replicas, or both")
    with Client(url, key, patience_s=PATIENCE_S) as client:
        before = client.call("GET", "/v1/datastore")["scale"]
        body = {
            "shards": before["shards"] if shards is None else shards,
            "replicas": before["replicas"] if replicas is None else replicas,
        }
        after = client.call("PUT", "/v1/datastore/scale", body)
    console = Console()
    console.print(f"before: {scale_of(before)}", highlight=False)
    console.print("now:   ", scale_line(after), highlight=False)
    if after["moving"]:
        console.print("watch it with: rasd datastore status --watch 1", highlight=False)


app.command()(verify)
app.command()(export)
