"""Writing model directories that others may be reading."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """An empty directory whose files then replace those of `directory`, each at once.

    No reader ever sees half a file. Nothing is replaced if the body raises.
    """
    staging = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        directory.mkdir(parents=True, exist_ok=True)
        for file in sorted(staging.iterdir()):
            file.chmod(0o644)  # safetensors writes files for their owner only
            os.replace(file, directory / file.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
