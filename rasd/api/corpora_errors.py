"""Errors of the datastore for clients: they name the corpus, never where the server keeps it."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import Final

from rasd.datastore import Failure
from rasd.errors import (
    Conflict,
    NotFound,
    Overloaded,
    RasdError,
    SegmentError,
    StorageError,
    StoreLocked,
)

log = logging.getLogger("rasd.api")

_OF_FILES: Final = (StorageError, StoreLocked, Overloaded, Conflict, SegmentError)
_ABSOLUTE: Final = re.compile(r"(?:^|[\s'\"(=])/\S")


def no_corpus(name: str) -> NotFound:
    """That there is none of a name, in the words of all routes."""
    return NotFound(f"there is no corpus {name!r:.100}", param="name")


def for_client(error: RasdError, corpus: str | None) -> RasdError:
    """The error without paths of this server, which go to the log.

    Args:
        corpus: what the call was about; None if it was about all of them.

    Returns:
        The error itself if there is nothing to hide, else another of the same type.
    """
    if corpus is not None and isinstance(error, NotFound) and error.param in ("corpus", "name"):
        log.info("%s", error)
        return no_corpus(corpus)
    if not isinstance(error, _OF_FILES):
        return error
    message = _without_paths(str(error), corpus)
    if message == str(error):
        return error
    log.warning("%s", error)
    if isinstance(error, Overloaded):
        return Overloaded(message, retry_after_s=error.retry_after_s)
    return type(error)(message)


def failure_for_client(failure: Failure) -> Failure:
    """The failure in a line, without paths of this server; the writer's log has all of it."""
    line = failure.error.partition("\n")[0]
    return replace(failure, error=_without_paths(line, failure.corpus))


def _without_paths(message: str, corpus: str | None) -> str:
    if corpus is not None:
        # Up to the folder of the corpus: a root may hold any characters.
        message = re.sub(rf"/(?:.*/)?(?={re.escape(corpus)}(?![\w.-]))", "", message)
    if _ABSOLUTE.search(message) is None:
        return message
    about = "the datastore" if corpus is None else f"corpus {corpus!r}"
    return f"{about}: files are damaged, in use, or cannot be written; the server's log says more"
