"""Answers in the shapes of OpenAI's API, whole and in chunks.

Beyond OpenAI's fields, a whole answer and a stream's usage chunk carry ``rasd``: what speculation
did (see `rasd.api.results.summary`), and where its text stands for a request that asks; a stream
of such a request has that chunk in any case. Log-probabilities have one entry per completion token,
tokens that ended the text included.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

from rasd.api.choice import Piece
from rasd.api.origins import as_json as origins_as_json
from rasd.api.results import Choice, Result, summary
from rasd.api.service import Job
from rasd.api.tokens import Offsets, TokenTexts
from rasd.engine.api import Statistics
from rasd.quotes import Quote
from rasd.stages import Logprobs

_UNLIKELY: Final = -9999.0
"""OpenAI's number for what has no probability; JSON has no infinity."""


class Wire(Protocol):
    """One endpoint's shapes for one request."""

    def chunks(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """What a piece adds to a stream; may be nothing."""
        ...

    def last(self) -> Iterator[dict[str, Any]]:
        """What comes after all choices have ended."""
        ...

    def whole(self, result: Result) -> dict[str, Any]:
        """The answer at once."""
        ...


class _Shape:
    """What both endpoints share. Counts the pieces that pass, for the usage at the end."""

    kind: str
    prefix: str

    def __init__(self, job: Job, model: str, texts: TokenTexts, include_usage: bool) -> None:
        self._job = job
        self._texts = texts
        self._include_usage = include_usage
        params = job.params[0]
        self._wants_logprobs = params.logprobs is not None
        self._completion_tokens = 0
        self._statistics: dict[int, Statistics] = {}
        self._wants_origins = params.return_origins
        self._origins: dict[int, list[Quote]] = {}
        self._head = {
            "id": f"{self.prefix}-{job.request_id}",
            "object": self.kind,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": None,
        }

    def last(self) -> Iterator[dict[str, Any]]:
        """The chunk of counts and origins, if the request asks for either."""
        if self._include_usage or self._wants_origins:
            counts = _usage(self._job.prompt_tokens, self._completion_tokens)
            yield {
                **self._head,
                "choices": [],
                **({"usage": counts} if self._include_usage else {}),
                "rasd": self._rasd(self._statistics.values(), self._origins),
            }

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        usage = {"usage": None} if self._include_usage else {}
        return {**self._head, "choices": [choice], **usage}

    def _note(self, piece: Piece) -> None:
        self._completion_tokens += len(piece.tokens)
        self._statistics[piece.choice] = piece.statistics
        self._origins[piece.choice] = piece.origins

    def _answer(self, choices: list[dict[str, Any]], result: Result) -> dict[str, Any]:
        return {
            **self._head,
            "choices": choices,
            "usage": _usage(self._job.prompt_tokens, result.completion_tokens),
            "rasd": self._rasd(
                (choice.statistics for choice in result.choices),
                {i: choice.origins for i, choice in enumerate(result.choices)},
            ),
        }

    def _rasd(
        self, statistics: Iterable[Statistics], origins: dict[int, list[Quote]]
    ) -> dict[str, Any]:
        said = summary(statistics, corpora=self._job.asks_corpora)
        if self._wants_origins:
            said["origins"] = [
                entry for i in sorted(origins) for entry in origins_as_json(i, origins[i])
            ]
        return said


class CompletionWire(_Shape):
    """``/v1/completions``; chunks look like whole answers."""

    kind = "text_completion"
    prefix = "cmpl"

    def __init__(self, job: Job, model: str, texts: TokenTexts, include_usage: bool) -> None:
        super().__init__(job, model, texts, include_usage)
        self._offsets = [Offsets(texts) for _ in range(job.choices)]

    def chunks(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """One chunk, unless the piece has nothing to show."""
        self._note(piece)
        if piece.text or piece.finish or (self._wants_logprobs and piece.tokens):
            yield self._chunk(self._choice(piece.choice, piece))

    def whole(self, result: Result) -> dict[str, Any]:
        """The answer at once."""
        choices = [self._choice(i, choice) for i, choice in enumerate(result.choices)]
        return self._answer(choices, result)

    def _choice(self, index: int, part: Piece | Choice) -> dict[str, Any]:
        return {
            "text": part.text,
            "index": index,
            "logprobs": self._logprobs(index, part) if self._wants_logprobs else None,
            "finish_reason": part.finish,
        }

    def _logprobs(self, index: int, part: Piece | Choice) -> dict[str, Any]:
        pairs = list(zip(part.tokens, part.logprobs, strict=True))
        text_of = self._texts.text_of
        return {
            "tokens": [text_of(token) for token in part.tokens],
            "token_logprobs": [_finite(entry.logprob) for entry in part.logprobs],
            "top_logprobs": [
                {text_of(token): _finite(entry.logprob)}
                | {text_of(other): logprob for other, logprob in _best(entry)}
                for token, entry in pairs
            ],
            "text_offset": [self._offsets[index].next(token) for token in part.tokens],
        }


class ChatWire(_Shape):
    """``/v1/chat/completions``; a stream's choice begins with its role, ends with its reason."""

    kind = "chat.completion"
    prefix = "chatcmpl"

    def __init__(self, job: Job, model: str, texts: TokenTexts, include_usage: bool) -> None:
        super().__init__(job, model, texts, include_usage)
        self._begun: set[int] = set()

    def chunks(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """The role before a choice's first piece, its content, the reason after its last."""
        self._note(piece)
        index = piece.choice
        if index not in self._begun:
            self._begun.add(index)
            yield self._delta(index, {"role": "assistant", "content": "", "refusal": None})
        if piece.text or (self._wants_logprobs and piece.tokens):
            logprobs = self._logprobs(piece)
            yield self._delta(index, {"content": piece.text}, logprobs=logprobs)
        if piece.finish:
            yield self._delta(index, {}, finish=piece.finish)

    def last(self) -> Iterator[dict[str, Any]]:
        """As `_Shape.last`, under the name that chunks have here."""
        for chunk in super().last():
            yield {**chunk, "object": "chat.completion.chunk"}

    def whole(self, result: Result) -> dict[str, Any]:
        """The answer at once."""
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": self._logprobs(choice),
                "finish_reason": choice.finish,
            }
            for i, choice in enumerate(result.choices)
        ]
        return self._answer(choices, result)

    def _delta(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        finish: str | None = None,
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**self._chunk(choice), "object": "chat.completion.chunk"}

    def _logprobs(self, part: Piece | Choice) -> dict[str, Any] | None:
        if not self._wants_logprobs:
            return None
        pairs = zip(part.tokens, part.logprobs, strict=True)
        content = [
            {
                **self._token(token, entry.logprob),
                "top_logprobs": [self._token(other, logprob) for other, logprob in _best(entry)],
            }
            for token, entry in pairs
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self._texts.bytes_of(token)
        return {
            "token": raw.decode(errors="replace"),
            "logprob": _finite(logprob),
            "bytes": list(raw),
        }


def _best(entry: Logprobs) -> Iterable[tuple[int, float]]:
    return (
        (int(token), _finite(float(logprob)))
        for token, logprob in zip(entry.top_ids, entry.top_logprobs, strict=True)
    )


def _finite(logprob: float) -> float:
    return max(float(logprob), _UNLIKELY)


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
