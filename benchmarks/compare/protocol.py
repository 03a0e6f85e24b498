"""What the bench and its workers say to each other: JSON lines over stdin and stdout.

A worker is a process that holds one system, in whatever environment that system needs, so this
file and `benchmarks.compare.worker` import the standard library alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Job:
    """Prompts to run, ``concurrency`` of them in flight until all are done.

    Every answer has ``max_tokens`` tokens: the end-of-sequence token does not end it. Answer i is
    drawn with ``seed + i``. ``corpus`` is what may be looked into, by those who can.
    """

    prompts: list[list[int]]
    max_tokens: int
    concurrency: int = 1
    temperature: float = 0.0
    seed: int = 0
    corpus: str = ""

    def message(self) -> dict[str, Any]:
        """As it goes over the wire."""
        return {"do": "run", **asdict(self)}

    @classmethod
    def of(cls, message: dict[str, Any]) -> Job:
        """Back from the wire."""
        return cls(**{key: value for key, value in message.items() if key != "do"})


@dataclass
class Answer:
    """One prompt's answer.

    ``steps`` counts the forwards that brought it tokens; times are seconds since the job began:
    when it was asked, when its first tokens came (``first_tokens`` of them), when its last.
    """

    tokens: list[int] = field(default_factory=list)
    steps: int = 0
    first_tokens: int = 0
    asked_s: float = 0.0
    first_s: float = 0.0
    last_s: float = 0.0


@dataclass
class Outcome:
    """What a job brought. ``parts``: milliseconds per step by part, and counts, where known."""

    seconds: float
    answers: list[Answer]
    parts: dict[str, float] = field(default_factory=dict)

    def message(self) -> dict[str, Any]:
        """As it goes over the wire."""
        return asdict(self)

    @classmethod
    def of(cls, message: dict[str, Any]) -> Outcome:
        """Back from the wire."""
        answers = [Answer(**answer) for answer in message["answers"]]
        return cls(message["seconds"], answers, message["parts"])
