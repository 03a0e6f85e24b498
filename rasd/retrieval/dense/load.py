"""Makes the embedder that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rasd.retrieval.dense.embed import Embedder, TokenMean
from rasd.retrieval.dense.index import DIMENSION
from rasd.retrieval.dense.matrix import read_embeddings, reduced
from rasd.retrieval.dense.sentence import SentenceEmbedder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKENS = "tokens"


def load_embedder(
    name: str, model: str, revision: str | None, tokenizer: PreTrainedTokenizerFast
) -> Embedder:
    """``tokens`` for the token embeddings of the target ``model``, else `SentenceEmbedder`.

    Args:
        tokenizer: the target's, for an embedder that reads text.

    Raises:
        ModelError: the target has no embeddings that can be read.
        ConfigError: no such model, or sentence-transformers is missing.
    """
    if name == TOKENS:
        return TokenMean(reduced(read_embeddings(model, revision), DIMENSION))
    return SentenceEmbedder(name, tokenizer)
