"""Text in, text out: everything between a checked request and the engine, for any front end."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from rasd.api.answers import code_of
from rasd.api.auth import LOCAL, Caller
from rasd.api.choice import Piece, Run, merge, pieces_of
from rasd.api.gate import Gate
from rasd.api.intake import Intake
from rasd.api.metrics import Metrics
from rasd.api.names import Look, Names
from rasd.api.origins import Resolve
from rasd.api.protocol import Ask, Conversation, Prompts
from rasd.api.results import Result, collect
from rasd.api.tokens import TokenTexts
from rasd.config import AppConfig
from rasd.engine.api import EngineClient, Request
from rasd.errors import InvalidRequest, NotFound, Unavailable, UnsupportedParameter
from rasd.params import MAX_SEED, SamplingParams, check_passages
from rasd.stages import TargetInfo
from rasd.tree import CORPUS, USES, Int32s

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("rasd.api")

_PARAMETERS: Final = frozenset(SamplingParams.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Job:
    """A request that can run: tokenised, within every limit, and with its rights resolved.

    ``asks_corpora``: it reads some, and it and the settings let them propose.
    """

    request_id: str
    prompts: list[Int32s]
    params: list[SamplingParams]
    arrived: float
    tenant: str = ""
    asks_corpora: bool = False

    @property
    def choices(self) -> int:
        """Sequences it runs."""
        return sum(params.n for params in self.params)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts; each counts once, however many choices continue it."""
        return sum(map(len, self.prompts))


