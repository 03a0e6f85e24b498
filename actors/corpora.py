"""Looks which corpora the storage root holds. Whoever makes or drops one need not tell."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from actors.plan import Corpus
from rasd.config import DatastoreConfig
from rasd.errors import NotFound, RasdError
from rasd.retrieval.store.corpora import SPEC, list_corpora, read_spec

_log = logging.getLogger(__name__)

# Of a file that is written once: the same one need not be read again.
_Stamp = tuple[int, int]


def configured_corpora(store: DatastoreConfig | None) -> frozenset[str]:
    """Names that a request may use before they are there. They add nothing yet."""
    return frozenset(corpus.name for corpus in store.corpora) if store else frozenset()


class CorporaWatch:
    """The corpora of a root that fit a tokenizer. Belongs to one thread."""

    def __init__(self, root: Path, vocabulary: int, tokenizer_hash: str) -> None:
        self._root = root
        self._fits = (vocabulary, tokenizer_hash)
        self._seen: dict[str, tuple[_Stamp, Corpus | None]] = {}

    def look(self) -> dict[str, Corpus]:
        """All there are. What cannot be read, or is of another tokenizer, is logged once.

        Raises:
            OSError: the root cannot be listed; nothing is known of what it holds.
        """
        if not self._root.exists():
            return {}
        os.listdir(self._root)  # `list_corpora` would say that there is nothing
        seen = self._seen
        self._seen = {}
        for name in list_corpora(self._root):
            try:
                stamp = _stamp(self._root / name / SPEC)
            except OSError:  # it was dropped just now
                continue
            before = seen.get(name)
            known = before if before and before[0] == stamp else (stamp, self._read(name))
            self._seen[name] = known
        return {name: corpus for name, (_, corpus) in self._seen.items() if corpus}

    def _read(self, name: str) -> Corpus | None:
        try:
            spec = read_spec(self._root, name)
        except NotFound:
            return None
        except RasdError as error:
            _log.error("corpus %s is not served: %s", name, error)
            return None
        if (spec.vocabulary, spec.tokenizer_hash) != self._fits:
            _log.error("corpus %s is not served: it was made with another tokenizer", name)
            return None
        return Corpus(spec.partitions, spec.created)


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns
