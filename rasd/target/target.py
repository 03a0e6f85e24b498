"""The target in this process: one forward over all trees, one walk per tree."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from rasd import kernels
from rasd.config import TargetConfig
from rasd.forward.graphs import graphs_of
from rasd.kv import PagedCache, Prefixes
from rasd.sampling import Draws
from rasd.stages import (
    Admission,
    Features,
    FeatureSink,
    Ready,
    TargetInfo,
    Verified,
    VerifyReply,
    VerifyRequest,
    Work,
)
from rasd.target.check import fault_of, fault_of_bias, fault_of_held, lacking
from rasd.target.load import LoadedModel, load_model
from rasd.target.ranks import Ranks
from rasd.target.runner import Outputs, Runner
from rasd.tree import Int32s
from rasd.verify import Walk, walk

_log = logging.getLogger(__name__)

# Output that a sequence is given room for in a row. Most end earlier; what goes on beyond may
# still find the next pages free.
_ROOM = 512


@dataclass(slots=True)
class _Sequence:
    """An admitted sequence.

    Attributes:
        fault: why it cannot run at all.
        held: tokens whose keys and values were there at its admission, until its first work.
    """

    draws: Draws
    features: bool
    fault: str
    held: Int32s = field(default_factory=lambda: np.zeros(0, np.int32))


class LocalTarget:
    """A `Target` whose model runs here. Under tensor parallelism, one of its ranks.

    Owns the model, the cache and every sequence's drawing state.
    """

    def __init__(
        self, loaded: LoadedModel, config: TargetConfig, features: FeatureSink | None = None
    ) -> None:
        kernels.warm_up()
        proven = loaded.proven
        self.model = loaded.model
        self.cache = PagedCache(
            proven.specs, config.kv_slots, config.page_size, proven.dtype, loaded.device
        )
        self._body = graphs_of(loaded.body, self.cache, loaded.device) or loaded.body
        self._prefixes = Prefixes(self.cache) if config.prefix_cache else None
        self._runner = Runner(self._body, self.cache, loaded.device)
        self._ranks = Ranks(loaded.device, config.tensor_parallel)
        self._sink = features if self._ranks.first else None
        self._threads = config.threads
        self._device = loaded.device
        self._sequences: dict[int, _Sequence] = {}
        self._info = TargetInfo(
            vocabulary=proven.vocabulary,
            max_positions=loaded.max_positions,
            kv_slots=self.cache.pool.pages * config.page_size,
            page_size=config.page_size,
            feature_size=proven.feature_size,
        )

    @classmethod
    def load(cls, config: TargetConfig, *, features: FeatureSink | None = None) -> LocalTarget:
        """Loads a model; see `load_model` for what may fail.

        Args:
            features: takes the hidden states of sequences admitted with ``features``.
        """
        torch.set_num_threads(config.threads)
        return cls(load_model(config), config, features)

    @property
    def info(self) -> TargetInfo:
        return self._info

    def close(self) -> None:
        """Frees all sequences and takes our hook off the model."""
        self._release(list(self._sequences))
        self._body.close()

    @torch.inference_mode()
    def verify(self, request: VerifyRequest) -> Ready[VerifyReply]:
        """Runs one step.

        Raises:
            KVExhausted: the work does not fit. Only the releases are done, as after any other
                fault of the whole step; the rest may be sent again.
        """
        if torch.get_num_threads() != self._threads:  # a drafter may share the process
            torch.set_num_threads(self._threads)
        self._release(request.release)
        restored = sum(self._admit(admission) for admission in request.admit)
        asked = sum(len(a.prompt) + len(a.output) for a in request.admit)
        faults = self._faults(request.work)
        left = [None if f else self._left(w) for w, f in zip(request.work, faults, strict=True)]
        works = [work for work in left if work is not None]
        began = time.perf_counter()
        try:
            outputs = self._runner.forward(works) if works else None
        except BaseException:
            self._release([admission.sequence for admission in request.admit])
            raise
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        forwarded = time.perf_counter()
        walks = iter(self._settle(works, outputs) if outputs else [])
        results = [
            _failed(work, fault) if fault else self._result(work, next(walks) if rest else None)
            for work, rest, fault in zip(request.work, left, faults, strict=True)
        ]
        walked = time.perf_counter()
        return Ready(
            VerifyReply(
                request.step, results, forwarded - began, walked - forwarded, asked, restored
            )
        )

    # --- sequences --------------------------------------------------------------------------

    def _release(self, sequences: Sequence[int]) -> None:
        for sequence in sequences:
            self.cache.close(sequence)
            self._sequences.pop(sequence, None)
            if self._prefixes is not None:
                self._prefixes.end(sequence)

    def _admit(self, admission: Admission) -> int:
        """A sequence that cannot run says so at its first work: admissions have no answer.

        Returns:
            tokens whose keys and values are there.
        """
        fault = fault_of_bias(list(admission.params.logit_bias), self._info.vocabulary)
        known = self._sequences.get(admission.sequence)
        if known is not None:
            known.fault = f"sequence {admission.sequence} was admitted twice"
            return 0
        self.cache.open(admission.sequence)
        draws = Draws(
            admission.params,
            prompt=admission.prompt,
            output=admission.output,
            choice=admission.choice,
        )
        held = self._restore(admission)
        self._sequences[admission.sequence] = _Sequence(draws, admission.features, fault, held)
        return len(held)

    def _restore(self, admission: Admission) -> Int32s:
        """The beginning of its text whose keys and values are there, and in its slots now."""
        text = np.concatenate([admission.prompt, admission.output])
        if self._prefixes is None:
            return text[:0]
        left = admission.params.max_tokens - len(admission.output)
        room = len(text) + max(min(left, _ROOM), 0)
        rows = self._prefixes.begin(admission.sequence, admission.tenant, text, room)
        return text[:rows]

    def _faults(self, works: Sequence[Work]) -> list[str]:
        """Why each work cannot run; empty where it can."""
        faults: list[str] = []
        seen: set[int] = set()
        for work in works:
            state = self._sequences.get(work.sequence)
            if state is None:
                faults.append(f"sequence {work.sequence} is unknown to the target")
            elif work.sequence in seen:
                faults.append(f"sequence {work.sequence} has two works in one step")
            else:
                length = self.cache.length(work.sequence) - len(state.held)
                fault = state.fault or fault_of(work, length, self._info)
                faults.append(fault or fault_of_held(work, state.held))
            seen.add(work.sequence)
        return faults

    def _left(self, work: Work) -> Work | None:
        """What has to be run of a work without fault; None if nothing."""
        return lacking(work, len(self._sequences[work.sequence].held))

    # --- after the forward ------------------------------------------------------------------

    def _settle(self, works: Sequence[Work], outputs: Outputs) -> list[Walk | str]:
        """Walks every tree, keeps the accepted nodes, and sends their features."""
        walks = [
            self._walk(work, rows) if self._ranks.first else ""
            for work, rows in zip(works, outputs.logits, strict=True)
        ]
        walks = _agree(self._ranks, works, walks)
        kept = {
            work.sequence: [] if isinstance(walk, str) else [*range(work.decided), *walk.path]
            for work, walk in zip(works, walks, strict=True)
        }
        if self._sink is not None:
            self._send(self._sink, works, kept, outputs)
        self.cache.commit_all(kept)
        if self._prefixes is not None:
            for work in works:
                self._prefixes.extend(work.sequence, work.tokens[kept[work.sequence]])
        return walks

    def _result(self, work: Work, outcome: Walk | str | None) -> Verified:
        """The answer to a work, of which nothing was run if there is no ``outcome``."""
        state = self._sequences[work.sequence]
        held, state.held = len(state.held), state.held[:0]
        if outcome is None:
            slots = held if held > work.decided else -1
            return replace(_nothing(work), slots=slots)
        if isinstance(outcome, str):
            return _failed(work, outcome)
        return Verified(
            work.sequence,
            held + np.asarray(outcome.path, np.int32),
            np.asarray(outcome.tokens, np.int32),
            outcome.logprobs,
        )

    def _walk(self, work: Work, logits: Tensor) -> Walk | str:
        if not work.draw:
            return Walk([], [], [])
        try:
            return walk(logits, work, self._sequences[work.sequence].draws)
        except Exception as error:  # a fault of one sequence must not end the others
            _log.exception("walk of sequence %d failed", work.sequence)
            return f"drawing failed: {type(error).__name__}: {error}"

    def _send(
        self, sink: FeatureSink, works: Sequence[Work], kept: dict[int, list[int]], outputs: Outputs
    ) -> None:
        """Hidden states of decided and accepted nodes; before the commit moves lengths on."""
        for work, start in zip(works, outputs.starts, strict=True):
            nodes = kept[work.sequence]
            if not self._sequences[work.sequence].features or not nodes:
                continue
            rows = outputs.features(start + np.asarray(nodes))
            sink.put(Features(work.sequence, self.cache.length(work.sequence), rows))


def _agree(ranks: Ranks, works: Sequence[Work], walks: list[Walk | str]) -> list[Walk | str]:
    """The walks of the first rank; the others get to know paths and faults, not tokens."""
    width = max(len(work.tokens) - work.decided for work in works) + 1
    sent = np.zeros((len(works), width), np.int64)
    for row, outcome in zip(sent, walks, strict=True):
        if isinstance(outcome, str):
            row[0] = -1
        else:
            row[: len(outcome.path) + 1] = [len(outcome.path), *outcome.path]
    agreed = ranks.agree(sent)
    if ranks.first:
        return walks
    return [
        Walk(row[1 : 1 + row[0]].tolist(), [], []) if row[0] >= 0 else "failed on rank 0"
        for row in agreed
    ]


def _failed(work: Work, fault: str) -> Verified:
    return replace(_nothing(work), error=fault)


def _nothing(work: Work) -> Verified:
    empty = np.zeros(0, np.int32)
    return Verified(work.sequence, empty, empty)
