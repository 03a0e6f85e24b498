"""Text written by the target itself, for its drafter to learn from."""

import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from rasd.train.batches import encode_documents
from rasd.train.text import documents, questions

ROWS = 64
NEW_TOKENS = 256
PREFIX = 64
"""Tokens of a document that the target is asked to continue."""


def load_generated(
    directory: Path,
    target: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tokens: int,
    *,
    held_out: bool,
) -> Tensor:
    """int32[n], about `tokens` long: prompts of one side of the split, and how the target goes on.

    Written once into `directory` and read from there afterwards. Held-out text is all greedy, so
    that agreement measured on it is exactly what greedy drafting meets.
    """
    path = directory / f"generated-{'out' if held_out else 'in'}.safetensors"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        asked = prompts(tokenizer, held_out=held_out)
        written = generate(target, asked, tokens, drawn=not held_out)
        save_file({"tokens": written}, path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)
    stream: Tensor = load_file(path)["tokens"]
    return stream


def prompts(tokenizer: PreTrainedTokenizerFast, *, held_out: bool) -> list[list[int]]:
    """Chat questions ready for an answer, and as many document prefixes, fixed random order."""
    asked = [
        tokenizer.apply_chat_template(
            pair.messages()[:1], add_generation_prompt=True, return_dict=False
        )
        for pair in questions(held_out=held_out)
    ]
    texts = encode_documents(tokenizer, documents(held_out=held_out))
    cut = [text[at : at + PREFIX] for text in texts for at in range(0, len(text) - PREFIX, 512)]
    mixed = _shuffled(asked)
    return _shuffled(mixed + _shuffled(cut)[: len(mixed)])


@torch.inference_mode()
def generate(
    target: LlamaForCausalLM, asked: list[list[int]], tokens: int, *, drawn: bool
) -> Tensor:
    """int32[n]: prompts with the target's answers, until `tokens` or the prompts are used up.

    Greedy; with `drawn`, every other batch at temperature 1, the two ways a target is mostly used.
    """
    torch.manual_seed(0)
    written: list[int] = []
    end = target.generation_config.eos_token_id[0]
    for number, batch in enumerate(_batches(asked)):
        if len(written) >= tokens:
            break
        rows = target.generate(
            torch.tensor(batch),
            attention_mask=torch.ones(len(batch), len(batch[0]), dtype=torch.long),
            **({"do_sample": True, "top_k": 0} if drawn and number % 2 else {"do_sample": False}),
            max_new_tokens=NEW_TOKENS,
            pad_token_id=end,
        )
        written += [token for row in rows.tolist() for token in _trimmed(row, end)]
    return torch.tensor(written, dtype=torch.int32)


def _batches(asked: list[list[int]]) -> Iterator[list[list[int]]]:
    """Batches of prompts of equal length, so that none needs padding, in a fixed random order."""
    batches: list[list[list[int]]] = []
    for _, group in groupby(sorted(asked, key=len), key=len):
        same = list(group)
        batches += [same[at : at + ROWS] for at in range(0, len(same), ROWS)]
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(1)).tolist()
    return iter([batches[i] for i in order])


def _trimmed(row: list[int], end: int) -> list[int]:
    """Without the padding, which repeats the end token."""
    while row[-2:] == [end, end]:
        row = row[:-1]
    return row


def _shuffled(rows: list[list[int]]) -> list[list[int]]:
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(2)).tolist()
    return [rows[i] for i in order]
