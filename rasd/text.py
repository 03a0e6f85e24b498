"""Text to token ids and back: prompts, chats, incremental detokenisation, stop strings.

Knows tokenizers; does not know models, sequences or HTTP. Text from outside never becomes a
control token: only the chat template and the tokenizer's own prefix (BOS) write those.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rasd.errors import InvalidRequest, ModelError
from rasd.tree import Int32s

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROLES: Final = ("system", "developer", "user", "assistant", "tool")

# A UTF-8 character has at most 4 bytes and a token at least one: what 8 tokens end with does not
# depend on the tokens before them.
_WINDOW: Final = 8
_UNDECIDED: Final = "\N{REPLACEMENT CHARACTER}"

# Whether special tokens are parsed is a switch on the shared tokenizer, not an argument of the
# backend: two threads encoding at once could read each other's setting.
_encoding = threading.Lock()


def load_tokenizer(path_or_id: str, revision: str | None = None) -> PreTrainedTokenizerFast:
    """Loads a tokenizer. Never runs code that comes with a model.

    Raises:
        ModelError: it is missing or broken, or no fast tokenizer exists for it.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            path_or_id, revision=revision, trust_remote_code=False, use_fast=True
        )
    except Exception as error:  # whatever a broken file provokes
        raise ModelError(f"cannot load the tokenizer of {path_or_id!r}: {error}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"the tokenizer of {path_or_id!r} is a {type(tokenizer).__name__}; "
            "only fast tokenizers are supported"
        )
    fast: PreTrainedTokenizerFast = tokenizer
    return fast


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 (hex) of what decides how text becomes ids; the same after saving and loading.

    Left out are settings of single calls (truncation, padding) and the prefix that is added to
    prompts, which no corpus contains.
    """
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    added = sorted((token["id"], token["content"]) for token in parts["added_tokens"])
    kept = {key: parts[key] for key in ("normalizer", "pre_tokenizer", "model")}
    canonical = json.dumps({**kept, "added": added}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> Int32s:
    """A plain prompt as the model expects it, with BOS where its tokenizer adds one.

    Names of special tokens in the text are read as text.

    Raises:
        InvalidRequest: the text holds a lone surrogate, which is no character.
    """
    _check_text("prompt", text)
    with _encoding:
        ids = tokenizer(
            text, split_special_tokens=True, return_attention_mask=False, verbose=False
        ).input_ids
    return np.asarray(ids, np.int32)


def encode_documents(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[Int32s]:
    """Documents of a corpus: without BOS, and names of special tokens read as text.

    All of them at once, on as many threads as the tokenizer takes; prompts wait meanwhile.

    Raises:
        InvalidRequest: a text holds a lone surrogate, which is no character.
    """
    for text in texts:
        _check_text("document", text)
    backend: Any = tokenizer.backend_tokenizer
    with _encoding:
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        # Without offsets, which nobody asks for: a third faster than through the wrapper.
        encodings = backend.encode_batch_fast([*texts], add_special_tokens=False)
    return [np.asarray(encoding.ids, np.int32) for encoding in encodings]


def encode_chat(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Mapping[str, str]]
) -> Int32s:
    """A conversation through the model's chat template, ready for the assistant's turn.

    The template's markup becomes control tokens; names of special tokens inside messages are
    read as text.

    Raises:
        InvalidRequest: a role or content is wrong, or the model cannot chat; the message says
            which.
    """
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        raise InvalidRequest("this model has no chat template", param="messages")
    checked = [_check_message(i, message) for i, message in enumerate(messages)]
    try:
        with _encoding:
            ids = tokenizer.apply_chat_template(
                checked,
                add_generation_prompt=True,
                sanitize_control_tokens=True,
                return_dict=False,
            )
    except (TemplateError, ValueError, NotImplementedError) as error:
        raise InvalidRequest(f"the chat template refuses: {error}", param="messages") from error
    return np.asarray(ids, np.int32)


def _check_message(index: int, message: Mapping[str, str]) -> dict[str, str]:
    role, content = message.get("role"), message.get("content")
    # Templates may build markup from the role, so it must come from a known set.
    if role not in ROLES:
        raise InvalidRequest(
            f"messages[{index}].role must be one of {', '.join(ROLES)}; got {role!r}",
            param="messages",
        )
    if not isinstance(content, str):
        raise InvalidRequest(
            f"messages[{index}].content must be a string; got {type(content).__name__}",
            param="messages",
        )
    _check_text(f"messages[{index}].content", content)
    return {"role": role, "content": content}


def _check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{name} holds a lone surrogate at character {error.start}", param=name.split("[")[0]
        ) from error


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What a push brought.

    Attributes:
        text: characters that are decided now; may be empty while some are held back.
        stopped: a stop string was completed; the text ended before it, and nothing follows.
        tokens: how many of the pushed tokens belong to the answer: all of them, or those up to
            the one that completed the stop string.
    """

    text: str
    stopped: bool
    tokens: int


