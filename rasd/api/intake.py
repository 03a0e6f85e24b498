"""Prompts on their way in: tokenised off the event loop, and held to what the model can take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rasd.api.protocol import Conversation, Prompts
from rasd.errors import InvalidRequest
from rasd.params import SamplingParams
from rasd.stages import TargetInfo
from rasd.text import encode, encode_chat
from rasd.tree import Int32s

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Intake:
    """Knows the tokenizer, and the target's vocabulary and context.

    ``context`` is how many tokens a prompt and its answer may have together.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, info: TargetInfo) -> None:
        slots = info.kv_slots // info.page_size * info.page_size
        # The last token drawn is never fed back, so it takes no slot.
        self.context = min(info.max_positions, slots + 1)
        self._vocabulary = info.vocabulary
        self._tokenizer = tokenizer
        self._longest = max(map(len, tokenizer.get_vocab()))
        # Encoding takes a lock; more threads would only wait for each other.
        self._thread = ThreadPoolExecutor(1, "rasd-encode")

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def encode(self, prompts: Prompts | Conversation) -> list[Int32s]:
        """Token ids of every prompt.

        Raises:
            InvalidRequest: one is empty, certainly too long, or holds what is no token or text.
        """
        if isinstance(prompts, Conversation):
            messages = prompts.messages
            self._check_length(sum(len(message["content"]) for message in messages), "messages")
            return [await self._in_thread(encode_chat, messages)]
        return [await self._encode_one(prompt) for prompt in prompts]

    def check_ids(self, name: str, ids: Iterable[int]) -> None:
        """Refuses ids that the target does not have.

        Raises:
            InvalidRequest: naming the first.
        """
        for token in ids:
            if not 0 <= token < self._vocabulary:
                raise InvalidRequest(
                    f"{name} must hold token ids from 0 to {self._vocabulary - 1}; got {token}",
                    param=name,
                )

    def clip(
        self, params: SamplingParams, prompt: int, *, lower: bool, param: str = "prompt"
    ) -> SamplingParams:
        """Parameters for a prompt of so many tokens, which came as ``param``.

        ``lower`` takes ``max_tokens`` down to what the context leaves, else it is refused.

        Raises:
            InvalidRequest: prompt and answer do not fit into the context.
        """
        left = self.context - prompt
        if left < 1:
            raise self._too_long(f"{prompt} tokens", param)
        if params.max_tokens > left and not lower:
            raise InvalidRequest(
                f"the prompt's {prompt} tokens and max_tokens {params.max_tokens} are "
                f"{prompt + params.max_tokens} in all; the context is {self.context} tokens",
                param="max_tokens",
            )
        return replace(params, max_tokens=min(params.max_tokens, left))

    async def _encode_one(self, prompt: str | list[int]) -> Int32s:
        if not prompt:
            raise InvalidRequest("the prompt must not be empty; got 0 tokens", param="prompt")
        if isinstance(prompt, str):
            self._check_length(len(prompt), "prompt")
            return await self._in_thread(encode, prompt)
        if len(prompt) >= self.context:
            raise self._too_long(f"{len(prompt)} tokens", "prompt")
        self.check_ids("prompt", prompt)
        return np.asarray(prompt, np.int32)

    async def _in_thread(self, work: Callable[[Any, Any], Int32s], text: object) -> Int32s:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, self._tokenizer, text)

    def _check_length(self, characters: int, param: str) -> None:
        # No token is longer than the longest: what cannot fit is refused before it is encoded.
        least = characters // self._longest
        if least >= self.context:
            raise self._too_long(f"{characters} characters, at least {least} tokens", param)

    def _too_long(self, size: str, param: str) -> InvalidRequest:
        return InvalidRequest(
            f"the prompt has {size}; the context is {self.context} tokens, "
            "of which one must be left for the answer",
            param=param,
        )
