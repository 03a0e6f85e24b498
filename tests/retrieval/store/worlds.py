"""Documents for the tests of the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rasd.retrieval.store.corpora import CorpusSpec, create_corpus, partition_path, read_spec
from rasd.retrieval.store.dead import dead_of
from rasd.retrieval.store.documents import open_documents
from rasd.retrieval.store.manifest import docs_path, newest
from rasd.retrieval.store.records import Delete, Document, Operation, Put
from rasd.retrieval.store.verify import verify

VOCABULARY = 100_000


def document(id_: str, *tokens: int, text: str | None = None, **metadata: object) -> Document:
    return Document(id_, np.asarray(tokens or (1,), np.uint32), text, metadata)


def random_document(
    rng: np.random.Generator, id_: str, *, longest: int = 30, vocabulary: int = VOCABULARY
) -> Document:
    tokens = rng.integers(0, vocabulary, rng.integers(1, longest + 1))
    text = None if rng.random() < 0.5 else "ä" * int(rng.integers(0, longest))
    metadata = {} if rng.random() < 0.5 else {"n": float(rng.random()), "at": [1, None, "x"]}
    return Document(id_, tokens.astype(np.uint32), text, metadata)


def same(one: Document, other: Document) -> bool:
    """Whether all of it is equal, also the types of numbers."""
    return (
        (one.id, one.text, one.metadata) == (other.id, other.text, other.metadata)
        and one.tokens.dtype == other.tokens.dtype == np.uint32
        and one.tokens.tolist() == other.tokens.tolist()
    )


Model = dict[str, Document]
"""What a corpus should hold, by id."""


def id_of(operation: Operation) -> str:
    return operation.id if isinstance(operation, Delete) else operation.document.id


def apply(model: Model, operations: Iterable[Operation]) -> None:
    """Does to a dict what a writer does to a corpus."""
    for operation in operations:
        model.pop(id_of(operation), None)
        if isinstance(operation, Put):
            model[operation.document.id] = operation.document


def is_one_of(found: Document | None, *states: Document | None) -> bool:
    """Whether a document, or its absence, is as in one of the states."""
    return any(
        same(found, state) if found and state else found is None and state is None
        for state in states
    )


def make_corpus(
    root: Path, name: str = "c", *, partitions: int = 2, vocabulary: int = VOCABULARY
) -> CorpusSpec:
    return create_corpus(
        root, name, partitions=partitions, vocabulary=vocabulary, tokenizer_hash="t"
    )


def live(root: Path, name: str = "c") -> Model:
    """All live documents, read the slow way: every file, every document."""
    found: Model = {}
    for partition in range(read_spec(root, name).partitions):
        path = partition_path(root, name, partition)
        manifest = newest(path)
        opened = {
            entry.number: open_documents(docs_path(path, entry.number))
            for entry in manifest.sources
        }
        dead = dead_of(path, manifest, opened)
        for number, documents in opened.items():
            for ordinal, document in enumerate(documents):
                if ordinal not in dead[number]:
                    assert document.id not in found
                    found[document.id] = document
    return found


def assert_holds(root: Path, model: Mapping[str, Document], name: str = "c") -> None:
    """The corpus holds exactly the documents of a dict, and everything on disk is sound."""
    found = live(root, name)
    assert found.keys() == model.keys()
    assert all(same(found[id_], model[id_]) for id_ in model)
    report = verify(root, [name])
    assert report.damaged == []
    assert report.documents == len(model)
    assert report.tokens == sum(len(document.tokens) for document in model.values())


def files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


class Submitter:
    """Calls at once, or when told to: ``hold`` keeps calls until `run`."""

    def __init__(self) -> None:
        self.hold = False
        self.calls = 0
        self._waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def __call__(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        self.calls += 1
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # a process that runs cannot be called back
        self._waiting.append((future, partial(function, *args)))
        if not self.hold:
            self.run()
        return future

    @property
    def waiting(self) -> int:
        """How many calls are kept."""
        return len(self._waiting)

    def run(self) -> None:
        """Does what was kept, and no more."""
        for _ in range(len(self._waiting)):
            self.run_one()

    def run_one(self, at: int = 0) -> None:
        """Does one of what was kept."""
        future, call = self._waiting.pop(at)
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    def lose(self, error: Exception) -> None:
        """The process that was to do it dies."""
        waiting, self._waiting = self._waiting, []
        for future, _ in waiting:
            future.set_exception(error)
