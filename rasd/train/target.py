"""The embedded target: a 5.7M parameter Llama trained on the standard library's source."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rasd.train.batches import Corpus, fixed_windows, load_corpus
from rasd.train.files import staged
from rasd.train.loop import Plan, State, train
from rasd.train.optimizers import make_optimizers
from rasd.train.tokenizer import MAX_LENGTH, save_tokenizer

WINDOW = 1024
ROWS = 8
CHAT_SHARE = 0.2
HELD_OUT_ROWS = 24
LEARNING_RATE = 4e-3


def target_config(tokenizer: PreTrainedTokenizerFast, **shape: int) -> LlamaConfig:
    """Shape of the embedded target for this tokenizer's vocabulary; ``shape`` changes parts of it,
    by the names of `LlamaConfig`."""
    sizes = {
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": MAX_LENGTH,
        **shape,
    }
    return LlamaConfig(
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        **sizes,
    )


class TargetTask:
    """Next-token loss on random windows; Muon for the matrices, AdamW for everything else."""

    def __init__(
        self, model: LlamaForCausalLM, held_in: Corpus, held_out: Corpus, window: int = WINDOW
    ) -> None:
        self.module: nn.Module = model
        self._model, self._held_in, self._window = model, held_in, window
        self.optimizers = make_optimizers(model, LEARNING_RATE)
        self._held_out = {
            "documents": fixed_windows(held_out.documents, window + 1, HELD_OUT_ROWS),
            "chats": fixed_windows(held_out.chats, window + 1, HELD_OUT_ROWS),
        }

    def loss(self, generator: torch.Generator) -> tuple[Tensor, int]:
        """Mean cross-entropy (nats per token) of one batch, and its number of tokens."""
        windows = self._held_in.windows(ROWS, self._window + 1, CHAT_SHARE, generator)
        return self._cross_entropy(windows), ROWS * self._window

    def evaluate(self) -> dict[str, float]:
        """Nats per token on fixed held-out windows, for documents and for chats."""
        return {name: self._mean_loss(rows) for name, rows in self._held_out.items()}

    def _mean_loss(self, rows: Tensor) -> float:
        parts = torch.split(rows, ROWS)
        return sum(float(self._cross_entropy(part)) * len(part) for part in parts) / len(rows)

    def _cross_entropy(self, windows: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self._model.model(input_ids=windows[:, :-1], use_cache=False).last_hidden_state
            logits = self._model.lm_head(hidden)
        return functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


def train_target(tokenizer: PreTrainedTokenizerFast, plan: Plan, export: Path) -> State:
    """Train the embedded target and keep `export` up to date with every checkpoint."""
    torch.manual_seed(plan.seed)
    model = LlamaForCausalLM(target_config(tokenizer))
    held_in, held_out = (load_corpus(tokenizer, held_out=side) for side in (False, True))
    task = TargetTask(model, held_in, held_out)
    return train(task, plan, on_save=lambda _: export_target(model, tokenizer, export))


def export_target(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path
) -> None:
    """Write the model in bf16 and its tokenizer in Hugging Face layout."""
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=[tokenizer.eos_token_id]
    )
    with staged(directory) as staging:
        copy.to(torch.bfloat16).save_pretrained(staging)
        save_tokenizer(tokenizer, staging)
