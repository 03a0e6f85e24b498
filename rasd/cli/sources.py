"""What to upload: lines of JSON, files of text, folders and standard input, by their names."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from rasd.cli.reading import Source
from rasd.errors import InvalidRequest
from rasd.retrieval.lines import SUFFIXES

Format = Literal["auto", "jsonl", "text"]

STDIN: Final = "-"


@dataclass(slots=True)
class Found:
    """What the arguments name. ``hidden`` and ``special`` count what was passed over."""

    sources: list[Source]
    hidden: int = 0
    special: int = 0


def find_sources(
    names: list[str], *, kind: Format = "auto", id_: str | None = None, prefix: str = ""
) -> Found:
    """The sources that arguments name; nothing is read yet.

    A file is lines of JSON by its name or ``kind``, else one document named by ``id_``, or by its
    path as given. A folder's regular files are documents named by their path below it; links and
    special files are passed over, as is what is hidden. ``prefix`` stands before ids of files.

    Raises:
        InvalidRequest: one is not there, or the options do not fit.
    """
    if id_ is not None and len(names) != 1:
        raise InvalidRequest(f"--id needs exactly one source; got {len(names)}")
    found = Found([])
    for name in names:
        path = Path(name)
        if name != STDIN and path.is_dir():
            if id_ is not None or kind == "jsonl":
                raise InvalidRequest(f"{name} is a folder: its files are texts with their own ids")
            _walk(path, prefix, found)
        else:
            found.sources.append(_named(name, path, kind, id_, prefix))
    _refuse_doubles(found)
    return found


def _named(name: str, path: Path, kind: Format, id_: str | None, prefix: str) -> Source:
    is_stdin = name == STDIN
    lines = kind == "jsonl" or (kind == "auto" and (is_stdin or path.suffix in SUFFIXES))
    if id_ is not None and kind != "jsonl":
        lines = False
    if is_stdin:
        if not lines and id_ is None:
            raise InvalidRequest("a text from standard input needs --id")
        return Source("standard input", None, None if lines else id_)
    try:
        status = path.stat()
    except OSError as error:
        raise InvalidRequest(f"{name}: {error.strerror}") from error
    document = None if lines else id_ if id_ is not None else prefix + path.as_posix()
    known = stat.S_ISREG(status.st_mode)
    return Source(
        name,
        path,
        document,
        status.st_size if known else 0,
        _key(path, status, document) if known else "",
        follow=True,
    )


def _walk(folder: Path, prefix: str, found: Found) -> None:
    def failed(error: OSError) -> None:
        name = str(error.filename)
        reason = f"the folder cannot be read: {error.strerror}"
        found.sources.append(Source(name, None, name, fault=reason))

    for place, folders, files in os.walk(folder, onerror=failed):
        kept = [name for name in sorted(folders) if not name.startswith(".")]
        links = [name for name in kept if os.path.islink(os.path.join(place, name))]
        found.hidden += len(folders) - len(kept)
        found.special += len(links)
        folders[:] = [name for name in kept if name not in links]
        for name in sorted(files):
            if name.startswith("."):
                found.hidden += 1
            else:
                _file(folder, Path(place, name), prefix, found)


def _file(folder: Path, path: Path, prefix: str, found: Found) -> None:
    id_ = prefix + path.relative_to(folder).as_posix()
    try:
        status = path.lstat()
    except OSError as error:
        found.sources.append(Source(str(path), path, id_, fault=error.strerror or str(error)))
        return
    if not stat.S_ISREG(status.st_mode):
        found.special += 1
        return
    found.sources.append(Source(str(path), path, id_, status.st_size, _key(path, status, id_)))


def _refuse_doubles(found: Found) -> None:
    first: dict[str, Source] = {}
    for at, source in enumerate(found.sources):
        if source.id is None:
            continue
        other = first.setdefault(source.id, source)
        if (other.key or other.name) != (source.key or source.name):
            reason = f"its id {source.id!r:.200} is that of {other.name}, too; use --prefix"
            found.sources[at] = Source(source.name, source.path, source.id, fault=reason)


def _key(path: Path, status: os.stat_result, id_: str | None) -> str:
    parts = (os.path.abspath(path), status.st_size, status.st_mtime_ns, id_)
    return hashlib.blake2b(repr(parts).encode(errors="replace"), digest_size=12).hexdigest()
