"""From logits to one token: penalties, bias, temperature, filters, keyed noise.

A draw is Gumbel-max: arg-max of log-probability plus noise, where the noise is a pure function
of (request seed, choice, output position, token id). The same request therefore draws the same
tokens whatever tree was verified around them, and the draw has exactly the target's
distribution. Works on the device the logits live on; computes only what the draw needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from rasd import kernels
from rasd.params import SamplingParams
from rasd.stages import Logprobs
from rasd.tree import Int32s

# SplitMix64 (Steele, Lea, Flood 2014), as two's complement int64 because torch has no uint64
# arithmetic; its multiplication wraps, which is what the mixer needs.
_GOLDEN: Final = -0x61C8864680B583EB
_MIX1: Final = -0x40A7B892E31B1A47
_MIX2: Final = -0x6B2FB644ECCEEE15
_MASK: Final = 2**64 - 1

# Below it float32 would divide by zero; any lead of a token already decides here.
_COLDEST: Final = 1e-30


class Draws:
    """How one sequence draws its tokens. Owned by the target; `commit` moves it on.

    ``position`` counts the output tokens decided so far and keys the noise.
    """

    def __init__(
        self, params: SamplingParams, *, prompt: Int32s, output: Int32s, choice: int
    ) -> None:
        self.params = params
        self.position = len(output)
        self.plain_greedy = params.greedy and not params.reshapes_logits
        self._key = _combine(params.seed or 0, choice)
        self._prompt = np.unique(prompt)
        self._counts: dict[int, int] = {}
        self._count(output.tolist())

    def draw(self, logits: Tensor, path: Sequence[int] = ()) -> int:
        """The token after ``path``, which is what was drawn since the last `commit`.

        Args:
            logits: float[V], not modified.
        """
        if self.plain_greedy:
            return _largest(logits)
        row = logits.float()
        if self.params.reshapes_logits:
            row = self._reshape(row.clone(), path)
        if self.params.greedy:
            return int(row.argmax())
        ids, logprobs = filter_logits(row, self.params)
        noise = gumbel_noise(_combine(self._key, self.position + len(path)), ids)
        return int(ids[(logprobs.double() + noise).argmax()])

    def commit(self, tokens: Sequence[int]) -> None:
        """These tokens are output now."""
        self.position += len(tokens)
        self._count(tokens)

    def _count(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self._counts[token] = self._counts.get(token, 0) + 1

    def _reshape(self, row: Tensor, path: Sequence[int]) -> Tensor:
        """Penalties, then bias, in place; penalties see the path to the node."""
        params = self.params
        counts = dict(self._counts)
        for token in path:
            counts[token] = counts.get(token, 0) + 1
        if params.repetition_penalty != 1.0:
            seen = np.union1d(self._prompt, np.fromiter(counts, np.int64, len(counts)))
            index = torch.as_tensor(seen, dtype=torch.long, device=row.device)
            values = row[index]
            factor = params.repetition_penalty
            row[index] = torch.where(values > 0, values / factor, values * factor)
        if counts and (params.presence_penalty or params.frequency_penalty):
            index = torch.tensor(list(counts), dtype=torch.long, device=row.device)
            times = torch.tensor(list(counts.values()), dtype=row.dtype, device=row.device)
            row[index] -= params.presence_penalty + params.frequency_penalty * times
        for token, bias in params.logit_bias.items():
            row[token] += bias
        return row


def filter_logits(row: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Temperature, then top-k, top-p and min-p, each on what the one before left.

    At least one token is left. Ties at an edge of top-p keep the smaller token id.

    Args:
        row: float32[V]; not modified.

    Returns:
        int64[M] token ids and float32[M], their logits over temperature, unnormalised.
    """
    # From the top down: dividing by a tiny temperature must not overflow where it matters.
    scaled = (row - row.max()) / max(params.temperature, _COLDEST)
    if 0 < params.top_k < len(row):
        ids = _stable_order(scaled)[: params.top_k]
    elif params.top_p < 1.0:
        ids = _stable_order(scaled)
    else:
        ids = torch.arange(len(row), device=row.device)
    kept = scaled[ids]
    if params.top_p < 1.0:
        probabilities = torch.softmax(kept, -1)
        before = probabilities.cumsum(-1) - probabilities
        inside = before < params.top_p
        inside[0] = True
        ids, kept = ids[inside], kept[inside]
    if params.min_p > 0.0:
        probabilities = torch.softmax(kept, -1)
        inside = probabilities >= params.min_p * probabilities.max()
        ids, kept = ids[inside], kept[inside]
    return ids, kept


def gumbel_noise(key: int, ids: Tensor) -> Tensor:
    """float64[M] standard Gumbel noise, a function of the key and each token id alone."""
    bits = _mix_tensor(ids.long() * _GOLDEN + _signed(key))
    uniform = ((bits >> 11) & (2**53 - 1)).double()  # the top 53 bits, shifted in unsigned
    return -torch.log(-torch.log((uniform + 0.5) * 2.0**-53))


def logprobs_of(logits: Tensor, token: int, top: int) -> Logprobs:
    """Log-probabilities under the target's unmodified distribution; ``top`` alternatives."""
    logprobs = torch.log_softmax(logits.float(), -1)
    values, ids = logprobs.topk(min(top, len(logprobs)))
    return Logprobs(float(logprobs[token]), ids.to(torch.int32).cpu().numpy(), values.cpu().numpy())


def _largest(row: Tensor) -> int:
    """The first of the largest. torch's own takes a slow path for bfloat16 on CPUs."""
    if row.dtype == torch.bfloat16 and row.device.type == "cpu":
        return kernels.largest(row.view(torch.int16).numpy())
    return int(row.argmax())


def _stable_order(scaled: Tensor) -> Tensor:
    """Token ids by falling logit, ties by smaller id."""
    return torch.sort(scaled, descending=True, stable=True).indices


def _mix(value: int) -> int:
    """SplitMix64's finaliser on Python integers."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _combine(key: int, part: int) -> int:
    # Not symmetric: seed 0 with choice 1 must not share noise with seed 1 and choice 0.
    return _mix(_mix(key) + part)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's is arithmetic."""
    return torch.bitwise_and(value >> bits, 2 ** (64 - bits) - 1)


def _mix_tensor(value: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 tensors."""
    value = value + _GOLDEN
    value = torch.bitwise_xor(value, _shift(value, 30)) * _MIX1
    value = torch.bitwise_xor(value, _shift(value, 27)) * _MIX2
    return torch.bitwise_xor(value, _shift(value, 31))
