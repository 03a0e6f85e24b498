"""Proof at load that a model computes over our cache and trees what it computes alone.

Tiny forwards: one of a short text with the model's own attention and cache, which also tells each
layer's shapes (the local ones under tensor parallelism); and one of a tree that contains that text,
by whatever is to run the model's layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from rasd.errors import RasdError, UnsupportedModel
from rasd.kv import ATTENTION, LayerSpec, PagedCache
from rasd.stages import Work
from rasd.target.runner import Body, Runner
from rasd.tree import Int32s

_CONTEXT: Final = 4
_TEXT: Final = _CONTEXT + 3  # tokens; what follows the context becomes a path of the tree
# Relative L2 error per row. Half precision rounds, and may turn a near tie between experts.
_TOLERANCE: Final = {torch.float32: 1e-3}
_HALF_TOLERANCE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Proven:
    """What a probe found.

    Attributes:
        specs: one per layer, with the key heads of this rank.
        dtype: of keys and values.
        vocabulary: width of the logits; feature_size: of the last hidden state.
        expected: [T, V], the model's own logits of the probe's text.
    """

    specs: list[LayerSpec]
    dtype: torch.dtype
    vocabulary: int
    feature_size: int
    expected: Tensor


class _Recorder(DynamicCache):  # type: ignore[misc]
    """transformers' own cache, noting what every layer hands to it."""

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        self.seen: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.seen[layer_idx] = key_states, value_states
        stored: tuple[Tensor, Tensor] = super().update(
            key_states, value_states, layer_idx, *args, **kwargs
        )
        return stored


def examine(model: Any, windows: list[int | None], device: torch.device) -> Proven:
    """Runs the model alone. Its attention implementation is ours afterwards.

    Args:
        windows: the sliding window of every layer.

    Raises:
        UnsupportedModel: naming what it cannot do.
    """
    with _naming(model.config.model_type), torch.inference_mode():
        text = np.arange(1, _TEXT + 1, dtype=np.int32)
        seen, expected = _plain(model, text, device)
        return _describe(seen, windows, expected, model)


def prove(body: Body, proven: Proven, name: str, device: torch.device) -> None:
    """Runs a body over the same text, as a chunk and a tree, and compares.

    Args:
        name: of the model, for messages.

    Raises:
        UnsupportedModel: naming what differs.
    """
    with _naming(name), torch.inference_mode():
        text = np.arange(1, _TEXT + 1, dtype=np.int32)
        found = _ours(body, proven, text, device)
    _compare(name, found, proven.expected)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Whatever a probe raises, with the model's name."""
    try:
        yield
    except RasdError as error:
        raise UnsupportedModel(f"{name} models are not supported: {error}") from error
    except (TypeError, ValueError, AttributeError, RuntimeError, KeyError, IndexError) as error:
        raise UnsupportedModel(f"{name}: a probe forward failed: {error}") from error


def _plain(
    model: Any, text: Int32s, device: torch.device
) -> tuple[dict[int, tuple[Tensor, Tensor]], Tensor]:
    """Keys and values by layer, and logits [T, V], of a forward without anything of ours."""
    model.set_attn_implementation("eager")
    if model.config._attn_implementation != "eager":
        raise UnsupportedModel("its attention does not go through transformers' interface")
    cache = _Recorder(model.config)
    ids = torch.from_numpy(text).long()[None].to(device)
    logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits
    model.set_attn_implementation(ATTENTION)
    return cache.seen, logits[0]


def _describe(
    seen: dict[int, tuple[Tensor, Tensor]],
    windows: list[int | None],
    expected: Tensor,
    model: Any,
) -> Proven:
    vocabulary = expected.shape[-1]
    lacking = sorted(set(range(len(windows))) ^ set(seen))
    if lacking:
        raise UnsupportedModel(f"layers {lacking} do not keep keys and values of their own")
    embedded = model.get_input_embeddings().weight.shape[0]
    if embedded < vocabulary:
        raise UnsupportedModel(f"it draws from {vocabulary} tokens and embeds {embedded}")
    specs = [
        LayerSpec(
            "full" if window is None else "sliding",
            seen[layer][0].shape[1],
            seen[layer][0].shape[3],
            seen[layer][1].shape[3],
            window,
        )
        for layer, window in enumerate(windows)
    ]
    hidden = model.config.get_text_config(decoder=True).hidden_size
    return Proven(specs, seen[0][0].dtype, vocabulary, hidden, expected)


def _ours(body: Body, proven: Proven, text: Int32s, device: torch.device) -> Tensor:
    """Logits [T, V] of the text: a chunk and, behind it, a path through a tree."""
    cache = PagedCache(proven.specs, 64, 4, proven.dtype, device)
    cache.open(0)
    runner = Runner(body, cache, device)
    parents = np.arange(-1, _CONTEXT - 1, dtype=np.int32)
    chunk = runner.forward([Work(0, text[:_CONTEXT], parents, 1, True)])
    _check_layers(chunk.attended, len(proven.specs))
    cache.commit(0, list(range(_CONTEXT)))
    # Nodes 1 and 4 are beside the text, which must not see them.
    root, child, leaf = text[_CONTEXT:]
    tokens = np.asarray([root, text[0], child, leaf, text[1]], np.int32)
    parents = np.asarray([-1, 0, 0, 2, 1], np.int32)
    tree = runner.forward([Work(0, tokens, parents, 1, True)])
    if chunk.hidden.shape[-1] != proven.feature_size:
        raise UnsupportedModel(f"its last hidden state has width {chunk.hidden.shape[-1]}")
    return torch.cat([chunk.logits[0], tree.logits[0][[0, 2, 3]]])


def _check_layers(attended: list[int], layers: int) -> None:
    if sorted(attended) != list(range(layers)):
        raise UnsupportedModel(
            f"{layers} layers keep keys; those that attend through transformers' interface are "
            f"{attended}"
        )


def _compare(name: str, found: Tensor, expected: Tensor) -> None:
    difference = (found.double() - expected.double()).norm(dim=-1) / expected.double().norm(dim=-1)
    worst = float(difference.max())
    if not worst <= _TOLERANCE.get(expected.dtype, _HALF_TOLERANCE):
        raise UnsupportedModel(
            f"{name} models are not supported: logits over a tree differ from the model's own "
            f"by {worst:.2g} of their size"
        )
