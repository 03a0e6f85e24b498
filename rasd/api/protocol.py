"""The bodies of `/v1/completions` and `/v1/chat/completions`, and what they ask for.

Types are strict: "7" and true are no numbers. Null means the default. Every key is acted on or
refused by name; the few exceptions, which by OpenAI's own definition change nothing about an
answer, are `user`, `safety_identifier` and `metadata` (without `store`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from rasd.api.refusals import at_most, show
from rasd.errors import InvalidRequest
from rasd.params import MAX_LOGIT_BIAS, MAX_LOGPROBS, MAX_NEW_TOKENS, SamplingParams, Speculation

Prompts = list[str] | list[list[int]]


@dataclass(frozen=True, slots=True)
class Ask:
    """What is to be generated, whatever the endpoint.

    Attributes:
        prompts: texts, lists of token ids, or one conversation as role and content pairs.
        params: for each prompt.
        clip: whether ``params.max_tokens`` is lowered to what the context leaves; else a request
            for more than that is refused.
    """

    prompts: Prompts | Conversation
    params: SamplingParams
    clip: bool = False


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order, each with ``role`` and ``content``."""

    messages: list[dict[str, str]]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class StreamOptions(_Strict):
    """``include_usage`` adds a last chunk with the counts. Obfuscation is not implemented."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class TextPart(_Strict):
    """A piece of a message; other kinds than text are not supported."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """A message; text parts are joined with line breaks."""

    role: Literal["system", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


def _stops(value: object) -> list[str] | None:
    if value is None or isinstance(value, str):
        return None if value is None else [value]
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return value
    raise InvalidRequest(
        f"stop must be a string or a list of strings; got {show(value)}", param="stop"
    )


def _prompts(value: object) -> Prompts:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        kinds = set(map(type, value))
        if kinds == {int}:
            return [value]
        if kinds == {str}:
            return value
        if kinds == {list} and all(set(map(type, ids)) <= {int} for ids in value):
            return value
    raise InvalidRequest(
        "prompt must be a string, a list of token ids, or a list of either, and not empty; "
        f"got {show(value)}",
        param="prompt",
    )


class GenerationBody(_Strict):
    """What both endpoints take. The second group is ours (`extra_body` of the OpenAI client)."""

    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: Annotated[Any, PlainValidator(_stops, json_schema_input_type=str | list[str] | None)] = (
        None
    )
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[str, float] | None, at_most("logit_bias", MAX_LOGIT_BIAS)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: Annotated[list[int], Field(fail_fast=True)] | None = None
    ignore_eos: bool | None = None
    speculation: Speculation | None = None
    nodes: int | None = None
    corpora: Annotated[list[str], Field(fail_fast=True)] | None = None
    return_origins: Annotated[
        bool | None,
        Field(
            description="Say in `rasd.origins` where the accepted retrieved tokens stand: runs of "
            "`tokens` tokens at `position` of a choice's answer that are those at `offset` of a "
            "corpus's document, or of prompt and answer. A stream says so in its last chunk."
        ),
    ] = None
    passages: Annotated[
        int | None,
        Field(
            description="How many passages of the corpora near the prompt in meaning are copied "
            "for this request at most, and searched without asking the datastore. Needs the "
            "service's setting `retrieval.dense`, which also gives the default."
        ),
    ] = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def _params(self, max_tokens: int, logprobs: int | None) -> SamplingParams:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options needs stream to be true", param="stream_options")
        given: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "n": self.n,
            "stop": None if self.stop is None else tuple(self.stop),
            "seed": self.seed,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": None if self.logit_bias is None else _bias(self.logit_bias),
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "stop_token_ids": None if self.stop_token_ids is None else tuple(self.stop_token_ids),
            "ignore_eos": self.ignore_eos,
            "speculation": self.speculation,
            "nodes": self.nodes,
            "corpora": None if self.corpora is None else tuple(self.corpora),
            "return_origins": self.return_origins,
            "passages": self.passages,
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        return SamplingParams(max_tokens=max_tokens, logprobs=logprobs, **chosen)


class CompletionBody(GenerationBody):
    """Body of ``POST /v1/completions``."""

    prompt: Annotated[
        Any,
        PlainValidator(
            _prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]
        ),
    ]
    logprobs: int | None = None

    def ask(self) -> Ask:
        """What the body asks for.

        Raises:
            InvalidRequest: a value is out of range.
        """
        limit = 16 if self.max_tokens is None else self.max_tokens
        return Ask(self.prompt, self._params(limit, self.logprobs), clip=self.max_tokens is None)


class ChatBody(GenerationBody):
    """Body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(fail_fast=True)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    safety_identifier: str | None = None
    metadata: Annotated[dict[str, str] | None, at_most("metadata", 16)] = None

    def ask(self) -> Ask:
        """What the body asks for.

        Raises:
            InvalidRequest: a value is out of range, or two contradict each other.
        """
        if not self.messages:
            raise InvalidRequest("messages must hold at least one; got 0", param="messages")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise InvalidRequest(
                f"max_completion_tokens is {self.max_completion_tokens}, but max_tokens, its old "
                f"name, is {self.max_tokens}",
                param="max_completion_tokens",
            )
        conversation = Conversation([{"role": m.role, "content": m.text} for m in self.messages])
        limit = limits.pop() if limits else None
        params = self._params(MAX_NEW_TOKENS if limit is None else limit, self._logprobs())
        return Ask(conversation, params, clip=limit is None)

    def _logprobs(self) -> int | None:
        if self.top_logprobs is None:
            return 0 if self.logprobs else None
        if not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
        if not 0 <= self.top_logprobs <= MAX_LOGPROBS:
            raise InvalidRequest(
                f"top_logprobs must be between 0 and {MAX_LOGPROBS}; got {self.top_logprobs}",
                param="top_logprobs",
            )
        return self.top_logprobs


def _bias(bias: dict[str, float]) -> dict[int, float]:
    result: dict[int, float] = {}
    for key, value in bias.items():
        # int() would take "１", " 1", "1_0" and "+1", and two spellings of one id.
        if not (key.isascii() and key.isdecimal() and len(key) <= 10 and key == str(int(key))):
            raise InvalidRequest(
                f"logit_bias has token ids as keys; got {show(key)}", param="logit_bias"
            )
        result[int(key)] = value
    return result
