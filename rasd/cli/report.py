"""What an upload shows while it runs, and says at its end."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import BinaryIO

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from rasd.cli.console import errors, printable, seconds, size
from rasd.cli.journal import Journal, Outcome
from rasd.cli.sources import Found
from rasd.errors import InvalidRequest
from rasd.retrieval.lines import PassedOver


class Report:
    """A bar with rate and time left, and a line for each document that was rejected.

    Args:
        total: bytes in all; None if unknown.
        done: bytes of them that an earlier run got through.
        rejects: a file for what is rejected, as JSONL; added to if this run resumes.

    Raises:
        InvalidRequest: that file cannot be written.
    """

    def __init__(
        self, corpus: str, total: int | None, done: int, rejects: Path | None, *, resumes: bool
    ) -> None:
        self._began = monotonic()
        self._sent = self._documents = 0
        self._passed_over = PassedOver()
        self._stack = ExitStack()
        self._rejects: BinaryIO | None = None
        if rejects is not None:
            try:
                self._rejects = self._stack.enter_context(rejects.open("ab" if resumes else "wb"))
            except OSError as error:
                raise InvalidRequest(f"--rejects {rejects}: {error.strerror}") from error
        self._progress = progress_bar("documents")
        self._task = self._progress.add_task(
            printable(corpus), total=total, completed=done, shown="0"
        )

    def __enter__(self) -> Report:
        self._stack.enter_context(self._progress)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            # Blank lines at the end of a file belong to no document.
            total = self._progress.tasks[0].total
            self._progress.update(self._task, completed=total)
        self._stack.close()

    def settled(self, outcomes: list[Outcome]) -> None:
        """Shows what became of some documents."""
        took = sum(outcome.item.size for outcome in outcomes)
        self._sent += took
        self._documents += len(outcomes)
        # One step for all of them: the rate is taken from the last thousand steps.
        self._progress.update(self._task, advance=took, shown=f"{self._documents:,}")
        for outcome in outcomes:
            self._passed_over.add(outcome.item.passed_over)
            if outcome.change == "rejected":
                self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        item = outcome.item
        name = f" (id {item.id!r:.200})" if item.source.lines and item.id else ""
        line = f"{item.place}{name}: {outcome.reason}"
        self._progress.console.print(
            printable(line), style="yellow", markup=False, highlight=False, soft_wrap=True
        )
        if self._rejects is not None:
            entry = {
                "source": printable(item.source.name),
                "line": item.after.line if item.source.lines else None,
                "id": printable(item.id),
                "error": printable(outcome.reason),
            }
            self._rejects.write(msgspec.json.encode(entry) + b"\n")

    def summary(self, journal: Journal, found: Found) -> None:
        """Prints what became of all documents, in earlier runs, too."""
        console = Console()
        counts = journal.counts
        said = f"{counts['created']:,} added" + "".join(
            f", {counts[change]:,} {change}" for change in ("replaced", "unchanged", "rejected")
        )
        took_s = max(monotonic() - self._began, 1e-3)
        speed = f"{size(self._sent)} in {seconds(took_s)}, {size(self._sent / took_s)}/s"
        console.print(f"{said} ({speed})", highlight=False)
        if found.hidden or found.special:
            passed = f"{found.hidden:,} hidden, {found.special:,} linked or special"
            console.print(f"passed over in folders: {passed}", highlight=False)
        if fields := str(self._passed_over):
            console.print(
                printable(f"passed over in lines: the fields {fields}"),
                markup=False,
                highlight=False,
            )


def progress_bar(noun: str) -> Progress:
    """A bar over bytes that also counts something; on a terminal alone does it move."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[shown]} " + noun),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=errors(),
        transient=True,
    )
