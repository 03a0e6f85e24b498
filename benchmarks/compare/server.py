"""A worker that starts an OpenAI server, ours or vLLM's, and puts its jobs through HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any, Final

from benchmarks.compare.protocol import Answer, Job, Outcome
from benchmarks.compare.worker import serve
from benchmarks.http import Result, load

_PATIENCE_S: Final = 600.0


class Server:
    """A server in a process group of its own, and a client of it in this process."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._url = settings["url"]
        self._model = settings["model"]
        self._body = dict(settings["body"])
        self._corpora: list[str] | None = settings["corpora"]
        self._process = subprocess.Popen(
            settings["command"],
            env={**os.environ, **settings["environment"]},
            stdout=2,
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            self._wait(settings["ready"])
        except BaseException:
            self.close()
            raise

    def _wait(self, url: str) -> None:
        end = time.monotonic() + _PATIENCE_S
        while self._process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
                return
            time.sleep(0.2)
        raise RuntimeError(f"{url} does not answer; the server's exit is {self._process.poll()}")

    def run(self, job: Job) -> Outcome:
        """Runs a job through HTTP; of the answers it knows how many tokens, not which."""
        body = {"temperature": job.temperature, "ignore_eos": True, "seed": job.seed, **self._body}
        if self._corpora is not None:
            body["corpora"] = [name for name in self._corpora if name == job.corpus]
        begun = time.perf_counter()
        asked = load(self._url, self._model, job.prompts, job.max_tokens, job.concurrency, body)
        results = asyncio.run(asked)
        seconds = time.perf_counter() - begun
        failed = [result.error for result in results if result.error]
        if failed:
            raise RuntimeError(failed[0])
        return Outcome(seconds, [_answer(result, begun) for result in results])

    def close(self) -> None:
        """Stops the server as a user would."""
        for number, patience in ((signal.SIGINT, 60), (signal.SIGKILL, 5)):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self._process.pid, number)
                self._process.wait(patience)
                return


def _answer(result: Result, begun: float) -> Answer:
    """Pieces of text stand for steps: a piece may bring tokens of several."""
    first = result.sent + result.first_s - begun
    pieces = max(1, len(result.arrivals))
    asked, last = result.sent - begun, (result.arrivals or [result.ended])[-1] - begun
    return Answer([0] * result.tokens, pieces, 1, asked, first, last)


def main() -> None:
    """Serves the bench."""
    serve(Server)


if __name__ == "__main__":
    main()