class TextService:
    """One service. Belongs to the event loop it is used on.

    Args:
        engine: generates tokens; its restarts are its own business.
        tokenizer: of the target.
        config: names, limits, and which sources there are.
        info: what the target can hold.
        corpora: names of the corpora there are now; asked for every request.
        resolve: finds ids of documents, for requests that ask what they quote.
        by_meaning: whether passages near a prompt can be copied (`rasd.config.DenseConfig`).
        look: asks what corpora there are, for requests that name others; see `Names`.
    """

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: PreTrainedTokenizerFast,
        config: AppConfig,
        info: TargetInfo,
        corpora: Callable[[], Iterable[str]] = tuple,
        resolve: Resolve | None = None,
        by_meaning: bool = False,
        look: Look | None = None,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.config = limits = config.router
        self.intake = Intake(tokenizer, info)
        self.corpora = corpora
        self.resolve = resolve
        self.by_meaning = by_meaning
        self._names = None if look is None else Names(look)
        self._uses = USES[config.speculation.mode]
        self.created = int(time.time())
        self.texts = TokenTexts(tokenizer)
        self.gate = Gate(limits.max_running, limits.max_queued, limits.queue_deadline_s)
        self.metrics = Metrics(limits.served_model_name, engine.gauges, lambda: self.gate.waiting)
        self._draining = False
        self._sequences = itertools.count(1)

    # --- state ----------------------------------------------------------------------------------

    @property
    def not_ready(self) -> str | None:
        """Why a request sent now would not start; None if it would."""
        if self._draining:
            return "the service is draining"
        return None if self.engine.ready else "the engine is starting or restarting"

    @property
    def ready(self) -> bool:
        """Whether a request sent now would start."""
        return self.not_ready is None

    def begin_drain(self) -> None:
        """From now on new requests are refused; those running or queued go on."""
        self._draining = True

    async def drain(self, deadline_s: float) -> bool:
        """Refuses new requests and waits for the others. False if some remain."""
        self.begin_drain()
        try:
            async with asyncio.timeout(deadline_s):
                await self.gate.idle()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Ends the helper thread. The engine is its owner's to close."""
        self.intake.close()

    # --- for Python -----------------------------------------------------------------------------

    async def generate(
        self, prompt: str | Sequence[int] | Sequence[dict[str, str]], **params: Any
    ) -> Result:
        """Text for a prompt: a string, token ids, or messages with ``role`` and ``content``.

        ``params`` are fields of `SamplingParams`. The caller is trusted to read every corpus.
        """
        job = await self.prepare(_ask(prompt, params), LOCAL)
        return await collect(self.run(job), job.choices)

    async def stream(
        self, prompt: str | Sequence[int] | Sequence[dict[str, str]], **params: Any
    ) -> AsyncGenerator[Piece, None]:
        """As `generate`, a piece at a time. Closing the generator cancels the request."""
        job = await self.prepare(_ask(prompt, params), LOCAL)
        async with aclosing(self.run(job)) as pieces:
            async for piece in pieces:
                yield piece

    # --- the way of a request -------------------------------------------------------------------

    def check_model(self, model: str) -> None:
        """Refuses names of models that are not served here.

        Raises:
            NotFound: naming the one that is.
        """
        served = self.config.served_model_name
        if model != served:
            raise NotFound(
                f"the model {model!r:.100} does not exist; this server has {served!r}",
                param="model",
            )

    async def prepare(self, ask: Ask, caller: Caller, request_id: str | None = None) -> Job:
        """Checks what depends on the model, the load and the caller, and tokenises.

        Raises:
            Unavailable: the service drains, or nobody says whether there is a corpus.
            Overloaded: it has no room, so no work is done.
            InvalidRequest, Forbidden, NotFound: the request is at fault.
        """
        self._check_open()
        arrived = time.monotonic()
        choices = ask.params.n * _count(ask.prompts)
        if choices > self.config.max_choices:
            raise InvalidRequest(
                f"n times the number of prompts must be at most {self.config.max_choices}; "
                f"got {choices}",
                param="n",
            )
        self.gate.refuse_if_full(choices)
        self.intake.check_ids("logit_bias", ask.params.logit_bias)
        self.intake.check_ids("stop_token_ids", ask.params.stop_token_ids)
        check_passages(ask.params, self.by_meaning)
        corpora = await self._corpora_of(ask.params.corpora, caller)
        resolved = replace(ask.params, corpora=corpora)
        prompts = await self.intake.encode(ask.prompts)
        named = "messages" if isinstance(ask.prompts, Conversation) else "prompt"
        params = [
            _seeded(self.intake.clip(resolved, len(ids), lower=ask.clip, param=named))
            for ids in prompts
        ]
        request_id = request_id or secrets.token_hex(16)
        asks = bool(corpora) and bool(USES[resolved.speculation] & self._uses & CORPUS)
        return Job(request_id, prompts, params, arrived, caller.tenant, asks)

    async def run(self, job: Job) -> AsyncGenerator[Piece, None]:
        """Waits for slots, then yields pieces until every choice has its ``finish``.

        Closing the generator, or cancelling whoever waits in it, cancels all sequences.

        Raises:
            Overloaded, DeadlineExceeded, Unavailable: it was not started.
            DeadlineExceeded, ServerError, Unavailable: it failed on the way.
        """
        try:
            # A drain may have begun, and ended, since `prepare`.
            self._check_open()
            async with self.gate.slots_for(job.choices):
                self.metrics.admitted(job.prompt_tokens, time.monotonic() - job.arrived)
                async with aclosing(merge(self._sources(job))) as pieces:
                    async for piece in pieces:
                        yield piece
        except (asyncio.CancelledError, GeneratorExit):
            self.metrics.failed("cancelled")
            raise
        except Exception as error:
            self.metrics.failed(code_of(error))
            raise
        self.metrics.completed(time.monotonic() - job.arrived)

    def _check_open(self) -> None:
        if self._draining:
            raise Unavailable("the service is draining and takes no new requests")

    async def _corpora_of(self, asked: Sequence[str] | None, caller: Caller) -> tuple[str, ...]:
        """What a request reads. Whoever names what is not known here waits until it is found."""
        known = frozenset(self.corpora())
        try:
            return caller.resolve(asked, known)
        except NotFound:
            if self._names is None or asked is None:
                raise
        return caller.resolve(asked, known | await self._names.find(frozenset(asked) - known))

    def _sources(self, job: Job) -> list[AsyncGenerator[Piece, None]]:
        limit = self.config.run_deadline_s
        run = Run(
            job.request_id,
            self.engine,
            self.tokenizer,
            self.metrics,
            job.arrived,
            asyncio.get_running_loop().time() + limit,
            limit,
            self.resolve,
        )
        requests = [
            Request(next(self._sequences), prompt, params, choice, tenant=job.tenant)
            for prompt, params in zip(job.prompts, job.params, strict=True)
            for choice in range(params.n)
        ]
        # Engine and target log sequence numbers: this line says whose they are.
        log.info("request %s is sequences %s", job.request_id, [r.sequence for r in requests])
        return [pieces_of(run, request, i) for i, request in enumerate(requests)]


def _seeded(params: SamplingParams) -> SamplingParams:
    """With a seed of its own where the request names none."""
    return params if params.seed is not None else replace(params, seed=secrets.randbelow(MAX_SEED))


def _count(prompts: Prompts | Conversation) -> int:
    return 1 if isinstance(prompts, Conversation) else len(prompts)


def _ask(prompt: object, params: dict[str, Any]) -> Ask:
    unknown = sorted(params.keys() - _PARAMETERS)
    if unknown:
        raise UnsupportedParameter(f"unknown parameter {unknown[0]!r}", param=unknown[0])
    sampling = SamplingParams(**params)
    clip = "max_tokens" not in params
    if isinstance(prompt, str):
        return Ask([prompt], sampling, clip)
    items = list(prompt) if isinstance(prompt, Sequence) else []
    if items and all(isinstance(item, dict) for item in items):
        return Ask(Conversation(items), sampling, clip)
    if all(isinstance(item, int) for item in items):
        return Ask([items], sampling, clip)
    raise InvalidRequest("the prompt must be a string, token ids or messages", param="prompt")
