"""What the benchmarks share: real prompts, the machine's description, results on disk."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from rasd.train.text import documents, questions

RESULTS = Path(__file__).parent / "results"
CONTEXT = 192


def code_prompts(llm: Any, count: int, seed: int = 0) -> list[list[int]]:
    """``count`` windows of CONTEXT tokens at random places of held-out source."""
    rng = np.random.default_rng(seed)
    texts = [document.text for document in documents(held_out=True)]
    prompts = []
    while len(prompts) < count:
        ids = llm.encode(texts[int(rng.integers(len(texts)))])
        if len(ids) > 2 * CONTEXT:
            start = int(rng.integers(0, len(ids) - 2 * CONTEXT))
            prompts.append(ids[start : start + CONTEXT].tolist())
    return prompts


def question_prompts(llm: Any, count: int, *, held_out: bool, seed: int = 0) -> list[list[int]]:
    """``count`` chat prompts that ask for a docstring."""
    asked = questions(held_out=held_out)
    order = np.random.default_rng(seed).permutation(len(asked))[:count]
    return [llm.encode_chat(asked[int(i)].messages()[:-1]).tolist() for i in order]


def machine() -> dict[str, Any]:
    """Where a result was measured."""
    import torch

    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _cpu() -> str:
    """The model's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def save(name: str, result: dict[str, Any]) -> Path:
    """Writes ``results/<name>.json``, the machine included."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n")
    return path
