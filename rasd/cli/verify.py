"""`rasd datastore verify`: whether the files of a storage root are as they must be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rasd.cli.console import count, errors, fail, printable
from rasd.cli.tables import bad, grid

if TYPE_CHECKING:
    from rasd.retrieval.store.verify import Report


def verify(
    root: Annotated[
        Path, typer.Argument(help="The storage root: `datastore.root` of the configuration.")
    ],
    corpora: Annotated[
        list[str] | None, typer.Argument(help="Names of corpora; all of them if none is given.")
    ] = None,
) -> None:
    """Read every file of a storage root, and say which are damaged. Changes nothing.

    - `rasd datastore verify ~/.cache/rasd/corpora`

    Checks each checksum, that every index holds the tokens of its documents in order, and that
    each document is there once. The service may go on meanwhile. The exit code is 1 if something
    is damaged. Left over are files of unfinished work, which the next writer removes.
    """
    from rasd.retrieval.store.corpora import list_corpora
    from rasd.retrieval.store.verify import verify as verify_store

    root = root.expanduser()
    if not root.is_dir():
        fail(f"{root} is no folder")
    names = corpora or list_corpora(root)
    reports: dict[str, Report] = {}
    try:
        with errors().status("") as shown:
            for name in names:
                shown.update(f"reading {printable(name)}")
                reports[name] = verify_store(root, [name])
    except OSError as error:
        fail(f"{error.filename or root}: {error.strerror}")
    console = Console()
    if not names:
        console.print(f"no corpora in {printable(str(root))}", highlight=False, markup=False)
        return
    console.print(_table(reports))
    damaged = [damage for report in reports.values() for damage in report.damaged]
    for damage in damaged:
        console.print(Text(printable(damage.reason), "red"), soft_wrap=True)
    if damaged:
        raise typer.Exit(1)


def _table(reports: dict[str, Report]) -> Table:
    columns = ("corpus", "documents", "tokens", "files", "left over", "damaged")
    return grid(
        "",
        columns,
        (
            (
                name,
                f"{report.documents:,}",
                count(report.tokens),
                f"{report.files:,}",
                f"{len(report.leftovers):,}",
                bad(len(report.damaged)),
            )
            for name, report in reports.items()
        ),
    )
