"""`rasd datastore add`: documents into a corpus, with progress, and again where it stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rasd.cli.client import Client
from rasd.cli.console import LOCAL, Key, Url, fail, plural, say
from rasd.cli.journal import DEFAULT, Journal, journal_path
from rasd.cli.reading import MAX_BYTES, Item, Position
from rasd.cli.report import Report
from rasd.cli.sources import Format, Found, find_sources
from rasd.cli.upload import Upload
from rasd.errors import RasdError

_PATIENCE_S = 600.0
_INTERRUPTED = 130
_NOT_FINISHED = "not finished; the same command goes on from here"


def add(  # noqa: PLR0913 - one per option
    corpus: Annotated[str, typer.Argument(help="Name of the corpus; made if it is not there.")],
    sources: Annotated[
        list[str],
        typer.Argument(help="JSONL files, text files, folders, or `-` for standard input."),
    ],
    format: Annotated[
        Format, typer.Option(help="How files are read; `auto` goes by their names.")
    ] = "auto",
    id: Annotated[str | None, typer.Option(help="Id of the one text that is added.")] = None,
    prefix: Annotated[str, typer.Option(help="Put before ids made of file names.")] = "",
    partitions: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Of a new corpus; fixed once made.")
    ] = None,
    rejects: Annotated[
        Path | None, typer.Option(help="Also write what is rejected here, as JSONL.")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Skip what an interrupted run of this command got through.")
    ] = True,
    notes: Annotated[Path, typer.Option(help="Folder of the notes to resume from.")] = DEFAULT,
    max_bytes: Annotated[
        int, typer.Option(min=1, max=2**31, help="Longest line or text file that is read.")
    ] = MAX_BYTES,
    url: Url = LOCAL,
    key: Key = "",
) -> None:
    """Add documents, or replace those with the same id.

    - `rasd datastore add pages pages.jsonl` adds a document per line, such as
      `{"id": "a", "text": "..."}`; `metadata` may be there, and `tokens` instead of `text`. Other
      fields are passed over, and named at the end.
    - `rasd datastore add code src/` adds each file below a folder; its id is its path there.
    - `zcat dump.jsonl.gz | rasd datastore add dump -` reads lines from standard input.
    - `man ls | rasd datastore add manual - --id ls.1` adds one text.

    What cannot be read or is rejected is reported with its line and the reason, and the rest goes
    on; the exit code is 1 then. After an interruption the same command goes on where it stopped.
    Standard input is sent again, which changes nothing that is there. In folders, hidden files,
    links and special files are passed over.
    """
    names = [name if name == "-" else os.path.abspath(name) for name in sources]
    identity = (url, corpus, names, format, id, prefix, max_bytes)
    try:
        found = find_sources(sources, kind=format, id_=id, prefix=prefix)
        task = _Task(corpus, found, max_bytes, rejects, notes if resume else None)
        with Client(url, key, patience_s=_PATIENCE_S) as client:
            rejected = task.run(client, partitions, identity)
    except KeyboardInterrupt:
        fail(_NOT_FINISHED, _INTERRUPTED)
    if rejected:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Task:
    """One upload: what goes where, and what is kept beside it."""

    corpus: str
    found: Found
    max_bytes: int
    rejects: Path | None
    notes: Path | None

    def run(self, client: Client, partitions: int | None, identity: tuple[object, ...]) -> int:
        """Makes the corpus and adds everything. How many were rejected."""
        body = {"name": self.corpus} | ({} if partitions is None else {"partitions": partitions})
        made = client.call("POST", "/v1/corpora", body)["created"]
        # A corpus that was dropped and made again has lost what was acknowledged.
        journal = self._journal((*identity, made))
        report = Report(
            self.corpus,
            self._total(),
            self._done(journal),
            self.rejects,
            resumes=journal.resumes,
        )
        finished = False
        try:
            with report:
                Upload(client, self.corpus, journal, report.settled).run(self._items(journal))
            finished = True
        except KeyboardInterrupt:
            fail(_NOT_FINISHED, _INTERRUPTED)
        except RasdError as error:
            fail(f"{error}\n{_NOT_FINISHED}")
        finally:
            journal.close(finished=finished)
            report.summary(journal, self.found)
        return journal.counts["rejected"]

    def _journal(self, identity: tuple[object, ...]) -> Journal:
        if self.notes is None:
            return Journal(None)
        try:
            journal = Journal(journal_path(self.notes, *identity))
        except OSError as error:
            say(f"this upload could not be resumed if interrupted: {error}")
            return Journal(None)
        if journal.resumes:
            done = plural(sum(journal.counts.values()), "document")
            say(f"going on after {done} of an interrupted run; --no-resume begins anew")
        return journal

    def _items(self, journal: Journal) -> Iterator[Item]:
        for source in self.found.sources:
            start = journal.start(source.key) if source.key else Position()
            if start is not None:
                yield from source.read(start, self.max_bytes)

    def _total(self) -> int | None:
        known = all(source.key or source.fault for source in self.found.sources)
        return sum(source.size for source in self.found.sources) if known else None

    def _done(self, journal: Journal) -> int:
        starts = [(source, journal.start(source.key)) for source in self.found.sources]
        return sum(source.size if at is None else at.offset for source, at in starts)
