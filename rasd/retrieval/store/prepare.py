"""Corpora of the configuration: makes them, and says whether they still must be filled.

A file in the corpus tells from what, and whether all of it is there::

    root/<corpus>/seeded.json       `Marker`
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import msgspec

from rasd.config import CorpusConfig
from rasd.errors import NotFound, SegmentError, SegmentVersionError, TokenizerMismatch
from rasd.retrieval.files import storing, write_atomically
from rasd.retrieval.store.corpora import (
    CorpusSpec,
    corpus_path,
    create_corpus,
    drop_corpus,
    partition_path,
    read_spec,
)
from rasd.retrieval.store.intake import Intake
from rasd.retrieval.store.manifest import newest

MARKER: Final = "seeded.json"

_OLD_MANIFEST: Final = "manifest.json"
_log = logging.getLogger(__name__)


class Marker(msgspec.Struct, frozen=True):
    """What a corpus is filled from, and whether all of it is there."""

    source: str
    finished: bool


def mark(root: Path, corpus: CorpusConfig, *, finished: bool) -> None:
    """Writes the marker of a corpus, which must be there.

    Raises:
        StorageError: the root refuses it.
    """
    path = corpus_path(root, corpus.name) / MARKER
    with storing(path):
        write_atomically(path, [msgspec.json.encode(Marker(corpus.source, finished))])


def is_filled(root: Path, name: str) -> bool:
    """Whether a corpus is there and its source is no longer needed.

    So it is when it was filled to the end; or when somebody else put documents there.

    Raises:
        InvalidRequest: the name is not one.
        SegmentError: the corpus is damaged, or of another version.
    """
    marker = _read_marker(root, name)
    if marker is not None:
        return marker.finished
    try:
        partitions = read_spec(root, name).partitions
    except NotFound:
        return False
    except SegmentVersionError:
        if _is_outdated(root, name):
            return False
        raise
    return any(_holds_documents(partition_path(root, name, p)) for p in range(partitions))


def _read_marker(root: Path, name: str) -> Marker | None:
    try:
        return msgspec.json.decode((corpus_path(root, name) / MARKER).read_bytes(), type=Marker)
    except (OSError, msgspec.DecodeError):  # filling it again changes nothing
        return None


def _holds_documents(path: Path) -> bool:
    try:
        return newest(path).documents > 0
    except SegmentError:
        return True  # it did, and whatever is left must stay


def prepare(root: Path, name: str, intake: Intake, partitions: int) -> CorpusSpec:
    """Makes a corpus of the configuration unless it is there; one of the old layout anew.

    Those could only be made from their source, so nothing is lost.

    Raises:
        TokenizerMismatch: it was made with another tokenizer.
        SegmentError, StoreLocked, StorageError: it is damaged, in use, or cannot be made.
    """
    try:
        spec = read_spec(root, name)
    except NotFound:
        spec = _create(root, name, intake, partitions)
    except SegmentVersionError:
        if not _is_outdated(root, name):
            raise
        _log.warning("corpus %s is of an older version and made anew from its source", name)
        drop_corpus(root, name)
        spec = _create(root, name, intake, partitions)
    check_fits(spec, intake)
    return spec


def _create(root: Path, name: str, intake: Intake, partitions: int) -> CorpusSpec:
    return create_corpus(
        root,
        name,
        partitions=partitions,
        vocabulary=intake.vocabulary,
        tokenizer_hash=intake.tokenizer_hash,
    )


def _is_outdated(root: Path, name: str) -> bool:
    """Whether a corpus is of the layout that could only be built once, not of a newer one."""
    return (corpus_path(root, name) / _OLD_MANIFEST).is_file()


def check_fits(spec: CorpusSpec, intake: Intake) -> None:
    """Refuses a corpus of another tokenizer.

    Raises:
        TokenizerMismatch: it is.
    """
    wanted = (intake.tokenizer_hash, intake.vocabulary)
    if (spec.tokenizer_hash, spec.vocabulary) != wanted:
        raise TokenizerMismatch(
            f"corpus {spec.name!r}: tokenizer_hash and vocabulary must be {wanted}; "
            f"got {(spec.tokenizer_hash, spec.vocabulary)}"
        )
