"""Tiny random models for tests, in float32."""

from __future__ import annotations

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

torch.set_num_threads(1)

VOCABULARY = 96
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "initializer_range": 0.3,  # wide, so that logits are far apart
}


def config_of(name: str) -> PreTrainedConfig:
    """The configuration of one of the tiny models."""
    configs = {
        "llama": lambda: LlamaConfig(**_SIZES),
        "qwen3": lambda: Qwen3Config(**_SIZES, head_dim=16),
        "qwen2": lambda: Qwen2Config(**_SIZES),
        "mistral": lambda: MistralConfig(**_SIZES, sliding_window=16),
        "qwen3-mixed": lambda: Qwen3Config(
            **_SIZES,
            head_dim=8,
            use_sliding_window=True,
            sliding_window=16,
            layer_types=["full_attention", "sliding_attention", "full_attention"],
        ),
        "gpt2": lambda: GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=256,
            bos_token_id=None,
            eos_token_id=None,
            initializer_range=0.3,
        ),
    }
    return configs[name]()


def build(name: str, attention: str, seed: int = 0) -> PreTrainedModel:
    """A random model; the same weights for the same name and seed."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        config_of(name), dtype=torch.float32, attn_implementation=attention
    )
    return model.eval()
