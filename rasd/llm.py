"""Offline use: all stages in this process, behind one object.

    >>> from rasd import LLM, SamplingParams
    >>> llm = LLM()
    >>> llm.generate("import os", SamplingParams(max_tokens=32))[0].outputs[0].text

Puts concrete stages into the engine and turns text into tokens and back. Knows no HTTP.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rasd.config import AppConfig, CorpusConfig, Dtype, SpeculationConfig
from rasd.engine.api import EngineSettings, Output, Request, Statistics
from rasd.engine.engine import Engine
from rasd.errors import ConfigError, InvalidRequest, NotFound
from rasd.local import Auto, config_of, load_stages
from rasd.params import MAX_SEED, SamplingParams, check_passages
from rasd.quotes import Key, Quote, Quotes
from rasd.stages import Logprobs
from rasd.text import TextStream, encode, encode_chat
from rasd.tree import Int32s

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One answer.

    Attributes:
        text: without the token or string that ended it.
        token_ids: all tokens that were drawn for it, an ending token included.
        finish_reason: "stop", "length", or "error" with the reason in ``error``.
        logprobs: per token where asked for, else empty.
        statistics: how speculation went.
        origins: where the retrieved tokens stand, if ``params.return_origins``.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str
    logprobs: list[Logprobs]
    statistics: Statistics
    error: str = ""
    origins: list[Quote] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What became of one prompt; ``prompt`` is None if it was given as tokens."""

    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]


class LLM:
    """A model with its drafter and corpora. One thread uses it.

    Args:
        model: directory or hub id of the target; by default the model that comes with RASD.
        dtype: of target and drafter; "auto" keeps that of each checkpoint.
        drafter: directory or hub id of an EAGLE head; "auto" takes the shipped model's own, and
            none for other models.
        corpora: names of corpora in the datastore, or names with the sources to fill them from
            if that is not done; "auto" takes those of the settings for the shipped model, and
            none for others. Documents added or deleted elsewhere count from the next call on.
        speculation: how sources are combined; a mode or the whole section.
        tensor_parallel: 1; more ranks need the service.
        settings: everything else.

    Attributes:
        tokenizer: the target's.

    Raises:
        ModelError, ConfigError: something cannot be loaded or does not fit, by name.
        SegmentError: a corpus is unusable.
        StoreLocked, StorageError: another process takes too long to fill one; or it cannot be.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        dtype: Dtype = "auto",
        drafter: str | None = "auto",
        corpora: Sequence[str | CorpusConfig] | Auto | None = "auto",
        speculation: SpeculationConfig | str | None = None,
        tensor_parallel: int = 1,
        settings: AppConfig | None = None,
    ) -> None:
        if tensor_parallel != 1:
            raise ConfigError(f"tensor_parallel must be 1 in one process; got {tensor_parallel}")
        config = config_of(
            settings or AppConfig(),
            model=model,
            dtype=dtype,
            drafter=drafter,
            corpora=corpora,
            speculation=speculation,
        )
        self._stages = load_stages(config)
        self.tokenizer = self._stages.tokenizer
        self._engine = Engine(
            self._stages.target,
            EngineSettings(config.engine, config.speculation, config.retrieval),
            drafter=self._stages.drafter,
            prompt=self._stages.prompt,
            corpus=self._stages.corpus,
            eos=self._stages.eos,
        )
        self._engine.warm_up()
        self._numbers = itertools.count()

    @property
    def corpora(self) -> tuple[str, ...]:
        """Names of the corpora that can be asked."""
        return self._stages.corpora

    def encode(self, text: str) -> Int32s:
        """A plain prompt as tokens int32[n], with BOS where the model expects one."""
        return encode(self.tokenizer, text)

    def encode_chat(self, messages: Messages) -> Int32s:
        """A conversation as tokens int32[n], ready for the assistant's turn."""
        return encode_chat(self.tokenizer, messages)

    def step_timings(self) -> dict[str, float]:
        """Milliseconds per step so far, by part (`rasd.engine.timings.Timings`)."""
        return self._engine.timings.per_step_ms()

    def close(self) -> None:
        """Frees the stages; the object is of no use afterwards."""
        self._stages.close()

    # --- generating -------------------------------------------------------------------------

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Answers prompts, text or token ids, all at once and in their order.

        Args:
            params: for all of them, or one each; by default those of `SamplingParams`.

        Raises:
            InvalidRequest, NotFound: a prompt or its parameters are refused; nothing was done.
        """
        given: list[str | Sequence[int]] = [prompts] if isinstance(prompts, str) else [*prompts]
        texts = [prompt if isinstance(prompt, str) else None for prompt in given]
        ids = [encode(self.tokenizer, p) if isinstance(p, str) else _as_tokens(p) for p in given]
        return self._run(texts, ids, params)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Answers one conversation or several, through the model's chat template.

        Raises:
            InvalidRequest, NotFound: as `generate`; or the model cannot chat.
        """
        chats = [messages] if messages and isinstance(messages[0], Mapping) else [*messages]
        ids = [encode_chat(self.tokenizer, chat) for chat in chats]  # type: ignore[arg-type]
        return self._run([None] * len(ids), ids, params)

    def _run(
        self,
        texts: list[str | None],
        prompts: list[Int32s],
        params: SamplingParams | Sequence[SamplingParams] | None,
    ) -> list[RequestOutput]:
        each = _per_prompt(params, len(prompts))
        self._stages.refresh()
        answers: list[list[_Answer]] = []
        running: dict[int, _Answer] = {}
        try:
            for prompt, asked in zip(prompts, each, strict=True):
                resolved = self._resolve(asked)
                answers.append([])
                for choice in range(asked.n):
                    stream = TextStream(self.tokenizer, asked.stop)
                    answer = _Answer(choice, stream, Quotes(resolved.corpora or ()))
                    sequence = next(self._numbers)
                    self._engine.add(Request(sequence, prompt, resolved, choice))
                    running[sequence] = answer
                    answers[-1].append(answer)
            while self._engine.has_work:
                self._take(self._engine.step(), running)
        except BaseException:  # an interruption, too, must leave an engine that works
            self._engine.cancel_all()
            self._engine.replace_target(self._stages.target)
            raise
        return [
            RequestOutput(text, prompt.tolist(), [self._result(answer) for answer in group])
            for text, prompt, group in zip(texts, prompts, answers, strict=True)
        ]

    def _result(self, answer: _Answer) -> CompletionOutput:
        return answer.result(self._stages.ids_of(answer.quotes.digests))

    def _take(self, outputs: list[Output], running: dict[int, _Answer]) -> None:
        for output in outputs:
            answer = running.get(output.sequence)
            if answer is None:
                continue
            answer.take(output)
            if answer.finish is not None:
                del running[output.sequence]
                if output.finish is None:  # a stop string, of which the engine knows nothing
                    self._engine.cancel(output.sequence)

    def _resolve(self, params: SamplingParams) -> SamplingParams:
        """With a seed, and with the names of the corpora it means."""
        seed = secrets.randbelow(MAX_SEED) if params.seed is None else params.seed
        corpora = self.corpora if params.corpora is None else params.corpora
        unknown = sorted(set(corpora) - set(self.corpora))
        if unknown:
            known = ", ".join(self.corpora) or "none"
            raise NotFound(f"no corpus {unknown[0]!r}; there are: {known}", param="corpora")
        check_passages(params, self._stages.by_meaning)
        return replace(params, seed=seed, corpora=corpora)


