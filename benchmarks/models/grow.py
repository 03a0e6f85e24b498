"""Make a trained Llama wider and deeper so that it starts out computing what it computed.

The shipped target knows Python already; a larger one that begins as its equal saves the hours that
took. Unlike `benchmarks.enlarge`, what is added is there to be trained: the new channels are empty
but readable, new heads and units look at the text but do not speak yet.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from rasd.draft.eagle_head import EagleHead

NOISE = 0.02
"""Standard deviation of the new weights, as in a fresh Llama."""


def grow(small: LlamaForCausalLM, config: LlamaConfig, seed: int = 0) -> LlamaForCausalLM:
    """A float32 model of `config`'s shape with the logits of `small`.

    `config` has at least as many channels, layers, heads and units, the same heads per key-value
    head, and tied embeddings. New layers are spread between the old ones.
    """
    torch.manual_seed(seed)
    large = LlamaForCausalLM(config).float()
    old, new = small.float().state_dict(), large.state_dict()
    scale = math.sqrt(config.hidden_size / small.config.hidden_size)
    for name, tensor in new.items():
        if not name.startswith(("model.layers.", "lm_head.")):  # the head is the embedding
            tensor.copy_(_widened(name, old[name], tensor, scale))
    places = _spread(small.config.num_hidden_layers, config.num_hidden_layers)
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        for name in [name for name in new if name.startswith(prefix)]:
            source = f"model.layers.{places.get(layer)}.{name.removeprefix(prefix)}"
            if source in old:
                new[name].copy_(_widened(name, old[source], new[name], scale))
            elif _writes(name):
                new[name].zero_()
            elif new[name].ndim == 1:
                new[name].fill_(1 / scale)
    return large


def grow_head(small: EagleHead, config: LlamaConfig, seed: int = 0) -> EagleHead:
    """A head of `config`'s shape that drafts for `grow(target, ...)` as `small` does for `target`.

    The grown target's embeddings are `scale` times the old ones, its features 1 / `scale` times,
    and the head's own stream is made of features.
    """
    torch.manual_seed(seed)
    large = EagleHead(config).float()
    old, new = small.float().state_dict(), large.state_dict()
    scale = math.sqrt(config.hidden_size / small.config.hidden_size)
    width, wide = small.config.hidden_size, config.hidden_size
    for name in old.keys() & new.keys() - {"fc.weight"}:
        # A norm makes its input's scale irrelevant: only the added zeros count.
        factor = scale if new[name].ndim == 1 else 1 / scale
        new[name].copy_(_widened(name, old[name], new[name], factor))
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            new[name][: len(old[name])] *= scale  # no norm before the head's attention
    embeds, features = new["fc.weight"][:, :wide], new["fc.weight"][:, wide:]
    for part, columns, factor in (
        (embeds, old["fc.weight"][:, :width], scale**-2),
        (features, old["fc.weight"][:, width:], 1.0),
    ):
        part *= NOISE
        part[:width] = 0
        part[:width, :width] = columns * factor
    features[width:, width:] += torch.eye(wide - width)
    return large


def add_noise(model: LlamaForCausalLM, channels: int, seed: int = 0) -> None:
    """Give the channels after the first `channels` something to carry, so that they can learn."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "embed_tokens" in name:
                part = tensor[:, channels:]
            elif _writes(name):
                part = tensor[channels:]
            else:
                continue
            part.add_(torch.randn(part.shape, generator=generator) * NOISE / 2)


def _widened(name: str, old: Tensor, new: Tensor, scale: float) -> Tensor:
    """The old weights in the first channels, heads and units of `new`.

    The stream is `scale` times the old one followed by zeros, so its RMS stays; gains undo the
    scale, the last one twice because the tied embedding that it meets has grown as well.
    """
    if new.ndim == 1:
        wide = torch.full_like(new, float(old.mean()))
        wide[: len(old)] = old
        return wide / (scale * scale if name == "model.norm.weight" else scale)
    wide = torch.zeros_like(new) if _writes(name) or "embed" in name else new.clone()
    if not (_writes(name) or "embed" in name):
        wide[: old.shape[0]] = 0  # old units read nothing from the new channels yet
    wide[: old.shape[0], : old.shape[1]] = old * (scale if _writes(name) or "embed" in name else 1)
    return wide


def _writes(name: str) -> bool:
    return name.endswith(("o_proj.weight", "down_proj.weight"))


def _spread(old: int, new: int) -> dict[int, int]:
    """New layer number -> old layer number, the added layers evenly between."""
    return {round((i + 0.5) * new / old - 0.5): i for i in range(old)}
