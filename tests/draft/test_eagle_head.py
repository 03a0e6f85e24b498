"""The EAGLE head: files in and out, and drafting with a cache."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DynamicCache, LlamaConfig

from rasd.draft.eagle_head import EagleHead, eagle_config
from rasd.errors import ModelError

SEED = 7


@pytest.fixture
def head() -> EagleHead:
    print(f"seed {SEED}")
    torch.manual_seed(SEED)
    target = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=3,
    )
    return EagleHead(eagle_config(target, note="kept")).eval()


def inputs(length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    positions = torch.arange(length)[None]
    return torch.randn(1, length, 32), torch.randn(1, length, 32), positions


def rewrite(directory: Path, **changes: torch.Tensor | None) -> None:
    path = directory / "model.safetensors"
    tensors = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def test_saved_head_loads_with_the_same_outputs(head: EagleHead, tmp_path: Path) -> None:
    head.to(torch.bfloat16).to(torch.float32)
    head.save(tmp_path)
    loaded = EagleHead.load(tmp_path, dtype=torch.float32)
    batch = inputs(9)
    torch.testing.assert_close(loaded(*batch), head(*batch))
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["drafter"] == "eagle2"
    assert written["model_type"] == "llama"
    assert written["note"] == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_tensor_names_are_the_published_ones(head: EagleHead) -> None:
    names = set(head.state_dict())
    assert {"fc.weight", "layers.0.self_attn.q_proj.weight", "layers.0.mlp.up_proj.weight"} < names
    assert not any("input_layernorm" in name or "rotary" in name for name in names)


def test_published_extras_are_understood(head: EagleHead, tmp_path: Path) -> None:
    head.save(tmp_path)
    rewrite(tmp_path, **{"embed_tokens.weight": torch.zeros(64, 32), "fc.bias": torch.ones(32)})
    config = json.loads((tmp_path / "config.json").read_text())
    del config["bias"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert EagleHead.load(tmp_path).fc.bias.tolist() == [1.0] * 32


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"fc.weight": None}, r"missing: fc\.weight"),
        ({"d2t": torch.zeros(3)}, "unexpected: d2t"),
        ({"fc.weight": torch.zeros(2, 2)}, r"another shape: fc\.weight \(2, 2\), not \(32, 64\)"),
    ],
)
def test_other_tensors_are_refused(
    head: EagleHead, tmp_path: Path, changes: dict[str, torch.Tensor | None], complaint: str
) -> None:
    head.save(tmp_path)
    rewrite(tmp_path, **changes)
    with pytest.raises(ModelError, match=complaint):
        EagleHead.load(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_absent_or_broken_files_are_refused(head: EagleHead, tmp_path: Path, name: str) -> None:
    head.save(tmp_path)
    (tmp_path / name).write_text("{")
    with pytest.raises(ModelError, match=name):
        EagleHead.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=name):
        EagleHead.load(tmp_path)


def test_cache_in_pieces_equals_one_pass(head: EagleHead) -> None:
    embeds, features, positions = inputs(10)
    whole = head(embeds, features, positions)
    cache = DynamicCache()
    pieces = [
        head(embeds[:, s], features[:, s], positions[:, s], past_key_values=cache)
        for s in (slice(0, 4), slice(4, 9), slice(9, 10))
    ]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole)
