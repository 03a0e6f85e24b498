"""What loads, and what is refused, by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BloomConfig,
    DeepseekV3Config,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    OPTConfig,
    PreTrainedConfig,
    StableLmConfig,
    T5Config,
)

from rasd.config import TargetConfig
from rasd.errors import ConfigError, ModelError, UnsupportedModel
from rasd.target import LocalTarget, load_model
from rasd.target.modules import Modules
from rasd.target.probe import examine, prove
from rasd.target.support import check_config
from tests.kv.models import build
from tests.target.conftest import Loader
from tests.target.steps import Run, drive, generate

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
}
GROUPED = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}

REFUSED: dict[str, tuple[Callable[[], PreTrainedConfig], str]] = {
    "latent": (lambda: DeepseekV3Config(**GROUPED), "latent attention"),
    "softcap": (lambda: Gemma2Config(**GROUPED, head_dim=8), "softcapping"),
    "recurrent": (lambda: MambaConfig(**SIZES), "linear_attention"),
    "chunked": (
        lambda: Llama4TextConfig(
            **GROUPED, head_dim=8, num_local_experts=2, attention_chunk_size=4
        ),
        "layer 0 is of type chunked_attention",
    ),
    "dynamic rope": (lambda: LlamaConfig(**GROUPED, rope_parameters=DYNAMIC), "dynamic RoPE"),
    "alibi": (lambda: FalconConfig(**SIZES, alibi=True), "ALiBi"),
    "own attention": (lambda: BloomConfig(**SIZES), "does not go through"),
    "own classes": (lambda: FalconConfig(**SIZES), "does not go through"),
    "no plan": (lambda: StableLmConfig(**GROUPED), "keyword arguments"),
    "sinks": (lambda: GptOssConfig(**GROUPED, head_dim=8, num_local_experts=4), "s_aux"),
    "encoder": (lambda: BertConfig(**SIZES), "not causal"),
    "encoder-decoder": (lambda: T5Config(**SIZES, d_kv=8, d_ff=16), "encoder-decoder"),
}


def save(config: PreTrainedConfig, path: Path) -> Path:
    torch.manual_seed(0)
    if config.is_encoder_decoder:
        config.save_pretrained(path)
    else:
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(path)
    return path


def target_config(path: Path | str, **settings: object) -> TargetConfig:
    defaults = {"threads": 1, "kv_slots": 512, "page_size": 4, "dtype": "float32"}
    return TargetConfig(model=str(path), **(defaults | settings))


@pytest.mark.parametrize("name", REFUSED)
def test_models_we_cannot_run_losslessly_are_refused_by_name(name: str, tmp_path: Path) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(UnsupportedModel, match=reason):
        load_model(target_config(save(make(), tmp_path / "model")))


RUN: dict[str, Callable[[], PreTrainedConfig]] = {
    "gemma3": lambda: Gemma3TextConfig(
        **GROUPED,
        head_dim=8,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "mixtral": lambda: MixtralConfig(**GROUPED, num_local_experts=4),
    "opt": lambda: OPTConfig(
        vocab_size=96,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=32,
        max_position_embeddings=128,
        init_std=0.3,
    ),
    "yarn": lambda: LlamaConfig(
        **GROUPED,
        max_position_embeddings=128,
        rope_parameters={
            "rope_type": "yarn",
            "factor": 4.0,
            "rope_theta": 1e4,
            "original_max_position_embeddings": 32,
        },
    ),
}


@pytest.mark.parametrize("name", RUN)
def test_other_families_give_their_own_text(name: str, tmp_path: Path, seed: int) -> None:
    target = LocalTarget.load(target_config(save(RUN[name](), tmp_path / "model")))
    plain = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.float32, attn_implementation="sdpa"
    )
    plain.generation_config.eos_token_id = None
    prompt = list(range(3, 43))
    run = Run(1, prompt, generate(plain, prompt, 20))
    drive(target, [run], seed)
    assert run.text[:20] == run.expected


def test_the_probe_notices_attention_that_computes_something_else() -> None:
    model = build("llama", "rasd_tree")
    windows = check_config(model.config)
    device = torch.device("cpu")
    proven = examine(model, windows, device)
    assert proven.specs[0].kv_heads == 2
    assert model.config._attn_implementation == "rasd_tree"
    body = Modules(model)
    prove(body, proven, "llama", device)
    narrow = [replace(proven.specs[0], kind="sliding", window=3), *proven.specs[1:]]
    with pytest.raises(UnsupportedModel, match="differ from the model's own"):
        prove(body, replace(proven, specs=narrow), "llama", device)


def test_the_hooks_are_off_after_close(load: Loader) -> None:
    target = load("llama", forward="transformers")
    assert target.model.model._forward_hooks
    target.close()
    assert not target.model.model._forward_hooks


@pytest.fixture
def llama(saved: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of a tiny llama's directory, to be damaged."""
    return Path(shutil.copytree(saved("llama"), tmp_path / "llama"))


def test_missing_files_are_named(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere does not exist"):
        load_model(target_config(tmp_path / "nowhere"))
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(target_config(llama))
    (llama / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(target_config(llama))


def test_missing_and_misshapen_weights_are_refused(llama: Path) -> None:
    weights = load_file(llama / "model.safetensors")
    norm = weights.pop("model.norm.weight")
    save_file(weights, llama / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        load_model(target_config(llama))
    save_file(
        weights | {"model.norm.weight": norm[:4]}, llama / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        load_model(target_config(llama))
    (llama / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="cannot load"):
        load_model(target_config(llama))


def test_remote_code_is_never_run(llama: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "evil.Config"}}
    (llama / "config.json").write_text(json.dumps(config))
    (llama / "evil.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UnsupportedModel, match="never run"):
        load_model(target_config(llama))


def test_ranks_must_fit(llama: Path) -> None:
    with pytest.raises(ConfigError, match=r"tensor_parallel is 2, .* has 1 ranks"):
        load_model(target_config(llama, tensor_parallel=2))