class TextStream:
    """Turns the tokens of one answer into text, a push at a time, in time linear in its tokens.

    All texts together are what the tokenizer decodes from all tokens at once without special
    ones. (Tokenizers with byte fallback decode ill-formed byte runs as a whole; there a run may
    come out with other replacement characters.) Held back are incomplete characters, and what
    may become a stop string. The stop string completed first wins; among those the longest.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stop: tuple[str, ...] = ()) -> None:
        self._decode = tokenizer.backend_tokenizer.decode
        self._special = frozenset(
            token for token, added in tokenizer.added_tokens_decoder.items() if added.special
        )
        self._known = len(tokenizer)
        self._stop = stop
        self._window: list[int] = []
        self._emitted = 0  # characters of the decoded window that are out already
        self._held = ""  # complete characters that may begin a stop string
        self._stopped = False

    def push(self, tokens: Sequence[int], *, final: bool) -> TextDelta:
        """Adds tokens; with ``final`` gives out everything that was held back."""
        if self._stopped:
            return TextDelta("", True, 0)
        if not self._stop:
            return TextDelta(self._characters(tokens, final=final), False, len(tokens))
        out: list[str] = []
        for count in range(1, len(tokens) + 1):
            text, stopped = self._before_stop(self._characters(tokens[count - 1 : count]))
            out.append(text)
            if stopped:
                return TextDelta("".join(out), True, count)
        stopped = False
        if final:
            text, stopped = self._before_stop(self._characters((), final=True))
            out += [text] if stopped else [text, self._held]
            self._held = ""
        return TextDelta("".join(out), stopped, len(tokens))

    def _characters(self, tokens: Sequence[int], *, final: bool = False) -> str:
        """The characters that ``tokens`` complete."""
        # What decodes to nothing must not push undecided bytes out of the window.
        self._window += [
            int(token) for token in tokens if token not in self._special and token < self._known
        ]
        text: str = self._decode(self._window, skip_special_tokens=True)
        # Later bytes can only change replacement characters at the very end: one for an incomplete
        # character, or with byte fallback one for each of its bytes, which are at most three.
        undecided = 0 if final else len(text[-3:]) - len(text[-3:].rstrip(_UNDECIDED))
        new = text[self._emitted : len(text) - undecided]
        self._emitted += len(new)
        if len(self._window) > _WINDOW:
            # Decoders that treat the start of a text differently need some tokens as context.
            self._window = self._window[-_WINDOW:]
            kept = self._decode(self._window, skip_special_tokens=True)
            self._emitted = len(kept) - undecided
        return new

    def _before_stop(self, new: str) -> tuple[str, bool]:
        """What can be given out of the held characters and ``new``, and whether it ends there."""
        text = self._held + new
        ends = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if ends:
            self._stopped = True
            return text[: min(ends)[1]], True
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``; ``stop`` is not in ``text``."""
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0:
        if stop.startswith(text[at:]):
            return len(text) - at
        at = text.find(stop[0], at + 1)
    return 0
