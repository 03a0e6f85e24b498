"""Token streams of the training mix, and random windows of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rasd.train.text import Document, Question, documents, questions

SYSTEM_PROMPT = "You are a helpful assistant."


@dataclass(frozen=True)
class Corpus:
    """One side of the split as two token streams, int32[n]: whole documents, and chats."""

    documents: Tensor
    chats: Tensor

    def windows(
        self, rows: int, length: int, chat_share: float, generator: torch.Generator
    ) -> Tensor:
        """int64[rows, length]: windows at random offsets, `chat_share` of them from chats."""
        from_chat = torch.rand(rows, generator=generator) < chat_share
        streams = [self.chats if chat else self.documents for chat in from_chat.tolist()]
        return torch.stack([random_window(stream, length, generator) for stream in streams]).long()


def load_corpus(tokenizer: PreTrainedTokenizerFast, *, held_out: bool) -> Corpus:
    """Tokenise one side of the split (seconds for the held-in side)."""
    pairs = questions(held_out=held_out)
    return Corpus(
        _join(encode_documents(tokenizer, documents(held_out=held_out))),
        _join(encode_chats(tokenizer, conversations(pairs))),
    )


def encode_documents(
    tokenizer: PreTrainedTokenizerFast, docs: Iterable[Document]
) -> list[list[int]]:
    """BOS, the text, and the end token, for each document."""
    texts = [doc.text for doc in docs]
    ids = tokenizer(texts, verbose=False, return_attention_mask=False)["input_ids"]
    return [[*row, tokenizer.eos_token_id] for row in ids]


def encode_chats(
    tokenizer: PreTrainedTokenizerFast, chats: Sequence[Sequence[dict[str, str]]]
) -> list[list[int]]:
    """Each conversation through the tokenizer's chat template."""
    texts = tokenizer.apply_chat_template([list(chat) for chat in chats], tokenize=False)
    ids = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return [list(row) for row in ids]


def conversations(pairs: Sequence[Question]) -> list[list[dict[str, str]]]:
    """Chats of one to three turns in a fixed shuffled order, every tenth with a system message."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist()
    chats: list[list[dict[str, str]]] = []
    while order:
        turns = (1, 1, 2, 3)[len(chats) % 4]
        picked, order = order[:turns], order[turns:]
        chat = [message for i in picked for message in pairs[i].messages()]
        if len(chats) % 10 == 0:
            chat.insert(0, {"role": "system", "content": SYSTEM_PROMPT})
        chats.append(chat)
    return chats


def random_window(stream: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """`length` tokens of a stream from a random offset."""
    start = int(torch.randint(0, len(stream) - length + 1, (), generator=generator))
    return stream[start : start + length]


def fixed_windows(stream: Tensor, length: int, rows: int) -> Tensor:
    """int64[<=rows, length]: windows spread evenly over a stream, the same on every call."""
    rows = min(rows, len(stream) // length)
    starts = torch.linspace(0, len(stream) - length, rows).long().tolist()
    return torch.stack([stream[start : start + length] for start in starts]).long()


def _join(rows: Iterable[Sequence[int]]) -> Tensor:
    return torch.tensor([token for row in rows for token in row], dtype=torch.int32)
