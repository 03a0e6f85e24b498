"""What a request asks for: how tokens are drawn, when to stop, how to speculate.

Knows no tokenizer and no model: limits that depend on them (context length, vocabulary)
are checked where those are known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from rasd.errors import InvalidRequest

Speculation = Literal["off", "draft", "prompt", "corpus", "rasd"]
SPECULATIONS: Final[tuple[str, ...]] = get_args(Speculation)

MAX_LOGPROBS: Final = 20
MAX_STOPS: Final = 16
MAX_STOP_CHARS: Final = 256
MAX_LOGIT_BIAS: Final = 1024
MAX_CHOICES: Final = 128
MAX_NODES: Final = 256
MAX_PASSAGES: Final = 256
MAX_SEED: Final = 2**63 - 1
MAX_NEW_TOKENS: Final = 2**24


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Parameters of one request; names and ranges follow the OpenAI API and vLLM.

    Attributes:
        max_tokens: new tokens at most.
        temperature: 0 is greedy.
        top_p, top_k, min_p: filters, applied after temperature in the order top-k, top-p, min-p;
            ``top_k`` 0 is off.
        presence_penalty, frequency_penalty: subtracted from logits of tokens generated so far.
        repetition_penalty: divides positive logits of tokens in prompt or output, multiplies
            negative ones.
        logit_bias: token id to a value added to its logit.
        seed: key of the noise; None draws one at admission.
        stop, stop_token_ids: strings and tokens that end the text.
        ignore_eos: go on after the model's end-of-sequence token.
        logprobs: None, or how many alternatives to report per token (0 reports the token's own).
        n: independent choices.
        speculation: which sources may propose.
        nodes: most drafted nodes per step beside the root; None takes the engine's setting.
        corpora: names of the corpora to ask; None asks all that the caller may read.
        return_origins: say which documents the accepted retrieved tokens stand in.
        passages: how many passages near the prompt are copied for it at most; None takes the
            setting.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    n: int = 1
    speculation: Speculation = "rasd"
    nodes: int | None = None
    corpora: tuple[str, ...] | None = None
    return_origins: bool = False
    passages: int | None = None

    def __post_init__(self) -> None:
        self._check_kinds()
        _check_int("max_tokens", self.max_tokens, 1, MAX_NEW_TOKENS)
        _check_float("temperature", self.temperature, 0.0, 100.0)
        _check_float("top_p", self.top_p, 0.0, 1.0, low_open=True)
        _check_int("top_k", self.top_k, 0, MAX_SEED)
        _check_float("min_p", self.min_p, 0.0, 1.0)
        _check_float("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_float("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_float("repetition_penalty", self.repetition_penalty, 0.0, 100.0, low_open=True)
        _check_int("n", self.n, 1, MAX_CHOICES)
        _check_optional_int("seed", self.seed, -MAX_SEED - 1, MAX_SEED)
        _check_optional_int("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        _check_optional_int("nodes", self.nodes, 0, MAX_NODES)
        _check_optional_int("passages", self.passages, 0, MAX_PASSAGES)
        self._check_stops()
        self._check_bias()
        if self.speculation not in SPECULATIONS:
            allowed = ", ".join(SPECULATIONS)
            raise InvalidRequest(
                f"speculation must be one of {allowed}; got {self.speculation!r}",
                param="speculation",
            )

    def _check_kinds(self) -> None:
        """Types that the checks below rely on. Lists become tuples: requests are immutable."""
        for name in ("stop", "stop_token_ids", "corpora"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
            elif not isinstance(value, tuple) and not (value is None and name == "corpora"):
                raise InvalidRequest(f"{name} must be a list; got {value!r:.80}", param=name)
        for corpus in self.corpora or ():
            if not isinstance(corpus, str):
                raise InvalidRequest(f"corpora must be names; got {corpus!r:.80}", param="corpora")
        for name in ("ignore_eos", "return_origins"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise InvalidRequest(f"{name} must be true or false; got {value!r:.80}", param=name)
        if not isinstance(self.logit_bias, dict):
            raise InvalidRequest(
                f"logit_bias must map token ids to numbers; got {self.logit_bias!r:.80}",
                param="logit_bias",
            )

    def _check_stops(self) -> None:
        _check_count("stop", len(self.stop), MAX_STOPS)
        _check_count("stop_token_ids", len(self.stop_token_ids), MAX_STOPS)
        for text in self.stop:
            if not isinstance(text, str):
                raise InvalidRequest(f"stop must be strings; got {text!r}", param="stop")
            if not 1 <= len(text) <= MAX_STOP_CHARS:
                raise InvalidRequest(
                    f"a stop string has 1 to {MAX_STOP_CHARS} characters; got {len(text)}",
                    param="stop",
                )
        for token in self.stop_token_ids:
            _check_int("stop_token_ids", token, 0, 2**31 - 1)

    def _check_bias(self) -> None:
        _check_count("logit_bias", len(self.logit_bias), MAX_LOGIT_BIAS)
        for token, bias in self.logit_bias.items():
            _check_int("logit_bias", token, 0, 2**31 - 1)
            _check_float("logit_bias", bias, -100.0, 100.0)

    @property
    def greedy(self) -> bool:
        """Whether the draw is the plain arg-max."""
        return self.temperature == 0.0

    @property
    def reshapes_logits(self) -> bool:
        """Whether logits change before temperature: penalties or bias are set."""
        return (
            self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
            or self.repetition_penalty != 1.0
            or bool(self.logit_bias)
        )


def check_passages(params: SamplingParams, by_meaning: bool) -> None:
    """Refuses passages where none can be found (`rasd.config.DenseConfig`).

    Raises:
        InvalidRequest: some are asked for.
    """
    if params.passages and not by_meaning:
        raise InvalidRequest(
            f"passages needs the setting retrieval.dense; got {params.passages}", param="passages"
        )


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"{name} must be an integer; got {value!r}", param=name)
    if not low <= value <= high:
        raise InvalidRequest(f"{name} must be between {low} and {high}; got {value}", param=name)


def _check_optional_int(name: str, value: object, low: int, high: int) -> None:
    if value is not None:
        _check_int(name, value, low, high)


def _check_float(
    name: str, value: object, low: float, high: float, *, low_open: bool = False
) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{name} must be a number; got {value!r}", param=name)
    if not math.isfinite(value):
        raise InvalidRequest(f"{name} must be finite; got {value}", param=name)
    if not low <= value <= high or (low_open and value == low):
        bound = "above" if low_open else "at least"
        raise InvalidRequest(
            f"{name} must be {bound} {low} and at most {high}; got {value}", param=name
        )


def _check_count(name: str, count: int, limit: int) -> None:
    if count > limit:
        raise InvalidRequest(f"{name} holds at most {limit} entries; got {count}", param=name)
