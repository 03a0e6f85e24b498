"""A tiny random model with a tokenizer, an EAGLE head and corpora; and what transformers says."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig

from rasd.config import AppConfig, StoreConfig, parse_config
from rasd.draft.eagle_head import EagleHead, eagle_config
from rasd.engine.api import Statistics
from rasd.retrieval.store.corpora import create_corpus
from rasd.retrieval.store.records import Document, Put
from rasd.retrieval.store.writer import CorpusWriter
from rasd.text import tokenizer_hash
from tests.kv import models
from tests.tokenizers import byte_tokenizer

TEXTS = ("the abc the abc the", "ab ab", "你好 the a", "x")


def tiny_config(name: str) -> PreTrainedConfig:
    """A tiny model for the byte tokenizer: "llama", which ends texts, or one of `tests.kv.models`.

    Weights are wide, so that logits are far apart.
    """
    if name == "llama":
        return LlamaConfig(
            vocab_size=len(byte_tokenizer()),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            bos_token_id=0,
            eos_token_id=1,
            initializer_range=0.3,
        )
    config = models.config_of(name)
    config.vocab_size = len(byte_tokenizer())
    return config


def make_world(place: Path, config: PreTrainedConfig) -> Path:
    """A random model, a random head, a corpus of what the model says, and one to be made."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.save_pretrained(place / "model")
    byte_tokenizer().save_pretrained(place / "model")
    EagleHead(eagle_config(config)).save(place / "eagle")
    lines = [{"id": f"d{i}", "text": text * 5} for i, text in enumerate(TEXTS)]
    (place / "corpus.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    model.generation_config.eos_token_id = None
    asked = [byte_tokenizer()(text).input_ids for text in TEXTS]
    keep_answers(place, [said_by(model, prompt, 60)[0] for prompt in asked])
    return place


def keep_answers(place: Path, answers: list[list[int]], name: str = "answers") -> None:
    """A corpus of what the model says, so that retrieval is right."""
    root = place / "store"
    create_corpus(
        root,
        name,
        partitions=1,
        vocabulary=len(byte_tokenizer()),
        tokenizer_hash=tokenizer_hash(byte_tokenizer()),
    )
    with (
        ThreadPoolExecutor(1) as threads,
        closing(CorpusWriter(root, name, StoreConfig(), threads.submit)) as writer,
    ):
        writer.write(
            [
                Put(Document(f"d{i}", np.asarray(answer, np.uint32)))
                for i, answer in enumerate(answers)
            ]
        )
        writer.flush()


def settings_of(world: Path, **sections: Any) -> AppConfig:
    base: dict[str, Any] = {
        "target": {"kv_slots": 2048, "threads": 1},
        "datastore": {"root": str(world / "store"), "partitions": 2},
        **sections,
    }
    return parse_config(base)


# --- what is right ------------------------------------------------------------------------------


def said_by(model: Any, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    """Greedy tokens of transformers itself, and by how much the best led at each."""
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=count,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=0,
        )
    leads = [float(np.subtract(*row[0].topk(2).values.tolist())) for row in out.logits]
    return out.sequences[0, len(prompt) :].tolist(), leads


def check_greedy(said: list[int], expected: list[int], leads: list[float]) -> None:
    """Equal, except behind a place where the two best scores lie within 1e-3."""
    for i, (got, want) in enumerate(zip(said, expected, strict=False)):
        if got != want:
            assert leads[i] < 1e-3, f"token {i}: {got} for {want}, which led by {leads[i]}"
            return
    assert len(said) == len(expected)


def check_speculated(statistics: list[Statistics], sources: set[str], where: object) -> None:
    """Each of these sources, and no other, was asked and was right at times."""
    for source in ("draft", "prompt", "corpus"):
        drafted = sum(one.drafted[source] for one in statistics)
        accepted = sum(one.accepted[source] for one in statistics)
        if source in sources:
            assert drafted >= accepted > 0, (where, source, drafted, accepted)
        else:
            assert drafted == accepted == 0, (where, source, drafted, accepted)
