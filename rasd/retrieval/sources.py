"""Where documents come from: files and folders of text, JSONL, the standard library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from rasd.config import STDLIB_CORPUS
from rasd.datastore import NewDocument
from rasd.errors import ConfigError
from rasd.retrieval.lines import SUFFIXES, PassedOver, bare, parse_line

Reject = Callable[[str, str], None]
"""Takes the place of what is no document, and why."""

_JSON_SPACE: Final = 2**20
"""Room for id, metadata and spelling in a line of JSON, beside a text escaped to six times."""
_SKIPPED: Final = 2**16
"""Bytes of a line that is too long that are in memory at once."""


def documents_of(
    source: str, *, max_bytes: int, reject: Reject, passed_over: PassedOver
) -> Iterator[NewDocument]:
    """Documents as they are read; memory holds one at a time. Their content is not checked.

    What cannot be read as a document goes to ``reject``, and reading goes on.

    Args:
        source: ``stdlib``, the text of Python's standard library without what is held out for
            measuring; a ``.jsonl`` file, see `json_lines`; a folder, whose files are documents
            named by their path, hidden ones passed over; or one file of text. All are UTF-8.
        max_bytes: what a text may have; longer files and lines are not read.
        passed_over: is told the fields of lines that are no part of a document.

    Raises:
        ConfigError: the source is not there, or not readable at all.
    """
    if source == STDLIB_CORPUS:
        return _stdlib()
    path = Path(source).expanduser()
    if path.is_dir():
        return _files(path, _visible(path), max_bytes, reject)
    if not path.is_file():
        raise ConfigError(
            f"source must be {STDLIB_CORPUS!r}, a JSONL file, or a folder or file of text; "
            f"got {source!r}"
        )
    if path.suffix in SUFFIXES:
        return _json_file(path, max_bytes, reject, passed_over)
    return _files(path.parent, [path], max_bytes, reject)


def json_lines(
    file: BinaryIO, *, name: str, max_bytes: int, reject: Reject, passed_over: PassedOver
) -> Iterator[NewDocument]:
    """Documents of JSON objects, one per line, see `parse_line`; closes the file at its end.

    Blank lines are passed over. Places are ``name, line 7``.

    Raises:
        ConfigError: reading fails.
    """
    for number, line in enumerate(_lines(file, name, 6 * max_bytes + _JSON_SPACE), start=1):
        place = f"{name}, line {number}"
        if line is None:
            reject(place, f"a line must be at most {6 * max_bytes + _JSON_SPACE} bytes; got more")
        elif content := bare(line, first=number == 1):
            try:
                document, fields = parse_line(content)
            except ValueError as error:
                reject(place, str(error))
            else:
                passed_over.add(fields)
                yield document


def _json_file(
    path: Path, max_bytes: int, reject: Reject, passed_over: PassedOver
) -> Iterator[NewDocument]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(f"{path}: {error}") from error
    yield from json_lines(
        file, name=str(path), max_bytes=max_bytes, reject=reject, passed_over=passed_over
    )


def _lines(file: BinaryIO, name: str, limit: int) -> Iterator[bytes | None]:
    """The lines of a file; None for those over the limit, which are never in memory whole."""
    try:
        with file:
            while line := file.readline(limit + 1):
                if len(line) <= limit:
                    yield line
                    continue
                while line and not line.endswith(b"\n"):
                    line = file.readline(_SKIPPED)
                yield None
    except OSError as error:
        raise ConfigError(f"{name}: {error}") from error


def _stdlib() -> Iterator[NewDocument]:
    from rasd.train import text  # only here: serving other corpora needs nothing of training

    for document in text.documents(held_out=False):
        yield NewDocument(document.id, document.text)


def _visible(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        names = path.relative_to(folder).parts
        if path.is_file() and not any(name.startswith(".") for name in names):
            yield path


def _files(
    folder: Path, paths: Iterable[Path], max_bytes: int, reject: Reject
) -> Iterator[NewDocument]:
    for path in paths:
        try:
            size = path.stat().st_size
            if size > max_bytes:
                raise ValueError(f"text must be at most {max_bytes} bytes of UTF-8; got {size}")
            text = path.read_text("utf-8")
        except (OSError, ValueError) as error:
            reject(str(path), str(error))
        else:
            yield NewDocument(path.relative_to(folder).as_posix(), text)
