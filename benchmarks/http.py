"""Load on any server that speaks OpenAI's streaming completions: tokens/s, first token, gaps.

While requests run the client only keeps what came and when; it reads the events afterwards. What
it costs by itself is told (``client_cpu_s``): on few cores it takes from the server. So run it in a
process of its own.

    python -m benchmarks.http --url http://127.0.0.1:8000/v1 --model rasd --tokenizer DIR
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
from rich.console import Console
from rich.table import Table

CONCURRENCY: Final = (1, 4, 16, 64)
_PATIENCE_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Result:
    """One request. Times are of `time.perf_counter`, in seconds.

    Attributes:
        tokens: what the server counts, those without text included.
        sent: when the request left; arrivals: when each piece of text came, the first one first.
        ended: when the stream was over; error: why there is nothing; else empty.
        extra: what the server said beside OpenAI's fields, as ours does in ``rasd``.
    """

    text: str
    tokens: int
    finish: str
    sent: float
    arrivals: list[float]
    ended: float
    error: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def first_s(self) -> float:
        """From sending to the first text."""
        return (self.arrivals[0] if self.arrivals else self.ended) - self.sent

    @property
    def per_token_s(self) -> float:
        """Between tokens, on average, after the first."""
        return (self.ended - self.sent - self.first_s) / max(1, self.tokens - 1)


async def load(
    base_url: str,
    model: str,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    concurrency: int,
    extra_body: Mapping[str, Any] | None = None,
    api_key: str = "none",
) -> list[Result]:
    """Asks for all prompts (token ids), at most ``concurrency`` at once; answers in their order.

    Args:
        base_url: with the version, such as http://127.0.0.1:8000/v1.
        extra_body: more of the body, such as ``{"temperature": 0, "ignore_eos": True}``.
    """
    body = {
        "model": model,
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **(extra_body or {}),
    }
    free = asyncio.Semaphore(concurrency)
    connector = aiohttp.TCPConnector(limit=concurrency)
    patience = aiohttp.ClientTimeout(total=_PATIENCE_S)
    headers = {"Authorization": f"Bearer {api_key}"}
    url = f"{base_url.rstrip('/')}/completions"

    async with aiohttp.ClientSession(
        connector=connector, timeout=patience, headers=headers
    ) as http:

        async def ask(prompt: Sequence[int]) -> Result:
            async with free:
                return await _ask(http, url, {**body, "prompt": [*map(int, prompt)]})

        return await asyncio.gather(*map(ask, prompts))


async def _ask(http: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> Result:
    came: list[tuple[float, bytes]] = []
    sent = time.perf_counter()
    try:
        async with http.post(url, json=body) as answer:
            async for piece in answer.content.iter_any():
                came.append((time.perf_counter(), piece))
            failed = "" if answer.status == 200 else f"{answer.status}: {came[0][1][:500]!r}"
    except (aiohttp.ClientError, TimeoutError) as error:
        failed = repr(error)
    ended = time.perf_counter()
    return _read(came, sent, ended, failed)


def _read(came: list[tuple[float, bytes]], sent: float, ended: float, failed: str) -> Result:
    """The events in what came; one may come in several pieces, and several in one."""
    texts: list[str] = []
    arrivals: list[float] = []
    tokens, finish, extra, done = 0, "", {}, False
    rest = b""
    for at, piece in came if not failed else ():
        *events, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            data = event.removeprefix(b"data:").strip()
            if data == b"[DONE]" or not data:
                done = done or bool(data)
                continue
            said = json.loads(data)
            failed = failed or json.dumps(said.get("error", ""))[:500].strip('"')
            for choice in said.get("choices", ()):
                if choice["text"]:
                    texts.append(choice["text"])
                    arrivals.append(at)
                finish = choice["finish_reason"] or finish
            tokens = (said.get("usage") or {}).get("completion_tokens", tokens)
            extra = said.get("rasd", extra)
    failed = failed or ("" if done else "the stream broke off")
    return Result("".join(texts), tokens, finish, sent, arrivals, ended, failed, extra)


def summary(results: Sequence[Result]) -> dict[str, float]:
    """Figures over requests that ran together; milliseconds but for tokens per second.

    Raises:
        RuntimeError: a request failed.
    """
    failed = [result.error for result in results if result.error]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(results)} requests failed: {failed[0]}")
    seconds = max(r.ended for r in results) - min(r.sent for r in results)
    firsts = [1000 * r.first_s for r in results]
    gaps = [1000 * r.per_token_s for r in results]
    return {
        "tokens_per_s": sum(r.tokens for r in results) / seconds,
        "seconds": seconds,
        "tokens": float(sum(r.tokens for r in results)),
        "chunks": float(sum(len(r.arrivals) for r in results)),
        "first_ms": statistics.median(firsts),
        "first_p90_ms": sorted(firsts)[int(0.9 * len(firsts))],
        "per_token_ms": statistics.median(gaps),
        "per_token_p90_ms": sorted(gaps)[int(0.9 * len(gaps))],
    }


def measure(
    base_url: str,
    model: str,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    concurrency: int,
    extra_body: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """`load`, in an event loop of its own, as a `summary` with the client's own CPU time."""
    before = time.process_time()
    results = asyncio.run(load(base_url, model, prompts, max_tokens, concurrency, extra_body))
    spent = time.process_time() - before
    return {**summary(results), "client_cpu_s": spent}


def windows(tokenizer: str, count: int) -> list[list[int]]:
    """Prompts: windows of held-out source."""
    from benchmarks.common import code_prompts
    from rasd.text import encode, load_tokenizer

    loaded = load_tokenizer(tokenizer)
    return code_prompts(SimpleNamespace(encode=lambda text: encode(loaded, text)), count)


def table(rows: Mapping[int, Mapping[str, float]]) -> Table:
    """One row per concurrency."""
    out = Table(title="streaming completions")
    columns = [*next(iter(rows.values()))]
    for column in ("at once", *columns):
        out.add_column(column, justify="right")
    for concurrency, row in rows.items():
        out.add_row(str(concurrency), *(f"{row[column]:.2f}" for column in columns))
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default="rasd")
    parser.add_argument("--tokenizer", help="directory or hub id, for prompts of held-out source")
    parser.add_argument("--prompts", help="or a JSON file with a list of lists of token ids")
    parser.add_argument("--count", type=int, default=16, help="prompts per concurrency, at least")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[*CONCURRENCY])
    parser.add_argument("--body", type=json.loads, default={}, help="more of the body, as JSON")
    parser.add_argument("--out", help="a file for the figures, as JSON")
    options = parser.parse_args()
    if options.prompts is None and options.tokenizer is None:
        parser.error("give --tokenizer or --prompts")
    given = options.prompts and json.loads(Path(options.prompts).read_text())
    prompts = given or windows(options.tokenizer, options.count)
    body = {"temperature": 0.0, "ignore_eos": True, **options.body}
    rows = {}
    for concurrency in options.concurrency:
        asked = prompts * -(-max(options.count, concurrency) // len(prompts))
        asked = asked[: max(options.count, concurrency)]
        rows[concurrency] = measure(
            options.url, options.model, asked, options.tokens, concurrency, body
        )
    if options.out:
        Path(options.out).write_text(json.dumps(rows, indent=1) + "\n")
    Console(width=150).print(table(rows))


if __name__ == "__main__":
    main()
