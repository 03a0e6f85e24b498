"""A larger model says the same, and its head drafts the same."""

from pathlib import Path

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from benchmarks.enlarge import PRESETS, Shape, enlarge, enlarge_head, enlarge_target
from rasd.config import EMBEDDED
from rasd.draft.eagle_head import EagleHead, eagle_config
from rasd.errors import ConfigError

SEED = 7
SHAPE = Shape(copies=4, units=96, heads=12, kv_heads=3, layers=4)


def small_target() -> LlamaForCausalLM:
    """Two layers, two heads per key-value head, gains unlike one, tied embeddings."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=40,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_hidden_layers=2,
        tie_word_embeddings=True,
        eos_token_id=[1],
    )
    model = LlamaForCausalLM(config).eval()
    roughen(model)
    return model


def roughen(model: torch.nn.Module) -> None:
    """Weights of a size at which every part matters, and gains that differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=0.3)


@torch.no_grad()
@pytest.mark.parametrize("copies", [2, 3, 8])
def test_logits_agree(copies: int) -> None:
    small = small_target()
    shape = Shape(copies, SHAPE.units, SHAPE.heads, SHAPE.kv_heads, SHAPE.layers)
    large = enlarge_target(small, shape)
    tokens = torch.randint(0, 60, (2, 20))
    torch.testing.assert_close(large(tokens).logits, small(tokens).logits, atol=1e-4, rtol=1e-4)
    assert large.config.hidden_size == 32 * copies
    assert len(large.model.layers) == 4


@torch.no_grad()
def test_the_head_drafts_the_same_through_the_enlarged_target() -> None:
    small = small_target()
    head = EagleHead(eagle_config(small.config)).eval()
    roughen(head)
    pairs = [(small, head), (enlarge_target(small, SHAPE), enlarge_head(head, SHAPE))]
    tokens = torch.randint(0, 60, (1, 12))
    expected, found = (_drafted(target, drafter, tokens) for target, drafter in pairs)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


def _drafted(target: LlamaForCausalLM, head: EagleHead, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of a step on the target's features and of three on the head's own."""
    features = target.model(tokens).last_hidden_state[:, :-1]
    embeds, cache = target.model.embed_tokens(tokens[:, 1:]), DynamicCache()
    positions = torch.arange(tokens.shape[1] - 1)[None]
    output = head(embeds, features, positions, cache)
    logits = [target.lm_head(output)]
    for step in range(3):
        output = head(embeds[:, :1], output[:, -1:], positions[:, -1:] + 1 + step, cache)
        logits.append(target.lm_head(output))
    return torch.cat(logits, dim=1)


@torch.no_grad()
def test_weights_are_dense_and_exact_in_bfloat16() -> None:
    small = small_target().bfloat16()
    weights = enlarge_target(small, SHAPE).state_dict()
    key = weights["model.layers.0.self_attn.k_proj.weight"]
    assert (key != 0).all()
    old = small.state_dict()["model.layers.0.self_attn.k_proj.weight"]
    assert set(key[:16].abs().unique().tolist()) == set((old.abs() / 4).unique().tolist())


def test_the_pair_is_written_as_ordinary_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = Shape(copies=2, units=704, heads=8, kv_heads=2, layers=6)
    monkeypatch.setitem(PRESETS, (256, "100m"), shape)
    enlarge(EMBEDDED, tmp_path, "100m")
    large = LlamaForCausalLM.from_pretrained(tmp_path / "target")
    assert large.dtype == torch.bfloat16
    assert large.config.hidden_size == EagleHead.load(tmp_path / "eagle").config.hidden_size == 512
    assert (tmp_path / "target" / "tokenizer.json").exists()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    small = small_target()
    for shape in (
        Shape(copies=2, units=96, heads=4, kv_heads=4, layers=2),
        Shape(copies=2, units=96, heads=7, kv_heads=3, layers=2),
        Shape(copies=2, units=39, heads=8, kv_heads=4, layers=2),
        Shape(copies=2, units=96, heads=8, kv_heads=4, layers=1),
    ):
        with pytest.raises(ConfigError):
            enlarge_target(small, shape)
    with pytest.raises(ConfigError, match="100m for 256"):
        enlarge(EMBEDDED, tmp_path, "1t")