@dataclass(slots=True)
class _Answer:
    """One choice on its way to a `CompletionOutput`."""

    index: int
    stream: TextStream
    quotes: Quotes
    text: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprobs] = field(default_factory=list)
    statistics: Statistics = field(default_factory=Statistics)
    finish: str | None = None
    error: str = ""

    def take(self, output: Output) -> None:
        """Adds what a step brought; sets ``finish`` on the last."""
        shown = output.tokens[:-1] if output.finish == "stop" else output.tokens
        delta = self.stream.push(shown, final=output.finish is not None)
        kept = delta.tokens if delta.stopped else len(output.tokens)
        self.text.append(delta.text)
        self.quotes.add(output.origin, kept)
        self.tokens += output.tokens[:kept]
        self.logprobs += output.logprobs[:kept]
        self.statistics = output.statistics
        self.finish = "stop" if delta.stopped else output.finish
        self.error = output.error

    def result(self, ids: Mapping[Key, str | None]) -> CompletionOutput:
        """What the caller gets; ``ids`` are of documents it quotes."""
        return CompletionOutput(
            self.index,
            "".join(self.text),
            self.tokens,
            self.finish or "error",
            self.logprobs,
            self.statistics,
            self.error,
            self.quotes.named(ids),
        )


def _per_prompt(
    params: SamplingParams | Sequence[SamplingParams] | None, count: int
) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise InvalidRequest(f"params holds {len(params)} entries for {count} prompts")
    return [*params]


def _as_tokens(prompt: Sequence[int]) -> Int32s:
    array = np.asarray(prompt)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InvalidRequest(f"a prompt is text or a list of token ids; got {array.dtype}")
    if array.size and (array.min() < 0 or array.max() > np.iinfo(np.int32).max):
        raise InvalidRequest(f"token ids must be in [0, 2**31); got {array.min()}..{array.max()}")
    return array.astype(np.int32)
