"""The EAGLE-2 drafter (arXiv 2406.16858): a head that continues the target's features.

Keeps the books: whose rows are cached, whose features wait for their tokens, who must make room.
`runner` does the forwards, `expand` grows the trees.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from rasd.config import DrafterConfig
from rasd.draft import Need
from rasd.draft.eagle_head import EagleHead
from rasd.draft.expand import select
from rasd.draft.features import FeatureBuffer
from rasd.draft.progress import Progress
from rasd.draft.runner import EagleRunner
from rasd.draft.weights import SharedWeights, checkpoint_dtype, find_file
from rasd.errors import ConfigError, ModelError
from rasd.stages import DraftQuery, DraftReply, DraftRequest, Features, Ready
from rasd.text import load_tokenizer, tokenizer_hash
from rasd.tree import Draft

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Job:
    """A query whose features are here: ``rows`` rows from position ``first`` on to be cached."""

    index: int
    query: DraftQuery
    progress: Progress
    first: int
    rows: int


class EagleDrafter:
    """Drafts with an EAGLE head; a `rasd.draft.LoadedDrafter`.

    Memory is fixed at the start: ``config.kv_slots`` rows of keys and values, and as many
    features that wait for their tokens, at most ``config.window`` of one sequence. What does not
    fit is forgotten, the least recently used first, and starts cold later. Owned by one thread,
    whose caller sets the number of torch's threads.

    Args:
        config: sizes, device and dtype (``auto`` keeps the head's).
        head: taken over and moved there.
        shared: the target's; used as it is where device and dtype agree.

    Raises:
        ModelError: head and target do not fit together.
        ConfigError: ``kv_slots`` cannot hold a tree in one half.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"features", "embedding", "head"})

    def __init__(self, config: DrafterConfig, head: EagleHead, shared: SharedWeights) -> None:
        self._runner = EagleRunner(config, head, shared)
        self._rows = self._runner.rows
        self._levels, self._nodes = config.levels, config.nodes
        # Half of the slots for the rows of one sequence leaves the other half for its tree.
        most = config.kv_slots // 2 + self._runner.tree_rows
        if self._rows.pages_for(most) > self._rows.pool.pages:
            raise ConfigError(
                f"drafter.kv_slots must hold twice the {self._runner.tree_rows} nodes a tree "
                f"expands, in whole pages; got {config.kv_slots}"
            )
        self._limit = min(config.kv_slots // 2, config.window)
        self._features = FeatureBuffer(
            self._runner.width,
            self._runner.dtype,
            per_sequence=self._limit,
            total=config.kv_slots,
        )
        self._sequences: OrderedDict[int, Progress] = OrderedDict()  # least recently used first

    @classmethod
    def load(
        cls,
        config: DrafterConfig,
        target: str,
        *,
        revision: str | None = None,
        shared: SharedWeights | None = None,
    ) -> EagleDrafter:
        """Reads the head and, unless ``shared`` is given, two tensors of the target.

        Args:
            target: directory or hub id of the target, at ``revision``.

        Raises:
            ModelError, ConfigError: as the constructor; or a checkpoint cannot be read.
        """
        weights = find_file(config.model, "model.safetensors")
        if weights is None or find_file(config.model, "config.json") is None:
            raise ModelError(f"{config.model} lacks config.json or model.safetensors")
        head = EagleHead.load(weights.parent, checkpoint_dtype(weights))
        _check_tokenizer(head, target, revision)
        return cls(config, head, shared or SharedWeights.read(target, revision))

    # --- contract -----------------------------------------------------------------------------

    def put(self, features: Features) -> None:
        """Holds rows until their tokens come.

        Rows cached already are ignored; so are, with a warning, malformed or infinite ones.
        """
        start, rows = features.start, features.rows
        behind = max(self._cached(features.sequence) - start, 0)
        if not self._features.put(features.sequence, start + behind, rows[behind:]):
            log.warning(
                "sequence %d: unusable features %s%s from position %d",
                *(features.sequence, rows.dtype, rows.shape, start),
            )

    def ready(self, query: DraftQuery) -> bool:
        """Whether waiting for features gains nothing: the newest is here, or the query is bad."""
        if not self._valid(query):
            return True
        _, held = self._features.span(query.sequence)
        newest = query.start + len(query.tokens) - 1
        return max(self._cached(query.sequence), held) >= newest

    @torch.inference_mode()
    def propose(self, request: DraftRequest) -> Ready[DraftReply]:
        """Catches up with the decided tokens and drafts, all sequences in the same forwards.

        The answer is None where the query is malformed, the newest feature is missing, there is
        no room, or a long prompt is not caught up with yet: it enters over several requests. If a
        forward fails the request's sequences are forgotten and the error goes on.
        """
        for sequence in request.release:
            self._forget(sequence)
        drafts: list[Draft | None] = [None] * len(request.queries)
        jobs = self._admit(self._ration(self._jobs(request.queries)))
        try:
            self._catch_up([job for job in jobs if job.rows])
            self._draft([job for job in jobs if job.progress.caught_up], request.worth, drafts)
        except BaseException:
            for job in jobs:
                self._forget(job.query.sequence)
            raise
        return Ready(DraftReply(request.step, drafts))

    def close(self) -> None:
        """Forgets every sequence."""
        for sequence in [*self._sequences]:
            self._forget(sequence)
        self._features.clear()

    def check_integrity(self) -> None:
        """Checks pages, rows and counters against each other.

        Raises:
            RasdError: naming what is wrong.
        """
        self._rows.check_integrity()
        self._features.check_integrity()
        for sequence, progress in self._sequences.items():
            progress.check_integrity(sequence)

    # --- one request --------------------------------------------------------------------------

    def _valid(self, query: DraftQuery) -> bool:
        tokens = query.tokens
        return bool(
            query.start >= 0
            and query.nodes >= 0
            and tokens.ndim == 1
            and tokens.size > 0
            and np.issubdtype(tokens.dtype, np.integer)
            and tokens.min() >= 0
            and tokens.max() < self._runner.vocabulary
        )

    def _jobs(self, queries: list[DraftQuery]) -> list[_Job]:
        """Hears every query; returns those whose features are here, their caches open."""
        jobs: dict[int, _Job] = {}
        pages = self._rows.pool.pages  # more sequences can never be cached
        for index, query in enumerate(queries[:pages]):
            sequence = query.sequence
            if sequence in jobs or not self._valid(query):
                continue
            progress = self._sequences.setdefault(sequence, Progress())
            self._sequences.move_to_end(sequence)
            if progress.tree is not None and query.start == progress.end:
                self._runner.chances.learn(progress.tree, query.tokens.astype(np.int32))
            progress.hear(query, self._limit)
            first = progress.first_row(self._features.span(sequence))
            if first is None:
                continue
            if progress.newest is None or first != progress.cached:
                self._empty(sequence)
                self._rows.open(sequence)
            jobs[sequence] = _Job(index, query, progress, first, progress.end - 1 - first)
        while len(self._sequences) > pages:
            self._forget(next(iter(self._sequences)))
        return list(jobs.values())

    def _ration(self, jobs: list[_Job]) -> list[_Job]:
        """Shortest first, with no more rows in all than the other sequences can wait for."""
        left = self._runner.catch_up_rows
        rationed: list[_Job] = []
        for job in sorted(jobs, key=lambda job: job.rows):
            rationed.append(replace(job, rows=min(job.rows, left)))
            left -= rationed[-1].rows
        return rationed

    def _admit(self, jobs: list[_Job]) -> list[_Job]:
        """The first jobs, as many as fit; to make room, idle sequences lose their rows first."""
        asking = {job.query.sequence for job in jobs}
        idle = [sequence for sequence in self._sequences if sequence not in asking]
        while self._missing_pages(jobs) > 0:
            self._empty(idle.pop(0) if idle else jobs.pop().query.sequence)
        return jobs

    def _catch_up(self, jobs: list[_Job]) -> None:
        """Caches the rows of the jobs."""
        outputs = self._runner.extend(
            [job.query.sequence for job in jobs],
            [job.progress.next_tokens(job.first, job.rows) for job in jobs],
            [self._features.take(j.query.sequence, j.first, j.first + j.rows) for j in jobs],
        )
        for job, newest in zip(jobs, outputs, strict=True):
            job.progress.advance(job.first + job.rows, newest)

    def _draft(self, jobs: list[_Job], worth: float, drafts: list[Draft | None]) -> None:
        """Fills in the answers of the jobs."""
        if not jobs:
            return
        nodes = np.array([min(self._nodes, job.query.nodes) for job in jobs])
        levels = max(1, min(self._levels, int(nodes.max())))  # n nodes are at most n levels deep
        candidates = self._runner.grow(
            [job.query.sequence for job in jobs],
            [job.progress.output for job in jobs],
            nodes,
            levels,
            worth,
        )
        spoilt = set(candidates.owners[np.isnan(candidates.scores).any(1)].tolist())
        for place, job in enumerate(jobs):
            if place in spoilt:
                self._forget(job.query.sequence)  # the head overflowed: its rows are worthless
                continue
            root = int(job.query.tokens[-1])
            draft = select(candidates, place, root, int(nodes[place]))
            drafts[job.index] = draft
            job.progress.tree = draft.tree if worth > 0.0 else None

    # --- memory -------------------------------------------------------------------------------

    def _cached(self, sequence: int) -> int:
        """Position behind the last cached row."""
        progress = self._sequences.get(sequence)
        return progress.cached if progress is not None and progress.newest is not None else 0

    def _missing_pages(self, jobs: list[_Job]) -> int:
        needed = 0
        for job in jobs:
            cached = self._rows.length(job.query.sequence)
            rows = cached + job.rows + self._runner.tree_rows
            needed += self._rows.pages_for(rows) - self._rows.pages_for(cached)
        return needed - self._rows.pool.available

    def _empty(self, sequence: int) -> None:
        """Drops a sequence's rows; its text stays, so that it can start cold."""
        self._rows.close(sequence)
        self._sequences[sequence].newest = None

    def _forget(self, sequence: int) -> None:
        self._rows.close(sequence)
        self._features.drop(sequence)
        self._sequences.pop(sequence, None)


def _check_tokenizer(head: EagleHead, target: str, revision: str | None) -> None:
    """A head that says which tokenizer it learned must not draft in another one's tokens."""
    learned = getattr(head.config, "target_tokenizer_sha256", None)
    if learned is None:
        return
    found = tokenizer_hash(load_tokenizer(target, revision))
    if learned != found:
        raise ModelError(f"the EAGLE head was trained for tokenizer {learned}; got {found}")
