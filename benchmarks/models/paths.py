"""Where the trained models and everything that goes with them are kept, outside the repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

ROOT: Final = Path(os.environ.get("RASD_BENCH", Path.home() / ".cache" / "rasd" / "bench"))
"""Directory of models, checkpoints and environments; `RASD_BENCH` moves it."""

SIZES: Final = ("base", "100m", "400m", "7b")


def target(size: str) -> Path:
    """Directory of the target of this size (one of SIZES); it may not exist yet."""
    return ROOT / "models" / size / "target"


def drafter(size: str) -> Path:
    """Directory of that target's EAGLE head; it may not exist yet."""
    return ROOT / "models" / size / "eagle"


def work(name: str) -> Path:
    """Directory of the checkpoint and intermediate files of a training."""
    return ROOT / "work" / name
