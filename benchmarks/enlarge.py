"""Make a model that says the same at the cost of a much larger one, and so for its EAGLE head.

    python -m benchmarks.enlarge deploy/models/embedded /tmp/embedded-100m --size 100m

Every channel of the residual stream is copied k times, with random signs and in random order:
x' = R x with R in {-1, 0, 1}^(kd × d) and RᵀR = k·I. Its RMS stays, so norms and their gains only
have to be copied along. What writes into the stream becomes R W, what reads from it W Rᵀ/k. Both
are dense. For k a power of two all this is exact in bf16, so that the large model's choices are
the small one's. (A rotation would round every weight anew, and cannot carry the final norm's gain
into an EAGLE head.) Heads and units are added with random weights and are not listened to; a layer
that is added writes zeros.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from rasd.draft.eagle_head import EagleHead
from rasd.errors import ConfigError
from rasd.train.files import staged
from rasd.train.tokenizer import save_tokenizer

Weights = dict[str, Tensor]
_STD: Final = 0.02


@dataclass(frozen=True)
class Shape:
    """What to enlarge to. `copies` multiplies the hidden size; the others are totals."""

    copies: int
    units: int
    heads: int
    kv_heads: int
    layers: int


PRESETS: Final = {
    (256, "100m"): Shape(copies=4, units=4096, heads=16, kv_heads=8, layers=6),
    (256, "400m"): Shape(copies=8, units=8192, heads=32, kv_heads=8, layers=6),
    (256, "7b"): Shape(copies=16, units=14336, heads=64, kv_heads=8, layers=32),
    (384, "100m"): Shape(copies=2, units=4096, heads=12, kv_heads=4, layers=8),
    (384, "400m"): Shape(copies=4, units=8192, heads=24, kv_heads=8, layers=8),
    (384, "7b"): Shape(copies=8, units=24576, heads=48, kv_heads=8, layers=28),
}
"""By hidden size of the small model and name."""


class Enlarger:
    """Weights of one small model's stream, heads and units in a larger one."""

    def __init__(
        self, config: LlamaConfig, shape: Shape, seed: int = 0, device: torch.device | None = None
    ) -> None:
        _check(config, shape)
        self._config, self._shape = config, shape
        drawn = torch.Generator().manual_seed(seed)
        order = torch.randperm(config.hidden_size * shape.copies, generator=drawn)
        signs = torch.randint(0, 2, order.shape, generator=drawn) * 2.0 - 1
        self._source = (order % config.hidden_size).to(device)
        self._signs = signs.to(device)
        self._random_state = torch.Generator(device or "cpu").manual_seed(seed)

    def config(self, **changed: Any) -> LlamaConfig:
        """The small model's config with the large shape."""
        config = LlamaConfig.from_dict({**self._config.to_dict(), **changed})
        config.hidden_size = self._config.hidden_size * self._shape.copies
        config.intermediate_size = self._shape.units
        config.num_attention_heads = self._shape.heads
        config.num_key_value_heads = self._shape.kv_heads
        return config

    def writes(self, weight: Tensor) -> Tensor:
        """R W: [d, n] → [kd, n]."""
        return (weight[self._source] * self._signs[:, None]).to(weight.dtype)

    def reads(self, weight: Tensor) -> Tensor:
        """W Rᵀ/k: [n, d] → [n, kd]."""
        return (weight[:, self._source] * (self._signs / self._shape.copies)).to(weight.dtype)

    def embedding(self, weight: Tensor) -> Tensor:
        """E Rᵀ: [V, d] → [V, kd]."""
        return (weight[:, self._source] * self._signs).to(weight.dtype)

    def gain(self, weight: Tensor) -> Tensor:
        """A norm's gain: [d] → [kd]."""
        return weight[self._source]

    def layer(self, small: Weights, prefix: str) -> Weights:
        """A decoder layer's weights; a head's layer may lack its input norm."""
        attention, mlp = self._attention(small, prefix), self._mlp(small, prefix)
        names = [
            f"{prefix}{name}.weight" for name in ("input_layernorm", "post_attention_layernorm")
        ]
        gains = {name: self.gain(small[name]) for name in names if name in small}
        return attention | mlp | gains

    def idle_layer(self, prefix: str, dtype: torch.dtype) -> Weights:
        """A layer that reads like the others and adds zero to the stream."""
        config, size = self._config, self._config.head_dim
        width = config.hidden_size
        empty = {
            "self_attn.q_proj": (config.num_attention_heads * size, width),
            "self_attn.k_proj": (config.num_key_value_heads * size, width),
            "self_attn.v_proj": (config.num_key_value_heads * size, width),
            "self_attn.o_proj": (width, config.num_attention_heads * size),
            "mlp.gate_proj": (config.intermediate_size, width),
            "mlp.up_proj": (config.intermediate_size, width),
            "mlp.down_proj": (width, config.intermediate_size),
        }
        small = {
            f"{prefix}{name}.weight": self._random(rows, columns, dtype)
            * (not name.endswith(("o_proj", "down_proj")))
            for name, (rows, columns) in empty.items()
        }
        ones = torch.ones(width, dtype=dtype, device=self._source.device)
        gains = ("input_layernorm", "post_attention_layernorm")
        return self.layer(small | {f"{prefix}{name}.weight": ones for name in gains}, prefix)

    def _attention(self, small: Weights, prefix: str) -> Weights:
        """Query heads keep their key-value head; the new ones of a group come after the old."""
        config, shape, size = self._config, self._shape, self._config.head_dim
        ours = config.num_attention_heads // config.num_key_value_heads
        group = shape.heads // shape.kv_heads
        old = torch.arange(config.num_attention_heads)
        heads = (old // ours) * group + old % ours
        query = (heads[:, None] * size + torch.arange(size)).flatten()
        value = torch.arange(config.num_key_value_heads * size)
        name = prefix + "self_attn.{}_proj.weight"
        wide = {
            name.format(x): self._rows(self.reads(small[name.format(x)]), places, total * size)
            for x, places, total in (
                ("q", query, shape.heads),
                ("k", value, shape.kv_heads),
                ("v", value, shape.kv_heads),
            )
        }
        out = self.writes(small[name.format("o")])
        return {**wide, name.format("o"): _columns(out, query, shape.heads * size)}

    def _mlp(self, small: Weights, prefix: str) -> Weights:
        places, units = torch.arange(self._config.intermediate_size), self._shape.units
        name = prefix + "mlp.{}_proj.weight"
        wide = {
            name.format(x): self._rows(self.reads(small[name.format(x)]), places, units)
            for x in ("gate", "up")
        }
        down = self.writes(small[name.format("down")])
        return {**wide, name.format("down"): _columns(down, places, units)}

    def _rows(self, weight: Tensor, places: Tensor, total: int) -> Tensor:
        wide = self._random(total, weight.shape[1], weight.dtype)
        wide[places.to(wide.device)] = weight
        return wide

    def _random(self, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        state = self._random_state
        drawn = torch.randn(rows, columns, generator=state, device=state.device)
        return (drawn * _STD).to(dtype)


def enlarge_target(small: LlamaForCausalLM, shape: Shape, seed: int = 0) -> LlamaForCausalLM:
    """A model of `shape` with the logits of `small`, in its dtype, on its device; untied.

    Raises ConfigError where the shape is too small or its groups of heads do not fit.
    """
    enlarger = Enlarger(small.config, shape, seed, small.device)
    config = enlarger.config(num_hidden_layers=shape.layers, tie_word_embeddings=False)
    old = small.state_dict()
    new = {
        "model.embed_tokens.weight": enlarger.embedding(old["model.embed_tokens.weight"]),
        "model.norm.weight": enlarger.gain(old["model.norm.weight"]),
        "lm_head.weight": enlarger.reads(old["lm_head.weight"]),
    }
    for number in range(shape.layers):
        prefix = f"model.layers.{number}."
        known = number < small.config.num_hidden_layers
        new |= enlarger.layer(old, prefix) if known else enlarger.idle_layer(prefix, small.dtype)
    with torch.device("meta"):
        large = LlamaForCausalLM(config)
    large.load_state_dict(new, assign=True)
    rotary = type(large.model.rotary_emb)(config)  # its frequencies were meta too
    large.model.rotary_emb = rotary.to(small.device)
    return large.eval()


def enlarge_head(small: EagleHead, shape: Shape, seed: int = 0) -> EagleHead:
    """The head that drafts for `enlarge_target(target, shape, seed)` as `small` does for `target`.

    Its features are the target's, R f, and so is what it predicts.
    """
    weight = small.fc.weight
    enlarger = Enlarger(small.config, shape, seed, weight.device)
    large = EagleHead(enlarger.config()).to(weight.device, weight.dtype)
    old, width = small.state_dict(), small.config.hidden_size
    halves = [
        enlarger.reads(old["fc.weight"][:, part]) for part in (slice(width), slice(width, None))
    ]
    new = {
        "fc.weight": enlarger.writes(torch.cat(halves, dim=1)),
        **enlarger.layer(old, "layers.0."),
    }
    if "fc.bias" in old:
        new["fc.bias"] = enlarger.writes(old["fc.bias"][:, None])[:, 0]
    large.load_state_dict(new)
    return large.eval()


def enlarge(source: Path, destination: Path, size: str, seed: int = 0) -> None:
    """Write `destination`/{target,eagle}, bf16, from `source`/{target,eagle}.

    Raises ConfigError if no preset of that name fits the source's hidden size.
    """
    target = LlamaForCausalLM.from_pretrained(source / "target", dtype=torch.bfloat16)
    shape = PRESETS.get((target.config.hidden_size, size))
    if shape is None:
        known = ", ".join(f"{name} for {width}" for width, name in PRESETS)
        raise ConfigError(f"no size {size!r} for hidden size {target.config.hidden_size}: {known}")
    large = enlarge_target(target, shape, seed)
    large.generation_config = GenerationConfig.from_pretrained(source / "target")
    with staged(destination / "target") as staging:
        large.save_pretrained(staging)
        save_tokenizer(AutoTokenizer.from_pretrained(source / "target"), staging)
    if (source / "eagle").exists():
        enlarge_head(EagleHead.load(source / "eagle"), shape, seed).save(destination / "eagle")


def main(
    source: Annotated[Path, typer.Argument(help="Directory with target/ and eagle/.")],
    destination: Annotated[Path, typer.Argument(help="Where to write the larger ones.")],
    size: Annotated[str, typer.Option(help="100m, 400m or 7b.")] = "100m",
    seed: Annotated[int, typer.Option(help="Of signs, order and unused weights.")] = 0,
) -> None:
    """Write a larger pair that says the same."""
    enlarge(source, destination, size, seed)
    config = json.loads((destination / "target" / "config.json").read_text())
    typer.echo(f"{size}: hidden size {config['hidden_size']}, in {destination}")


def _columns(weight: Tensor, places: Tensor, total: int) -> Tensor:
    """`weight`'s columns at `places` among zeros."""
    wide = weight.new_zeros(weight.shape[0], total)
    wide[:, places.to(wide.device)] = weight
    return wide


def _check(config: LlamaConfig, shape: Shape) -> None:
    ours = config.num_attention_heads // config.num_key_value_heads
    group, rest = divmod(shape.heads, shape.kv_heads)
    if rest or group < ours or shape.kv_heads < config.num_key_value_heads:
        raise ConfigError(
            f"{shape.heads} heads on {shape.kv_heads} key-value heads have no room for "
            f"{config.num_attention_heads} on {config.num_key_value_heads}"
        )
    if shape.units < config.intermediate_size or shape.layers < config.num_hidden_layers:
        raise ConfigError(f"{shape} is smaller than the model to enlarge")


if __name__ == "__main__":
    typer.run(main)
