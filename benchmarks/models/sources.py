"""The text behind the tasks: the standard library and the sources of installed packages.

A pure function of what is installed. Packages are on one side of the split as a whole, and so are
the modules of the standard library, as in `rasd.train.text`.
"""

from __future__ import annotations

import ast
import sysconfig
import textwrap
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from rasd.train.text import Document, documents

TRAIN: Final = (
    "accelerate click fsspec huggingface_hub hypothesis jinja2 numba numpy pydantic"
    " ray/data ray/serve torch/nn torch/optim torch/utils/data"
).split()
HELD_OUT: Final = "PIL matplotlib mpmath pyparsing rich websockets".split()
INDOMAIN: Final = ["networkx/algorithms"]
"""Only the in-domain task and its corpus hold these: no other task, no drafter sees them."""

_SKIPPED = frozenset({"test", "tests", "testing", "_vendor", "__pycache__"})
_MAX_BYTES = 200_000
_Node = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Definition:
    """A public function or class with a docstring.

    Attributes:
        module: top-level module, the unit of the split.
        name: dotted name. docstring: cleaned.
        head: signature and docstring as they stand in the source, dedented.
        body: the source after the docstring, dedented like `head`; empty for classes.
    """

    module: str
    name: str
    docstring: str
    head: str
    body: str


def package_documents(places: tuple[str, ...]) -> list[Document]:
    """Sources below these places of site-packages, by path; what is not installed is left out."""
    root = Path(sysconfig.get_path("purelib"))
    paths = [path for place in places for path in sorted((root / place).rglob("*.py"))]
    found = [_read(path, path.relative_to(root)) for path in paths]
    return [document for document in found if document is not None]


def code_documents(*, held_out: bool) -> list[Document]:
    """Sources of one side: the standard library's, then the packages'."""
    library = [doc for doc in documents(held_out=held_out) if doc.id.endswith(".py")]
    return library + package_documents(tuple(HELD_OUT if held_out else TRAIN))


@cache
def definitions(*, held_out: bool) -> tuple[Definition, ...]:
    """All definitions of one side, in the documents' order."""
    return tuple(d for doc in code_documents(held_out=held_out) for d in document_definitions(doc))


@cache
def indomain_definitions() -> tuple[Definition, ...]:
    """The definitions that the in-domain task asks about."""
    found = package_documents(tuple(INDOMAIN))
    return tuple(d for doc in found for d in document_definitions(doc))


def document_definitions(doc: Document) -> list[Definition]:
    """The definitions of one source; none if this Python cannot parse it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            tree = ast.parse(doc.text)
        except SyntaxError:
            return []
    module = doc.id.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    lines = doc.text.split("\n")
    return [_definition(doc, name, node, lines) for name, node in _documented(tree, module)]


def _documented(parent: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, _Node]]:
    for node in parent.body:
        if isinstance(node, _Node) and not node.name.startswith("_"):
            name = f"{prefix}.{node.name}"
            if ast.get_docstring(node):
                yield name, node
            if isinstance(node, ast.ClassDef):
                yield from _documented(node, name)


def _definition(doc: Document, name: str, node: _Node, lines: list[str]) -> Definition:
    text = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno])).split("\n")
    cut = (node.body[0].end_lineno or node.lineno) - node.lineno + 1
    is_class = isinstance(node, ast.ClassDef)
    return Definition(
        doc.module,
        name,
        ast.get_docstring(node, clean=True) or "",
        "\n".join(text[:cut]),
        "" if is_class else "\n".join(text[cut:]).strip("\n"),
    )


def _read(path: Path, relative: Path) -> Document | None:
    if not _SKIPPED.isdisjoint(relative.parts) or path.stat().st_size > _MAX_BYTES:
        return None
    try:
        with tokenize.open(path) as file:
            text = file.read()
    except (SyntaxError, UnicodeDecodeError):
        return None
    return Document(relative.as_posix(), text) if text.strip() else None
