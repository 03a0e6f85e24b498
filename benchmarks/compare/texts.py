"""The tasks' prompts and corpora on disk: parsing all sources again takes longer than a row."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import benchmarks.models.tasks
from benchmarks.models import paths
from benchmarks.models.tasks import TASKS, corpus_documents, prompts

PLACE: Final = paths.ROOT / "texts"
PROMPTS: Final = 256
_MADE_BY: Final = ("tasks.py", "docqa.py", "sources.py")


def task_prompts(task: str, tokenizer: Any) -> list[list[int]]:
    """Held-out prompts of a task as token ids."""
    found: list[list[int]] = json.loads(
        _kept(f"{task}-prompts.json", lambda: json.dumps(prompts(task, tokenizer, PROMPTS)))
    )
    return found


def corpora() -> dict[str, Path]:
    """The tasks' corpora by name, and the files to fill them from; tasks may share one."""
    return {corpus_of(task): _corpus(task) for task in TASKS}


@cache
def corpus_of(task: str) -> str:
    """The name of a task's corpus, which tells its content; none for text that is no task's."""
    if task not in TASKS:
        return ""
    return f"bench-{hashlib.sha256(_corpus(task).read_bytes()).hexdigest()[:8]}"


def _corpus(task: str) -> Path:
    _kept(f"{task}.jsonl", lambda: _lines(task))
    return PLACE / f"{_version()}-{task}.jsonl"


def _lines(task: str) -> str:
    documents = corpus_documents(task)
    return "".join(json.dumps({"id": d.id, "text": d.text}) + "\n" for d in documents)


def _kept(name: str, make: Callable[[], str]) -> str:
    path = PLACE / f"{_version()}-{name}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(make())
        partial.rename(path)
    return path.read_text()


@cache
def _version() -> str:
    """Of the code that makes the tasks, and of the Python whose library they are made from."""
    digest = hashlib.sha256(sys.version.encode())
    for name in _MADE_BY:
        digest.update(Path(benchmarks.models.tasks.__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:8]
