"""Every registered drafter can be loaded from files and offers the whole contract."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rasd.config import DrafterConfig
from rasd.draft import KINDS, drafter_class
from rasd.errors import ConfigError, ModelError
from rasd.forward.rounded import Rounded
from rasd.stages import Features
from rasd.text import tokenizer_hash
from tests.draft.twin import World, assert_same, propose, twin
from tests.tokenizers import byte_tokenizer


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of eagle2; got 'medusa'"):
        drafter_class("medusa")


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_configurable_and_say_what_they_need(kind: str) -> None:
    assert DrafterConfig.model_validate({"kind": kind}).kind == kind
    drafter = drafter_class(kind)
    assert drafter.needs <= {"features", "embedding", "head"}
    for method in ("load", "put", "ready", "propose", "close", "check_integrity"):
        assert callable(getattr(drafter, method))


def test_the_table_is_read_without_torch() -> None:
    script = "import sys, rasd.draft; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """With its head and its target's tensors rounded to bfloat16, and saved."""
    world = World.make(1)
    world.head.to(torch.bfloat16).to(torch.float32)
    world.head.save(tmp_path / "eagle")
    (tmp_path / "target").mkdir()
    tensors = {
        "model.embed_tokens.weight": world.shared.embedding,
        "lm_head.weight": world.shared.head,
    }
    save_file(tensors, tmp_path / "target" / "model.safetensors")
    (tmp_path / "target" / "config.json").write_text("{}")
    return world


def config(tmp_path: Path, dtype: str) -> DrafterConfig:
    model = str(tmp_path / "eagle")
    return DrafterConfig.model_validate(
        {"model": model, "dtype": dtype, "levels": 4, "top_k": 3, "nodes": 14, "kv_slots": 512}
    )


def test_eagle_from_files_equals_the_twin(world: World, tmp_path: Path) -> None:
    drafter = drafter_class("eagle2").load(config(tmp_path, "float32"), str(tmp_path / "target"))
    text = world.text(0, 20)
    drafter.put(Features(0, 0, text.features[:19].numpy()))
    assert_same(propose(drafter, text.query(0, 20))[0], twin(world, text, 20))


@pytest.mark.parametrize("rounds", [False, True])
def test_auto_dtype_is_the_checkpoint_s_or_8_bits(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: bool
) -> None:
    if rounds and not Rounded.serves(torch.device("cpu")):
        pytest.skip("the CPU has no avx512_vnni")
    monkeypatch.setattr(Rounded, "serves", lambda device: rounds)
    cls = drafter_class("eagle2")
    text = world.text(0, 20)
    drafts = []
    for dtype in ("auto", "bfloat16" if not rounds else "float32"):
        drafter = cls.load(config(tmp_path, dtype), "unused", shared=world.shared)
        drafter.put(Features(0, 0, text.features[:19].numpy()))
        drafts.append(propose(drafter, text.query(0, 20))[0])
    found, expected = drafts
    assert found is not None
    assert expected is not None
    if rounds:  # to within the rounding of 8 bits
        order = [np.argsort(draft.top_ids[0]) for draft in drafts if draft is not None]
        pair = found.top_logprobs[0, order[0]], expected.top_logprobs[0, order[1]]
        np.testing.assert_allclose(*pair, atol=0.15)
    else:
        np.testing.assert_array_equal(found.tree.scores, expected.tree.scores)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_head_is_a_model_error(world: World, tmp_path: Path, name: str) -> None:
    (tmp_path / "eagle" / name).unlink()
    with pytest.raises(ModelError, match=r"lacks config\.json or model\.safetensors"):
        drafter_class("eagle2").load(config(tmp_path, "auto"), str(tmp_path / "target"))


def test_a_head_of_another_tokenizer_is_refused(world: World, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path / "target")
    settings = config(tmp_path, "float32")
    for learned, sound in ((tokenizer_hash(tokenizer), True), ("0" * 64, False)):
        world.head.config.target_tokenizer_sha256 = learned
        world.head.save(tmp_path / "eagle")
        if sound:
            drafter_class("eagle2").load(settings, str(tmp_path / "target")).close()
        else:
            with pytest.raises(ModelError, match="trained for tokenizer 000"):
                drafter_class("eagle2").load(settings, str(tmp_path / "target"))
