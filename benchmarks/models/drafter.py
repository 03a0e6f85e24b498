"""The drafter's recipe: `rasd.train.eagle`'s, on general code only.

It sees sources and how the target continues sources, none of the chats: questions about a passage,
summaries and in-domain questions are outside its domain, as in the paper. It starts as the shipped
head, grown as the target was.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM

from benchmarks.models.grow import grow_head
from benchmarks.models.target import WINDOW, load_streams
from rasd.config import EMBEDDED
from rasd.draft.eagle_head import EagleHead, eagle_config
from rasd.text import tokenizer_hash
from rasd.train.eagle import EagleTask
from rasd.train.generate import PREFIX, generate
from rasd.train.loop import Plan, State, train

GENERATED: Final = {False: 60_000, True: 12_000}
"""Tokens that the target writes, by whether they are held out."""


def train_drafter(target_directory: Path, text: Path, plan: Plan, export: Path) -> State:
    """Train a head for the target; `text` is the directory of its training's streams."""
    tokenizer = AutoTokenizer.from_pretrained(target_directory)
    target = LlamaForCausalLM.from_pretrained(target_directory, dtype=torch.float32)
    sides: dict[bool, dict[str, Tensor]] = {}
    for held_out in (False, True):
        sources = load_streams(tokenizer, text, held_out=held_out)["general"].tokens
        path = plan.directory / f"generated-{'out' if held_out else 'in'}.safetensors"
        written = _continued(target, sources, path, held_out=held_out)
        sides[held_out] = {"documents": sources, "generated": written}
    config = eagle_config(target.config, target_tokenizer_sha256=tokenizer_hash(tokenizer))
    head = grow_head(EagleHead.load(EMBEDDED / "eagle", torch.float32), config, plan.seed)
    task = EagleTask(head.train(), target, sides[False], sides[True], WINDOW)
    return train(task, plan, lambda _: head.save(export))


def digest(target_directory: Path) -> str:
    """Names a target by its weights: a drafter belongs to one."""
    weights = (target_directory / "model.safetensors").read_bytes()
    return hashlib.sha256(weights).hexdigest()[:12]


def _continued(target: LlamaForCausalLM, sources: Tensor, path: Path, *, held_out: bool) -> Tensor:
    """int32[n]: pieces of sources as the target goes on with them, written once into `path`."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        starts = torch.randint(
            0, len(sources) - PREFIX, (1024,), generator=torch.Generator().manual_seed(0)
        )
        asked = [sources[start : start + PREFIX].tolist() for start in starts.tolist()]
        written = generate(target, asked, GENERATED[held_out], drawn=not held_out)
        save_file({"tokens": written}, path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)
    stream: Tensor = load_file(path)["tokens"]
    return stream
