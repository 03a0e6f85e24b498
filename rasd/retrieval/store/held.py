"""The partitions of one corpus that a shard holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from weakref import WeakValueDictionary

from rasd.errors import SegmentError, TokenizerMismatch
from rasd.retrieval.store.corpora import SPEC, CorpusSpec
from rasd.retrieval.store.followers import CorpusFollower, Identity
from rasd.retrieval.store.reader import PartitionReader, PartitionView

Pool = WeakValueDictionary[tuple[str, Identity, int], PartitionReader]
"""Open partitions, for as long as somebody holds them."""


class HeldCorpus:
    """Some partitions of a corpus that may not be there, not yet or no more."""

    def __init__(
        self,
        root: Path,
        name: str,
        partitions: frozenset[int] | None,
        *,
        vocabulary: int,
        tokenizer_hash: str,
        pool: Pool,
    ) -> None:
        """All partitions if None; those that a corpus does not have hold nothing. Reads nothing.

        Raises:
            InvalidRequest: the name is none.
        """
        self._root = root
        self._partitions = partitions
        self._made_with = (vocabulary, tokenizer_hash)
        self._pool = pool
        self._corpus = CorpusFollower(root, name, self._open)

    @property
    def views(self) -> tuple[PartitionView, ...]:
        """What is to be searched, after the last `refresh`."""
        return tuple([reader.view for reader in self._corpus.partitions])

    @property
    def refused(self) -> Mapping[str, SegmentError]:
        """Why files do not serve, by name below the corpus."""
        error = self._corpus.refused
        refused: dict[str, SegmentError] = {} if error is None else {SPEC: error}
        for reader in self._corpus.partitions:
            refused.update(reader.view.refused)
        return refused

    @property
    def waiting_s(self) -> float:
        """Age of the oldest commit that `views` do not show; 0 if there is none."""
        return max((reader.waiting_s for reader in self._corpus.partitions), default=0.0)

    def refresh(self) -> None:
        """Follows whatever corpus has the name. Never raises; one thread at a time."""
        self._corpus.refresh()

    def _open(self, spec: CorpusSpec, identity: Identity) -> list[PartitionReader]:
        made_with = (spec.vocabulary, spec.tokenizer_hash)
        if made_with != self._made_with:
            raise TokenizerMismatch(
                f"{spec.name}/{SPEC}: vocabulary and tokenizer_hash must be {self._made_with}; "
                f"got {made_with}"
            )
        held = set(range(spec.partitions))
        if self._partitions is not None:
            held &= self._partitions
        return [self._reader(spec, identity, partition) for partition in sorted(held)]

    def _reader(self, spec: CorpusSpec, identity: Identity, partition: int) -> PartitionReader:
        key = (spec.name, identity, partition)
        reader = self._pool.get(key)
        if reader is None:
            reader = self._pool.setdefault(key, PartitionReader(self._root, spec, partition))
        return reader
