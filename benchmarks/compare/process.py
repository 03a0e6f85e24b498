"""The bench's side of a worker: starts it, asks it, holds it still while others have their turn."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.compare.protocol import Job, Outcome

_PATIENCE_S: Final = 120.0
"""How long a worker may take to end: a Ray cluster needs its time."""

ROOT: Final = Path(__file__).resolve().parents[2]


class WorkerFailed(Exception):
    """A worker could not do what it was asked, and says why."""


class Worker:
    """One system in a process group of its own, stopped but while it is asked.

    A stopped process costs no time: an engine that polls for work would disturb the others.

    Args:
        command: what to start; lines come and go on its stdin and stdout.
        settings: its first line.
        log: where its stderr goes.
        freeze: whether it may be stopped; a Ray cluster would believe that its nodes died.

    Attributes:
        ready_s: from the start of the process until it was ready.
        peak_mb: most memory of all its processes seen so far, shared pages counted once.
    """

    def __init__(
        self,
        command: Sequence[str],
        settings: Mapping[str, Any],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        freeze: bool = True,
    ) -> None:
        self.peak_mb = 0.0
        self._freeze = freeze
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        begun = time.perf_counter()
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [*command],
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        try:
            self._exchange(dict(settings))
        except BaseException:
            self.close()
            raise
        self.ready_s = time.perf_counter() - begun
        self._hold()

    def run(self, job: Job) -> Outcome:
        """Lets it run a job.

        Raises:
            WorkerFailed: it could not.
        """
        with self._turn():
            outcome = Outcome.of(self._exchange(job.message()))
        return outcome

    def ask(self, what: str, **arguments: Any) -> Any:
        """Lets it do something that only some can.

        Raises:
            WorkerFailed: it could not.
        """
        with self._turn():
            return self._exchange({"do": what, **arguments})["answer"]

    def close(self) -> None:
        """Ends it, and whatever it started."""
        self._signal(signal.SIGCONT)
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._hold()

    def _hold(self) -> None:
        self.peak_mb = max(self.peak_mb, memory_mb(self._process.pid))
        if self._freeze:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError as error:
            raise WorkerFailed(f"{error}; see {self._log}") from error
        if not line:
            raise WorkerFailed(f"it ended; see {self._log}")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise WorkerFailed(answer["failed"])
        return answer


def memory_mb(root: int) -> float:
    """Memory of a process and all that descend from it; pages that several share count once."""
    total = 0
    for pid in family(root):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def family(root: int) -> list[int]:
    """A process and its descendants, and others of its session (a daemon's parent is gone)."""
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
            sessions[int(path.parent.name)] = int(fields[3])
    found = {root} | {pid for pid, session in sessions.items() if session == root}
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in found} - found
        found |= children
        grown = bool(children)
    return sorted(found & parents.keys())
