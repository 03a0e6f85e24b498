"""Passages embedded by a model of sentence-transformers, for those who name one."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rasd.errors import ConfigError
from rasd.retrieval.dense.embed import Float32s, Spans, normalised

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_BATCH: Final = 64


class SentenceEmbedder:
    """Reads text: tokens are turned back first. Some hundred passages per second on a CPU."""

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerFast) -> None:
        """Loads a model, by directory or hub id, onto the CPU.

        Raises:
            ConfigError: it cannot be loaded, or sentence-transformers is not installed.
        """
        try:
            library = importlib.import_module("sentence_transformers")
        except ImportError as error:
            raise ConfigError(
                f"embedder {name!r} needs sentence-transformers: "
                "pip install sentence-transformers; or set embedder: tokens"
            ) from error
        try:
            self._model: Any = library.SentenceTransformer(name, device="cpu")
        except Exception as error:  # it raises whatever its parts do
            raise ConfigError(f"embedder {name!r} cannot be loaded: {error}") from error
        self.name = name
        self.dimension = len(self._model.encode(["x"])[0])
        self._tokenizer = tokenizer

    def fitted(self, samples: Sequence[Spans]) -> SentenceEmbedder:
        """Itself: it was trained on other texts."""
        return self

    def embed(self, spans: Spans) -> Float32s:
        """See `rasd.retrieval.dense.embed.Embedder`. Special tokens are left out."""
        pairs = zip(spans.starts.tolist(), spans.ends.tolist(), strict=True)
        known = len(self._tokenizer)
        pieces = [spans.tokens[start:end] for start, end in pairs]
        texts = [
            self._tokenizer.decode(piece[piece < known].tolist(), skip_special_tokens=True)
            for piece in pieces
        ]
        rows = np.asarray(
            self._model.encode(texts, batch_size=_BATCH, show_progress_bar=False), np.float32
        )
        return normalised(rows.reshape(-1, self.dimension))
