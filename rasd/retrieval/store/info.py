"""What a corpus holds, from its manifests alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rasd.datastore import CorpusInfo
from rasd.errors import NotFound, SegmentError
from rasd.retrieval.store.corpora import SPEC, list_corpora, partition_path, read_spec
from rasd.retrieval.store.manifest import newest


def corpus_info(root: Path, name: str) -> CorpusInfo:
    """A corpus. Parts that cannot be read are named in ``damaged`` and not counted.

    Raises:
        NotFound: there is none of that name.
        InvalidRequest: the name is not one.
    """
    try:
        spec = read_spec(root, name)
    except SegmentError:
        return CorpusInfo(name, 0, 0, "", 0.0, 0, 0, 0, 0, 0, [SPEC])
    documents = tokens = segments = size = memory_tokens = 0
    damaged: list[str] = []
    for partition in range(spec.partitions):
        path = partition_path(root, name, partition)
        try:
            manifest = newest(path)
        except (SegmentError, NotFound):
            damaged.append(path.name)
            continue
        documents += manifest.documents
        tokens += manifest.tokens
        segments += len(manifest.segments)
        size += sum(source.bytes for source in manifest.sources)
        memory_tokens += sum(log.tokens for log in manifest.logs)
    if len(damaged) == spec.partitions:
        read_spec(root, name)  # it may have been dropped just now
    return CorpusInfo(
        name,
        spec.partitions,
        spec.vocabulary,
        spec.tokenizer_hash,
        spec.created,
        documents,
        tokens,
        segments,
        size,
        memory_tokens,
        damaged,
    )


def with_damaged(corpus: CorpusInfo, files: Iterable[str]) -> CorpusInfo:
    """The same, with more files that are damaged."""
    return replace(corpus, damaged=sorted({*corpus.damaged, *files}))


def all_corpora(root: Path) -> list[CorpusInfo]:
    """All corpora of a root, by name. One that is dropped meanwhile is left out."""
    found: list[CorpusInfo] = []
    for name in list_corpora(root):
        try:
            found.append(corpus_info(root, name))
        except NotFound:
            continue
    return found
