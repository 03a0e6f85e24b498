"""Attention of packed trees over paged context, plugged into transformers by name.

A model loaded with ``attn_implementation=ATTENTION`` calls `tree_attention` in every layer. No
mask function is registered under that name, so transformers builds no mask of its own.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from rasd.errors import UnsupportedModel
from rasd.kv.paged import PagedView, attend_paged
from rasd.kv.plan import Plan
from rasd.kv.view import Part, View

ATTENTION: Final = "rasd_tree"
PLAN_ARGUMENT: Final = "rasd_plan"

# Arguments that models pass along and that do not change the result here: positions are in the
# plan, and the lengths below serve kernels for padded batches.
_HARMLESS: Final = frozenset(
    {
        "cache_position",
        "layer_idx",
        "output_attentions",
        "position_embeddings",
        "position_ids",
        "use_cache",
    }
)


def tree_attention(  # noqa: PLR0913 (the signature is transformers')
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    rasd_plan: Plan | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Every row sees its sequence's committed slots and its own ancestors.

    Args:
        query: [1, query heads, T, dim], the rows of the plan.
        key, value: [1, key heads, slots, dim], what `PagedCache.update` returned.

    Returns:
        [1, T, query heads, dim], and no weights.

    Raises:
        UnsupportedModel: the layer asks for something that would change the result; by name.
    """
    if rasd_plan is None:
        raise UnsupportedModel(f"{type(module).__name__} does not pass keyword arguments on")
    if is_causal is False or getattr(module, "is_causal", True) is False:
        raise UnsupportedModel(f"{type(module).__name__} is not causal")
    if attention_mask is not None or dropout or not _HARMLESS.issuperset(arguments):
        _refuse(module, attention_mask, dropout, arguments)
    view = rasd_plan.attend(sliding_window, query.shape[1] // key.shape[1])
    return attend(query, key, value, view, scaling), None


def attend(
    query: Tensor, key: Tensor, value: Tensor, view: View | PagedView, scaling: float | None
) -> Tensor:
    """Every row of a step sees what the view says.

    Args:
        query: [1, query heads, T, dim]; key, value: [1, key heads, slots, dim].

    Returns:
        [1, T, query heads, dim]
    """
    if isinstance(view, PagedView):
        return attend_paged(query, key, value, view, scaling)
    outputs = [_attend_part(query, key, value, part, scaling) for part in view.parts]
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    if view.order is not None:
        output = output.index_select(0, view.order)
    return output[None]


def _attend_part(
    query: Tensor, key: Tensor, value: Tensor, part: Part, scaling: float | None
) -> Tensor:
    """[items * rows, query heads, dim] of one part.

    The query heads that share a key head become rows of it: no key is repeated, and the kernel
    reads the context once per group.
    """
    items, heads, key_heads = part.items, query.shape[1], key.shape[1]
    query = _pick(query, part.rows)
    key, value = _pick(key, part.context), _pick(value, part.context)
    rows = query.shape[2] // items
    if items == 1:
        query = query.reshape(1, key_heads, -1, query.shape[3])
    else:
        query = query.view(key_heads, -1, items, rows, query.shape[3]).permute(2, 0, 1, 3, 4)
        query = query.reshape(items, key_heads, -1, query.shape[4])
        key = key.view(key_heads, items, -1, key.shape[3]).transpose(0, 1)
        value = value.view(key_heads, items, -1, value.shape[3]).transpose(0, 1)
    out = scaled_dot_product_attention(query, key, value, attn_mask=part.mask, scale=scaling)
    out = out.reshape(items, heads, rows, value.shape[3]).transpose(1, 2)
    return out.flatten(0, 1)


def _pick(states: Tensor, index: slice | Tensor) -> Tensor:
    """[1, heads, n, dim]; a slice costs no copy."""
    if isinstance(index, slice):
        return states[:, :, index]
    return states.index_select(2, index)


def _refuse(
    module: nn.Module, mask: Tensor | None, dropout: float, arguments: dict[str, Any]
) -> None:
    """Raises where an argument that is really set would change the result."""
    given = {"attention_mask": mask, "dropout": dropout or None}
    given |= {name: value for name, value in arguments.items() if name not in _HARMLESS}
    names = [name for name, value in given.items() if value is not None and value is not False]
    if names:
        raise UnsupportedModel(f"{type(module).__name__} attends with {', '.join(names)}")


AttentionInterface.register(ATTENTION, tree_attention)
