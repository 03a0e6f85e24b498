"""The training text: the standard library of the running Python (PSF licence).

Everything here is a pure function of the installed Python: no downloads, no state. Whole top-level
modules are held out by a hash of their name, so no file is ever on both sides.
"""

import ast
import hashlib
import sysconfig
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HELD_OUT_PER_MILLE = 48
MAX_ANSWER_CHARS = 4000
"""Answers are cut at a line end before this many characters."""
MIN_DOCSTRING_CHARS = 24

# Test suites, other people's packages, and tables that are data rather than text.
_SKIPPED_PARTS = frozenset(
    {"test", "tests", "idle_test", "site-packages", "__pycache__", "encodings", "ensurepip"}
)
_SKIPPED_PREFIXES = ("_sysconfigdata", "config-", "__phello__")
_PUBLIC_NAMES = {"posixpath": "os.path", "_collections_abc": "collections.abc", "_pyio": "io"}

ASK_DOCUMENTATION = (
    "What does {name} do?",
    "Explain {name}.",
    "How do I use {name}?",
    "Describe {name} from the Python standard library.",
    "What is {name} for?",
    "Show me the documentation of {name}.",
)
ASK_SOURCE = (
    "Show me the source of {name}.",
    "How is {name} implemented?",
    "Write the Python code of {name}.",
)
ASK_TOPIC = (
    "Explain the Python topic {name}.",
    "Tell me about {name} in Python.",
    "What does the Python reference say about {name}?",
)


@dataclass(frozen=True)
class Document:
    """One text of the corpus: `id` is its path below the library, `/` separated."""

    id: str
    text: str

    @property
    def module(self) -> str:
        """Top-level module this document belongs to, the unit of the split."""
        return Path(self.id.split("/")[0]).stem


@dataclass(frozen=True)
class Question:
    """A chat pair about one named thing; `module` is the top-level module it was made from."""

    module: str
    name: str
    question: str
    answer: str

    def messages(self) -> list[dict[str, str]]:
        """The pair in the form `apply_chat_template` takes."""
        return exchange(self.question, self.answer)


def exchange(question: str, answer: str) -> list[dict[str, str]]:
    """A question and its answer in the form `apply_chat_template` takes."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def is_held_out(module: str) -> bool:
    """True if everything in this top-level module is kept for validation."""
    return _hash(f"rasd-split-2:{module}") % 1000 < HELD_OUT_PER_MILLE


def documents(*, held_out: bool) -> list[Document]:
    """All documents of one side of the split, ordered by id."""
    return [doc for doc in stdlib_documents() if is_held_out(doc.module) == held_out]


def questions(*, held_out: bool) -> list[Question]:
    """Chat pairs made from the documents of one side of the split, in the documents' order."""
    return [pair for doc in documents(held_out=held_out) for pair in document_questions(doc)]


def held_out_modules() -> list[str]:
    """Names of the top-level modules kept for validation, sorted."""
    return sorted({doc.module for doc in documents(held_out=True)})


@cache
def stdlib_documents() -> tuple[Document, ...]:
    """Every Python source of the standard library, and pydoc's language topics one by one.

    Files that do not decode in their declared encoding are left out.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found: list[Document] = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not _is_skipped(relative):
            found.extend(_read(path, relative.as_posix()))
    return tuple(found)


def document_questions(doc: Document) -> list[Question]:
    """Chat pairs from one document: docstrings and short sources of its public names."""
    if doc.id.startswith("pydoc_data/topics/"):
        name = doc.id.rsplit("/", 1)[1].removesuffix(".txt")
        return [_question(doc, name, ASK_TOPIC, doc.text)]
    if not doc.id.endswith(".py"):
        return []
    tree, lines = ast.parse(doc.text), doc.text.split("\n")
    module = _dotted(doc.id)
    pairs = _from_docstring(doc, module, tree)
    for name, node in _public_definitions(tree, module):
        pairs += _from_docstring(doc, name, node)
        source = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
        if not isinstance(node, ast.ClassDef) and len(source) < MAX_ANSWER_CHARS // 2:
            pairs.append(_question(doc, name, ASK_SOURCE, f"```python\n{source}\n```"))
    return pairs


_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _public_definitions(
    parent: ast.Module | ast.ClassDef, prefix: str
) -> Iterator[tuple[str, _Definition]]:
    for node in parent.body:
        if isinstance(node, _Definition) and not node.name.startswith("_"):
            name = f"{prefix}.{node.name}"
            yield name, node
            if isinstance(node, ast.ClassDef):
                yield from _public_definitions(node, name)


def _from_docstring(doc: Document, name: str, node: ast.Module | _Definition) -> list[Question]:
    docstring = ast.get_docstring(node, clean=True)
    if docstring is None or len(docstring) < MIN_DOCSTRING_CHARS:
        return []
    return [_question(doc, name, ASK_DOCUMENTATION, docstring)]


def _question(doc: Document, name: str, phrasings: tuple[str, ...], answer: str) -> Question:
    asked = phrasings[_hash(name) % len(phrasings)].format(name=name)
    if len(answer) > MAX_ANSWER_CHARS:
        answer = answer[:MAX_ANSWER_CHARS].rsplit("\n", 1)[0]
    return Question(doc.module, name, asked, answer)


def _read(path: Path, relative: str) -> list[Document]:
    try:
        with tokenize.open(path) as file:
            text = file.read()
    except (SyntaxError, UnicodeDecodeError):
        return []
    if relative == "pydoc_data/topics.py":
        return _topics(text)
    return [Document(relative, text)] if text.strip() else []


def _topics(source: str) -> list[Document]:
    """The topics that `help()` shows, which the file holds as string literals."""
    assigned = next(n for n in ast.parse(source).body if isinstance(n, ast.Assign))
    topics: dict[str, str] = ast.literal_eval(assigned.value)
    return [Document(f"pydoc_data/topics/{k}.txt", v) for k, v in sorted(topics.items())]


def _dotted(relative: str) -> str:
    parts = relative.removesuffix(".py").removesuffix("/__init__").split("/")
    return ".".join([_PUBLIC_NAMES.get(parts[0], parts[0]), *parts[1:]])


def _is_skipped(relative: Path) -> bool:
    first = relative.parts[0]
    return not _SKIPPED_PARTS.isdisjoint(relative.parts) or first.startswith(_SKIPPED_PREFIXES)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
