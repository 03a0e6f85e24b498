"""Which corpora there are. A corpus appears whole and goes whole.

::

    root/<corpus>/corpus.json       `CorpusSpec`, written once
    root/<corpus>/writer.lock       held by the one process that writes
    root/<corpus>/partition-0003/   see `manifest`
"""

from __future__ import annotations

import errno
import re
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import msgspec
from pydantic import TypeAdapter, ValidationError

from rasd.config import Name
from rasd.errors import Conflict, InvalidRequest, NotFound, SegmentCorrupt, SegmentVersionError
from rasd.retrieval.files import creating, storing, sync_directory
from rasd.retrieval.segment import MAX_HASH_CHARS, MAX_VOCABULARY
from rasd.retrieval.store.lock import WriterLock
from rasd.retrieval.store.manifest import PartitionManifest, commit
from rasd.retrieval.store.sealed import FORMAT, seal, unseal

SPEC: Final = "corpus.json"
LOCK: Final = "writer.lock"
MAX_PARTITIONS: Final = 1024

_COMPARED: Final = ("partitions", "vocabulary", "tokenizer_hash")
_OLD_MANIFEST: Final = "manifest.json"
_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)
_ABANDONED_S: Final = 3600.0
_OURS: Final = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<what>new|dropped)")


class CorpusSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a corpus is; never changes. ``created`` is in seconds since 1970."""

    format: int
    name: str
    partitions: Annotated[int, msgspec.Meta(ge=1, le=MAX_PARTITIONS)]
    vocabulary: Annotated[int, msgspec.Meta(ge=1, le=MAX_VOCABULARY)]
    tokenizer_hash: Annotated[str, msgspec.Meta(pattern=f"^[!-~]{{1,{MAX_HASH_CHARS}}}$")]
    created: float


def corpus_path(root: Path, name: str) -> Path:
    """Where the corpus lies; never outside ``root``.

    Raises:
        InvalidRequest: the name is not one (`rasd.config.Name`).
    """
    try:
        return root / _NAME.validate_python(name, strict=True)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InvalidRequest(f"corpus name: {reason}; got {name!r}", param="corpus") from error


def partition_path(root: Path, name: str, partition: int) -> Path:
    """Where a partition lies. Raises as `corpus_path`."""
    return corpus_path(root, name) / f"partition-{partition:04d}"


def list_corpora(root: Path) -> list[str]:
    """Names of all corpora, sorted. Those of the old layout are none."""
    found = []
    for path in root.glob(f"*/{SPEC}"):
        with suppress(InvalidRequest):
            found.append(corpus_path(root, path.parent.name).name)
    return sorted(found)


def read_spec(root: Path, name: str) -> CorpusSpec:
    """What a corpus is.

    Raises:
        NotFound: there is none of that name.
        InvalidRequest: the name is not one.
        SegmentCorrupt, SegmentVersionError: it is damaged, or of another version.
    """
    path = corpus_path(root, name) / SPEC
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.with_name(_OLD_MANIFEST).is_file():
            raise SegmentVersionError(
                f"{path.parent}: format must be {FORMAT}; it was made by an older version: drop "
                "it and add its documents again"
            ) from error
        raise NotFound(f"no corpus {name!r} in {root}", param="corpus") from error
    except OSError as error:
        raise SegmentCorrupt(f"{path}: cannot be read: {error}") from error
    spec = unseal(path, raw, CorpusSpec)
    if spec.name != name:
        raise SegmentCorrupt(f"{path}: name must be {name!r}; got {spec.name!r}")
    return spec


def create_corpus(
    root: Path, name: str, *, partitions: int, vocabulary: int, tokenizer_hash: str
) -> CorpusSpec:
    """Makes an empty corpus; all of it appears at once. Making it again changes nothing.

    Raises:
        InvalidRequest: the name or a number is wrong.
        Conflict: it exists, and is different.
        SegmentCorrupt, SegmentVersionError: as `read_spec`.
        StorageError: the root refuses it.
    """
    wanted = (partitions, vocabulary, tokenizer_hash)
    try:
        spec = read_spec(root, name)
    except NotFound:
        fields = dict(zip(CorpusSpec.__struct_fields__, (FORMAT, name, *wanted), strict=False))
        try:
            spec = msgspec.convert({**fields, "created": time.time()}, CorpusSpec)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"corpus {name!r}: {error}") from error
        _make(root, spec)
        spec = read_spec(root, name)
    got = (spec.partitions, spec.vocabulary, spec.tokenizer_hash)
    differing = [
        f"{field} {there}; asked for {asked}"
        for field, there, asked in zip(_COMPARED, got, wanted, strict=True)
        if there != asked
    ]
    if differing:
        raise Conflict(f"corpus {name!r} exists with " + ", and with ".join(differing))
    return spec


def _make(root: Path, spec: CorpusSpec) -> None:
    place = corpus_path(root, spec.name)
    draft = root / f".{spec.name}.{secrets.token_hex(4)}.new"
    with storing(place):
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        try:
            draft.mkdir()
            for partition in range(spec.partitions):
                path = draft / f"partition-{partition:04d}"
                path.mkdir()
                empty = PartitionManifest(
                    FORMAT, partition, 1, 0, "", 1, 0, 0, time.time(), sources=[]
                )
                commit(path, empty)
            with creating(draft / SPEC) as file:
                file.write(seal(spec))
            sync_directory(draft)
            draft.rename(place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not (place / SPEC).is_file():  # else made by another process just now
                raise Conflict(f"{place} is in the way: it is no corpus") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        sync_directory(root)


def drop_corpus(root: Path, name: str) -> None:
    """Removes a corpus with all its files, also one of the old layout.

    Raises:
        NotFound: there is none of that name.
        StoreLocked: a process has it open for writing.
        StorageError: the root refuses it.
    """
    place = corpus_path(root, name)
    if not (place / SPEC).is_file() and not (place / _OLD_MANIFEST).is_file():
        raise NotFound(f"no corpus {name!r} in {root}", param="corpus")
    lock = WriterLock(place / LOCK)
    try:
        with storing(place):
            place.rename(root / f".{name}.{secrets.token_hex(4)}.dropped")
            sync_directory(root)
    finally:
        lock.release()
    _sweep(root)


def _sweep(root: Path) -> None:
    """Removes what was dropped, and what its maker left unfinished when it was killed."""
    for path in root.glob(".*"):
        ours = _OURS.fullmatch(path.name)
        if not ours or not _is_name(ours["name"]):
            continue  # whoever made it may need it
        try:
            age = time.time() - path.stat().st_mtime
        except OSError:
            continue
        if ours["what"] == "dropped" or age > _ABANDONED_S:
            shutil.rmtree(path, ignore_errors=True)


def _is_name(name: str) -> bool:
    try:
        _NAME.validate_python(name, strict=True)
    except ValidationError:
        return False
    return True
