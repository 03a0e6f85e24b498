"""The head's forward as one program, and the choice of the best tokens behind it.

A level of a draft has a few rows: calls of its parts one by one cost more than their weights do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rasd.draft.expand import Top
from rasd.draft.top import TOP_FIELDS, top_kernel
from rasd.forward.heads import Heads, Step
from rasd.forward.kernels import JOIN_FIELDS, join_kernel
from rasd.forward.room import Room, panels, to
from rasd.forward.rounded import Rounded
from rasd.forward.rows import Gate, Norm
from rasd.forward.tiles import PANEL
from rasd.kv.primitives import KINDS
from rasd.kv.program import Program, Stage
from rasd.kv.threads import Call

Int64s = NDArray[np.int64]

MOST_ROWS: Final = 128
"""Eight nodes for each of sixteen sequences. With a vocabulary of 128k their logits take 65 MB."""

_JOIN, _ATTEND, _SUM, _HEAD, _TOP = 0, 3, 9, 10, 11
"""Stages of the program that are told something for every call."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a head is made of, its weights in 8 bits; see `rasd.draft.packed`."""

    embedding: Tensor
    fc: Rounded
    qkv: Rounded
    heads: Heads
    out: Rounded
    norm: Norm
    gate_up: Rounded
    gate: Gate
    down: Rounded
    lm_head: Rounded


class FusedHead:
    """A program for all forwards of a head. Not thread-safe: there is one set of buffers."""

    def __init__(self, parts: Parts, stages: list[Stage], buffers: tuple[Room, Tensor, Tensor]):
        self._parts, self._buffers = parts, buffers  # the program has their addresses
        self._program = Program(stages)

    @classmethod
    def of(cls, parts: Parts) -> FusedHead | None:
        """None where a part of it has no kernel."""
        kind, width = KINDS.get(parts.embedding.dtype), parts.fc.outputs
        products = parts.fc, parts.qkv, parts.out, parts.gate_up, parts.down, parts.lm_head
        calls = [call for part in products if (call := part.call) is not None]
        norm, gate = parts.norm.call, parts.gate.call
        if len(calls) < len(products) or norm is None or gate is None or kind is None:
            return None
        if {parts.norm.kind, parts.gate.kind} != {torch.float32}:
            return None
        if width % PANEL or parts.down.outputs != width or parts.out.outputs != width:
            return None
        fc, qkv, out, gate_up, down, lm_head = calls
        like, ids = torch.empty(0, dtype=torch.float32), parts.lm_head.outputs
        widths = width, parts.qkv.outputs, parts.out.inputs, parts.down.inputs
        room, joined = Room.of(MOST_ROWS, like, widths), like.new_empty((MOST_ROWS, 2 * width))
        logits = panels(like, MOST_ROWS, ids)
        table = {"embedding": parts.embedding.data_ptr(), "vocabulary": len(parts.embedding)}
        scores = {"x": logits.data_ptr(), "x_width": logits.stride(0), "width": ids}
        stages = [
            Stage(Call(join_kernel(kind), JOIN_FIELDS), table | {"width": width} | to(joined)),
            room.product(fc, joined, room.hidden),
            *room.layer(room.hidden, parts.heads, norm, gate, (qkv, out, gate_up, down)),
            Stage(norm, {**room.norm(norm).fields, "out": 0}),  # a sum alone
            Stage(lm_head, to(logits)),
            Stage(Call(top_kernel(), TOP_FIELDS), scores),
        ]
        return cls(parts, stages, (room, joined, logits))

    def __call__(
        self, tokens: Int64s, features: Tensor, sources: Int64s | None, step: Step, known: int
    ) -> tuple[Tensor, Top] | None:
        """Runs T rows; None, and nothing has happened, if they do not fit.

        Args:
            tokens: int64[T]; features: float32[F, H], rows contiguous.
            sources: int64[T], which of the features is each row's; None if all are, in order.
            known: how many of the best tokens behind each row are wanted.

        Returns:
            As `rasd.draft.packed.PackedHead.forward`.
        """
        rows, program = len(tokens), self._program
        few = self._parts.heads.few(step) if rows <= MOST_ROWS else None
        if few is None or not few.fill(program.fields[_ATTEND]):
            step.plan.attended.clear()
            return None
        keys, values = step.cache.states(0)
        out = features.new_empty((rows, features.shape[1]))
        program.set("rows", rows)
        program.put(
            _JOIN,
            tokens=tokens.ctypes.data,
            sources=0 if sources is None else sources.ctypes.data,
            features=features.data_ptr(),
            feature_width=features.stride(0),
        )
        program.put(_ATTEND, keys=keys.data_ptr(), values=values.data_ptr())
        program.put(_ATTEND, cache_slots=keys.shape[2])
        program.put(_SUM, total=out.data_ptr())
        if not known:
            program(_HEAD)
            return out, Top.none(rows)
        top = Top(np.empty((rows, known), np.int64), np.empty((rows, known), np.float32))
        program.put(_HEAD, x=out.data_ptr(), x_width=out.stride(0))
        program.put(_TOP, known=known, ids=top.ids.ctypes.data)
        program.put(_TOP, logprobs=top.logprobs.ctypes.data)
        program(_TOP + 1)
        return out, top
