"""The EAGLE-2 head: one decoder layer that continues the target's features.

After Li et al. 2024 (arXiv 2401.15077, 2406.16858), with the tensor names of their published heads:
`fc.weight`, `layers.0.*`. The layer is transformers' own, without its input norm; the head has no
final norm, no embedding and no vocabulary: features go into the target's own LM head.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Cache, LlamaConfig
from transformers.masking_utils import create_causal_mask
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from rasd.errors import ModelError

# Published heads carry a copy of the target's embedding; the drafter uses the target's.
_IGNORED = frozenset({"embed_tokens.weight"})


class EagleHead(nn.Module):
    """Predicts the target's next last hidden state from its last one and the token chosen there.

    `config` describes the layer (hidden size H) in Llama's terms; `config.bias` says whether `fc`
    has one, and `config._attn_implementation` which attention runs, as in any transformers model.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        if config._attn_implementation is None:
            config._attn_implementation = "sdpa"
        size = config.hidden_size
        self.fc = nn.Linear(2 * size, size, bias=getattr(config, "bias", True))
        self.layers = nn.ModuleList([LlamaDecoderLayer(config, layer_idx=0)])
        self.layers[0].input_layernorm = nn.Identity()
        self.rotary_emb = LlamaRotaryEmbedding(config)

    def forward(
        self,
        embeds: Tensor,
        features: Tensor,
        position_ids: Tensor,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Features [B, T, H] for the positions after the given ones.

        Args:
            embeds: [B, T, H], the target's embedding of token t+1.
            features: [B, T, H], for token t the target's last hidden state after its final norm,
                or this head's own output where the target has not been yet.
            position_ids: int64[B, T], position of token t.
            past_key_values: keys and values of earlier calls, extended in place.
            attention_mask: [B, 1, T, keys] if not plainly causal. Built as transformers' models
                do otherwise, which leaves it None for an attention that needs no mask.
            kwargs: handed to the attention function.
        """
        hidden = self.fc(torch.cat((embeds, features), dim=-1))
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        output: Tensor = self.layers[0](
            hidden,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            position_embeddings=self.rotary_emb(hidden, position_ids),
            **kwargs,
        )
        return output

    @classmethod
    def load(cls, directory: str | Path, dtype: torch.dtype = torch.bfloat16) -> EagleHead:
        """Read `config.json` and `model.safetensors` of a published or our own head.

        Raises ModelError, naming the file and the tensors, if a file is absent or unreadable, or
        the tensors are not exactly the head's in name and shape.
        """
        directory = Path(directory)
        config = _load_config(directory / "config.json")
        tensors = _load_tensors(directory / "model.safetensors")
        if not hasattr(config, "bias"):
            config.bias = "fc.bias" in tensors
        head = cls(config).to(dtype)
        _check_tensors(directory, expected=head.state_dict(), found=tensors)
        head.load_state_dict(tensors)
        return head.eval()

    def save(self, directory: str | Path) -> None:
        """Write `config.json` and `model.safetensors` (bf16); each file is replaced at once."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        partial = directory / ".partial"
        weights = {k: v.to(torch.bfloat16).contiguous() for k, v in self.state_dict().items()}
        save_file(weights, partial, metadata={"format": "pt"})
        partial.chmod(0o644)
        os.replace(partial, directory / "model.safetensors")
        partial.write_text(json.dumps(self._config_json(), indent=2, sort_keys=True) + "\n")
        os.replace(partial, directory / "config.json")

    def _config_json(self) -> dict[str, Any]:
        config: dict[str, Any] = self.config.to_diff_dict()
        return {**config, "model_type": "llama", "drafter": "eagle2", "dtype": "bfloat16"}


def eagle_config(target: Any, **extra: Any) -> LlamaConfig:
    """A head's config for a target with Llama-like fields; `extra` is kept in `config.json`."""
    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_parameters",
        "bos_token_id",
        "eos_token_id",
    )
    fields = {name: getattr(target, name) for name in names}
    return LlamaConfig(num_hidden_layers=1, bias=False, **fields, **extra)


def _load_config(path: Path) -> LlamaConfig:
    try:
        config: LlamaConfig = LlamaConfig.from_dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the EAGLE head's {path}: {error}") from error
    return config


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the EAGLE head's {path}: {error}") from error
    return {name: tensor for name, tensor in tensors.items() if name not in _IGNORED}


def _check_tensors(directory: Path, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    wrong = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": sorted(
            f"{name} {tuple(found[name].shape)}, not {tuple(expected[name].shape)}"
            for name in expected.keys() & found.keys()
            if found[name].shape != expected[name].shape
        ),
    }
    if any(wrong.values()):
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in wrong.items() if names)
        raise ModelError(f"{directory} is not an EAGLE-2 head for its config: tensors {listed}")
