"""Looks which corpora the storage root holds. Whoever makes or drops one need not tell."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

from actors.plan import Corpus
from rasd.config import DatastoreConfig
from rasd.errors import NotFound, RasdError
from rasd.retrieval.store.corpora import SPEC, CorpusSpec, list_corpora, read_spec
from rasd.retrieval.store.follow import may_pass

_log = logging.getLogger(__name__)

# Of a file that is written once: the same one need not be read again.
_Stamp = tuple[int, int]
_Known = tuple[_Stamp, Corpus | None]


def configured_corpora(store: DatastoreConfig | None) -> frozenset[str]:
    """Names that a request may use before they are there. They add nothing yet."""
    return frozenset(corpus.name for corpus in store.corpora) if store else frozenset()


class CorporaWatch:
    """The corpora of a root that fit a tokenizer. Belongs to one thread."""

    def __init__(self, root: Path, vocabulary: int, tokenizer_hash: str) -> None:
        self._root = root
        self._fits = (vocabulary, tokenizer_hash)
        self._seen: dict[str, _Known] = {}
        self._unread: dict[str, str] = {}  # why, of what the system would not read just now

    def look(self) -> dict[str, Corpus]:
        """All there are. What cannot be read, or is of another tokenizer, is logged once.

        A corpus that the system would not read is as it was, and read again by the next look.

        Raises:
            OSError: the root cannot be listed, or is missing or empty after there were corpora,
                as a shared directory is that is not mounted; nothing is known of what it holds.
        """
        if not self._root_is_there():
            return {}
        seen: dict[str, _Known] = {}
        unread: dict[str, str] = {}
        for name in list_corpora(self._root):
            before = self._seen.get(name)
            try:
                known = self._known(name, before)
            except (OSError, RasdError) as error:
                unread[name] = str(error)
                if self._unread.get(name) != unread[name]:
                    _log.error("corpus %s cannot be read just now: %s", name, error)
                known = before
            if known is not None:
                seen[name] = known
        self._seen, self._unread = seen, unread
        return {name: corpus for name, (_, corpus) in seen.items() if corpus}

    def _root_is_there(self) -> bool:
        try:
            found = os.listdir(self._root)  # `list_corpora` would say that there is nothing
        except FileNotFoundError:
            found = []
        if not found and self._seen:
            raise FileNotFoundError(
                errno.ENOENT, "missing or empty, though it held corpora", str(self._root)
            )
        return bool(found)

    def _known(self, name: str, before: _Known | None) -> _Known | None:
        """What a corpus is; None if it was dropped just now. Raises what `may_pass`."""
        try:
            stamp = _stamp(self._root / name / SPEC)
            if before is not None and before[0] == stamp:
                return before
            spec = read_spec(self._root, name)
        except (NotFound, FileNotFoundError, NotADirectoryError):
            return None
        except RasdError as error:
            if may_pass(error):
                raise
            _log.error("corpus %s is not served: %s", name, error)
            return stamp, None
        return stamp, self._fitting(name, spec)

    def _fitting(self, name: str, spec: CorpusSpec) -> Corpus | None:
        if (spec.vocabulary, spec.tokenizer_hash) != self._fits:
            _log.error("corpus %s is not served: it was made with another tokenizer", name)
            return None
        return Corpus(spec.partitions, spec.created)


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns
