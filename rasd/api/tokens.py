"""Single tokens as text and bytes, for the log-probabilities of both endpoints."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_BYTE_FALLBACK: Final = re.compile(r"<0x([0-9A-F]{2})>")


def _alphabet() -> dict[str, int]:
    """The characters byte-level tokenizers write bytes as (GPT-2's table)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {
        chr(0x100 + i): byte for i, byte in enumerate(hidden)
    }


_ALPHABET: Final = _alphabet()


class TokenTexts:
    """What each token of a vocabulary stands for."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._name = tokenizer.backend_tokenizer.id_to_token
        added = tokenizer.added_tokens_decoder
        self._added = frozenset(added)
        self._special = frozenset(token for token in added if added[token].special)
        decoder = tokenizer.backend_tokenizer.decoder
        self._byte_level = decoder is not None and b'"ByteLevel"' in decoder.__getstate__()
        self._known: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        """The bytes a token adds to a text; the name of a special token; nothing if unknown."""
        if token not in self._known:
            self._known[token] = self._read(token)
        return self._known[token]

    def text_of(self, token: int) -> str:
        """The token as text; bytes that are no whole characters as ``bytes:\\xe4\\xbd``."""
        raw = self.bytes_of(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def _read(self, token: int) -> bytes:
        name: str | None = self._name(token)
        if name is None or token in self._added:
            return (name or "").encode()
        if self._byte_level and all(mark in _ALPHABET for mark in name):
            return bytes(_ALPHABET[mark] for mark in name)
        byte = _BYTE_FALLBACK.fullmatch(name)
        return bytes.fromhex(byte[1]) if byte else name.replace("\u2581", " ").encode()

    def is_special(self, token: int) -> bool:
        """Whether the token never shows in a text."""
        return token in self._special


class Offsets:
    """Where each token of one choice begins in its text, in characters."""

    def __init__(self, texts: TokenTexts) -> None:
        self._texts = texts
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._characters = 0

    def next(self, token: int) -> int:
        """The offset of ``token``, which follows those asked before."""
        offset = self._characters
        if not self._texts.is_special(token):
            self._characters += len(self._decoder.decode(self._texts.bytes_of(token)))
        return offset
