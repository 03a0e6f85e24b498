"""The folder tree is the architecture: imports go one way, files and functions stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = sorted(path for top in ("rasd", "actors") for path in (ROOT / top).rglob("*.py"))
STAGES = {"target", "draft", "retrieval"}
MAX_FILE, MAX_FUNCTION = 300, 40


def imports(path: Path) -> Iterator[str]:
    """Dotted names a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def package(path: Path) -> str:
    """``rasd/target/load.py`` is in ``target``; ``rasd/tree.py`` in the top, ''."""
    parts = path.relative_to(ROOT).parts
    return parts[1] if len(parts) > 2 else ""


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    names = set(imports(path))
    if path.is_relative_to(ROOT / "rasd"):
        assert not {name for name in names if name.split(".")[0] in ("ray", "actors")}
    for other in STAGES - {package(path)} if package(path) in STAGES else set():
        assert not {name for name in names if name.startswith(f"rasd.{other}")}
    if package(path) == "engine":
        heavy = ("torch", "transformers", "rasd.target", "rasd.draft", "rasd.retrieval")
        assert not {name for name in names if name.startswith(heavy)}


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.body[0].lineno + 1
            assert lines <= MAX_FUNCTION, f"{node.name} has {lines} lines"


def test_engine_starts_without_torch() -> None:
    script = "import sys, rasd, rasd.engine.api, rasd.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
