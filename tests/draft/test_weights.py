"""Reading two tensors of a target: every layout, and every way it can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from rasd.draft import weights
from rasd.draft.weights import SharedWeights, checkpoint_dtype, find_file
from rasd.errors import ModelError

EMBEDDING, HEAD = torch.arange(12.0).view(4, 3), -torch.arange(12.0).view(4, 3)


def checkpoint(directory: Path, config: dict[str, Any], files: dict[str, dict[str, Tensor]]) -> str:
    (directory / "config.json").write_text(json.dumps(config))
    for name, tensors in files.items():
        save_file(tensors, directory / name)
    if len(files) > 1:
        index = {name: file for file, tensors in files.items() for name in tensors}
        path = directory / "model.safetensors.index.json"
        path.write_text(json.dumps({"weight_map": index}))
    return str(directory)


def single(**tensors: Tensor) -> dict[str, dict[str, Tensor]]:
    return {"model.safetensors": {name.replace("__", "."): t for name, t in tensors.items()}}


def test_one_file(tmp_path: Path) -> None:
    files = single(model__embed_tokens__weight=EMBEDDING, lm_head__weight=HEAD)
    read = SharedWeights.read(checkpoint(tmp_path, {"tie_word_embeddings": False}, files))
    assert torch.equal(read.embedding, EMBEDDING)
    assert torch.equal(read.head, HEAD)


def test_several_files_of_which_only_the_needed_are_opened(tmp_path: Path) -> None:
    files = {
        "a.safetensors": {"language_model.model.embed_tokens.weight": EMBEDDING},
        "b.safetensors": {"model.norm.weight": HEAD},
        "c.safetensors": {"language_model.lm_head.weight": HEAD},
    }
    model = checkpoint(tmp_path, {}, files)
    (tmp_path / "b.safetensors").unlink()
    read = SharedWeights.read(model)
    assert torch.equal(read.embedding, EMBEDDING)
    assert torch.equal(read.head, HEAD)


@pytest.mark.parametrize(
    ("config", "stored"),
    [
        ({"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": True}, False),
        ({"text_config": {"tie_word_embeddings": True}}, True),
        ({}, False),
    ],
)
def test_tied(tmp_path: Path, config: dict[str, Any], stored: bool) -> None:
    tensors = {"model__embed_tokens__weight": EMBEDDING} | (
        {"lm_head__weight": HEAD} if stored else {}
    )
    read = SharedWeights.read(checkpoint(tmp_path, config, single(**tensors)))
    assert read.head is read.embedding
    moved = read.to(torch.device("cpu"), torch.bfloat16)
    assert moved.head is moved.embedding
    assert moved.embedding.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"model__norm__weight": HEAD}, r"exactly one embed_tokens\.weight; found \[\]"),
        (
            {"a__embed_tokens__weight": HEAD, "b__embed_tokens__weight": HEAD + 1},
            r"exactly one embed_tokens\.weight; found \['a",
        ),
        ({"embed_tokens__weight": HEAD, "lm_head__weight": HEAD[:2].clone()}, "have shapes"),
    ],
)
def test_other_tensors_are_refused(
    tmp_path: Path, tensors: dict[str, Tensor], complaint: str
) -> None:
    model = checkpoint(tmp_path, {}, single(**tensors))
    with pytest.raises(ModelError, match=complaint):
        SharedWeights.read(model)


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("model.safetensors", "rubbish", r"model\.safetensors cannot be read"),
        ("model.safetensors", None, r"has no model\.safetensors; only safetensors"),
        ("config.json", "{", r"config\.json cannot be read"),
        ("config.json", "[]", "is not a JSON object"),
        ("config.json", None, r"has no config\.json"),
        ("model.safetensors.index.json", "{}", "has no weight_map"),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"embed_tokens.weight": "gone.safetensors"}}',
            r"has no gone\.safetensors",
        ),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"other.embed_tokens.weight": "model.safetensors"}}',
            "cannot be read",
        ),
    ],
)
def test_broken_files_are_refused(
    tmp_path: Path, file: str, content: str | None, complaint: str
) -> None:
    model = checkpoint(tmp_path, {}, single(embed_tokens__weight=EMBEDDING))
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(ModelError, match=complaint):
        SharedWeights.read(model)


def test_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files come from the hub one by one; one that is not there is no error yet."""
    checkpoint(tmp_path, {}, single(embed_tokens__weight=EMBEDDING))
    asked: list[tuple[str, str, str | None]] = []

    def download(model: str, file: str, revision: str | None) -> str:
        asked.append((model, file, revision))
        if not (tmp_path / file).exists():
            raise LocalEntryNotFoundError(f"no {file}")
        return str(tmp_path / file)

    monkeypatch.setattr(weights, "hf_hub_download", download)
    read = SharedWeights.read("someone/model", "v1")
    assert torch.equal(read.head, EMBEDDING)
    assert {file for _, file, _ in asked} == {
        "model.safetensors.index.json",
        "model.safetensors",
        "config.json",
    }
    assert {(model, revision) for model, _, revision in asked} == {("someone/model", "v1")}


def test_unreachable_hub_is_a_model_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(model: str, file: str, revision: str | None) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(weights, "hf_hub_download", download)
    with pytest.raises(ModelError, match="no route to host"):
        find_file("someone/model", "config.json")
    monkeypatch.undo()
    assert issubclass(RepositoryNotFoundError, OSError)
    with pytest.raises(ModelError, match="cannot be fetched"):
        find_file("not / a hub id", "config.json")


def test_of_a_model_in_this_process() -> None:
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    model = LlamaForCausalLM(config)
    shared = SharedWeights.of(model)
    assert shared.embedding.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert torch.equal(shared.head, model.lm_head.weight)
    assert not shared.head.requires_grad
    with pytest.raises(ModelError, match="Linear lacks"):
        SharedWeights.of(nn.Linear(2, 2))


def test_checkpoint_dtype(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": EMBEDDING.bfloat16(), "b": HEAD.bfloat16()}, path)
    assert checkpoint_dtype(path) == torch.bfloat16
    save_file({"a": EMBEDDING.bfloat16(), "b": HEAD}, path)
    with pytest.raises(ModelError, match="one type of F32, F16, BF16"):
        checkpoint_dtype(path)
    path.write_text("rubbish")
    with pytest.raises(ModelError, match="cannot be read"):
        checkpoint_dtype(path)
