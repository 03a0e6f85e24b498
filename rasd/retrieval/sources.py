"""Where the documents of a corpus come from when it is first made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from rasd.config import STDLIB_CORPUS
from rasd.errors import ConfigError
from rasd.retrieval.segment import IntArray

Tokens = Sequence[int] | IntArray

_logger = logging.getLogger(__name__)


def documents_of(source: str, tokenize: Callable[[str], Tokens]) -> Iterator[tuple[str, Tokens]]:
    """Pairs of id and token ids, read as they are asked for.

    Args:
        source: ``stdlib``, the text of Python's standard library without what is held out for
            measuring; a ``.jsonl`` file of objects with ``id`` and ``text``; a folder, whose
            files are documents named by their path; or one file of text. All are UTF-8. In a
            folder, hidden files are passed over, and those that are no text logged.

    Raises:
        ConfigError: the source is not there or not readable; file and line are named.
    """
    for id_, text in _texts(source):
        yield id_, tokenize(text)


def _texts(source: str) -> Iterator[tuple[str, str]]:
    if source == STDLIB_CORPUS:
        return _stdlib()
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise ConfigError(
            f"source must be {STDLIB_CORPUS!r}, a JSONL file, or a folder or file of text; "
            f"got {source!r}"
        )
    return _json_lines(path) if path.suffix == ".jsonl" else iter([(path.name, _read(path))])


def _stdlib() -> Iterator[tuple[str, str]]:
    from rasd.train import text  # only here: serving other corpora needs nothing of training

    return ((document.id, document.text) for document in text.documents(held_out=False))


def _folder(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts) or not path.is_file():
            continue
        try:
            yield name.as_posix(), _read(path)
        except ConfigError as error:
            _logger.warning("document left out: %s", error)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


class _Line(msgspec.Struct):
    id: str | int
    text: str


def _json_lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    document = _parse(path, number, line)
                    yield str(document.id), document.text
    except OSError as error:
        raise ConfigError(f"{path}: {error}") from error


def _parse(path: Path, number: int, line: bytes) -> _Line:
    try:
        return msgspec.json.decode(line, type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}, line {number}: {error}") from error
