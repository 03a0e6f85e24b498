"""The target's recipe: the shipped one grown to 15M parameters, then trained on the four tasks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.models.grow import add_noise, grow
from benchmarks.models.sources import code_documents
from benchmarks.models.tasks import TASKS, Example, examples
from rasd.config import EMBEDDED
from rasd.train.batches import encode_documents
from rasd.train.files import staged
from rasd.train.loop import Plan, State, train
from rasd.train.optimizers import make_optimizers
from rasd.train.target import export_target, target_config

WINDOW: Final = 640
ROWS: Final = 4
SHARES: Final = {"general": 0.1, "code": 0.2, "docqa": 0.25, "summary": 0.2, "indomain": 0.25}
"""Of the rows of a batch; a row holds text of one kind."""
ANSWER, PROMPT, GENERAL = 1.0, 0.0, 0.5
"""Weights of a token's loss by where it stands."""
MISSES: Final = 4
"""Draws that do not fit before a row is taken as full."""
HELD_OUT_ROWS: Final = 4
LEARNING_RATE: Final = 3e-3
POSITIONS: Final = 16384


@dataclass(frozen=True)
class Stream:
    """Chats or pieces of documents one after the other.

    Attributes:
        tokens: int32[n]. weights: float32[n], of each token's loss.
        starts: int64[m + 1], where each begins, and the end.
    """

    tokens: Tensor
    weights: Tensor
    starts: Tensor

    def window(self, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """At most `length` tokens and weights: random rows as long as what is drawn fits."""
        tokens, weights, left, misses = [], [], length, 0
        while misses < MISSES:
            pick = int(torch.randint(0, len(self.starts) - 1, (), generator=generator))
            part = slice(int(self.starts[pick]), int(self.starts[pick + 1]))
            if part.stop - part.start > left:
                misses += 1
                continue
            tokens.append(self.tokens[part])
            weights.append(self.weights[part])
            left -= len(tokens[-1])
        return torch.cat(tokens), torch.cat(weights)


def mix_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Shape of the target: 15M parameters, 64 wide heads as in large models."""
    return target_config(
        tokenizer,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=POSITIONS,
    )


class MixTask:
    """Weighted next-token loss on rows of tasks and of general code."""

    def __init__(
        self, model: LlamaForCausalLM, held_in: dict[str, Stream], held_out: dict[str, Stream]
    ) -> None:
        self.module: nn.Module = model
        self._model, self._streams = model, held_in
        self.optimizers = make_optimizers(model, LEARNING_RATE)
        self._held_out = {
            kind: _rows([stream] * HELD_OUT_ROWS, torch.Generator().manual_seed(0))
            for kind, stream in held_out.items()
        }

    def loss(self, generator: torch.Generator) -> tuple[Tensor, int]:
        """Weighted mean of cross-entropies (nats) over a batch, and the batch's tokens."""
        shares = torch.tensor([SHARES[kind] for kind in self._streams])
        picked = torch.multinomial(shares, ROWS, replacement=True, generator=generator)
        streams = list(self._streams.values())
        tokens, weights = _rows([streams[i] for i in picked.tolist()], generator)
        losses = functional.cross_entropy(*self._scored(tokens, weights), reduction="none")
        weights = weights[weights > 0]
        return (losses * weights).sum() / weights.sum(), tokens.numel()

    def evaluate(self) -> dict[str, float]:
        """Share of answer tokens, or of all of general text, that the model would have chosen."""
        numbers = {}
        for kind, (tokens, weights) in self._held_out.items():
            logits, goal = self._scored(tokens, weights)
            numbers[kind] = (logits.argmax(-1) == goal).float().mean().item()
        return numbers

    def _scored(self, tokens: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [n, V] and tokens [n] where the loss has a weight; nothing else is computed."""
        scored = weights > 0
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self._model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
            logits = self._model.lm_head(hidden[scored])
        return logits.float(), tokens[:, 1:][scored]


def train_target(plan: Plan, export: Path) -> State:
    """Grow the shipped target and train it; `export` follows every checkpoint."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "target")
    small = LlamaForCausalLM.from_pretrained(EMBEDDED / "target", dtype=torch.float32)
    model = grow(small, mix_config(tokenizer), plan.seed)
    add_noise(model, small.config.hidden_size, plan.seed)
    sides = [load_streams(tokenizer, plan.directory, held_out=side) for side in (False, True)]
    task = MixTask(model, *sides)
    return train(task, plan, lambda _: export_target(model, tokenizer, export))


def load_streams(
    tokenizer: PreTrainedTokenizerFast, directory: Path, *, held_out: bool
) -> dict[str, Stream]:
    """Everything of one side, tokenised once and then read from `directory`."""
    place = directory / ("text-out" if held_out else "text-in")
    if not place.exists():
        rows = {task: _chats(tokenizer, examples(task, held_out=held_out)) for task in TASKS}
        documents = encode_documents(tokenizer, code_documents(held_out=held_out))
        rows["general"] = [piece for ids in documents for piece in _pieces(ids)]
        with staged(place) as staging:
            for kind, encoded in rows.items():
                save_file(vars(_stream(encoded)), staging / f"{kind}.safetensors")
    return {kind: Stream(**load_file(place / f"{kind}.safetensors")) for kind in SHARES}


def _chats(
    tokenizer: PreTrainedTokenizerFast, found: list[Example]
) -> list[tuple[list[int], list[float]]]:
    """Ids and loss weights of each chat."""
    asked = [[e.messages()[0]] for e in found]
    heads = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    tails = [e.answer + tokenizer.eos_token for e in found]
    encode = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    pairs = zip(
        tokenizer(heads, **encode)["input_ids"],
        tokenizer(tails, **encode)["input_ids"],
        strict=True,
    )
    return [
        ([*head, *tail], [PROMPT] * len(head) + [ANSWER] * len(tail))
        for head, tail in pairs
        if len(head) + len(tail) <= WINDOW
    ]


def _stream(rows: list[tuple[list[int], list[float]]]) -> Stream:
    lengths = torch.tensor([0] + [len(ids) for ids, _ in rows])
    return Stream(
        torch.tensor([token for ids, _ in rows for token in ids], dtype=torch.int32),
        torch.tensor([weight for _, weights in rows for weight in weights]),
        lengths.cumsum(0),
    )


def _pieces(ids: list[int]) -> list[tuple[list[int], list[float]]]:
    """A document in pieces of a window, all of equal weight."""
    cut = [ids[at : at + WINDOW] for at in range(0, len(ids), WINDOW)]
    return [(piece, [GENERAL] * len(piece)) for piece in cut]


def _rows(streams: list[Stream], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """int64[rows, n] tokens, n <= WINDOW; float32[rows, n - 1], a weight for each but the first.

    Short rows are filled with token 0 and no weight.
    """
    picked = [stream.window(WINDOW, generator) for stream in streams]
    tokens = pad_sequence([tokens for tokens, _ in picked], batch_first=True).long()
    return tokens, pad_sequence([weights for _, weights in picked], batch_first=True)[:, 1:]
