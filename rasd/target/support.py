"""Which models can run over a paged cache with trees, by their configuration alone.

What is refused here would change the text or cannot be kept in the cache. What a configuration
does not tell, the probe finds out after loading.
"""

from __future__ import annotations

from typing import Any, Final

from transformers.cache_utils import get_layer_types_and_kwargs

from rasd.errors import UnsupportedModel

# A packed row mixes sequences of all lengths; these choose frequencies by the longest of a row.
_LENGTH_DEPENDENT_ROPE: Final = ("dynamic", "longrope")


def check_config(config: Any) -> list[int | None]:
    """The sliding window of every layer, None where it sees everything.

    Args:
        config: a transformers configuration.

    Raises:
        UnsupportedModel: the model needs what we do not have; by name.
    """
    text = config.get_text_config(decoder=True)
    try:
        for reason in _unsupported(config, text):
            raise UnsupportedModel(reason)
        return _windows(text)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{config.model_type} models are not supported: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnsupportedModel(
            f"{config.model_type} models are not supported: their layers are not described in a "
            f"way we know ({error})"
        ) from error


def _unsupported(config: Any, text: Any) -> list[str]:
    """Reasons against the model, the clearest first."""

    def given(name: str) -> Any:
        return getattr(text, name, None)

    found = {
        "it is an encoder-decoder": config.is_encoder_decoder or given("add_cross_attention"),
        f"latent attention (kv_lora_rank={given('kv_lora_rank')})": given("kv_lora_rank"),
        "attention softcapping (attn_logit_softcapping)": given("attn_logit_softcapping"),
        "ALiBi positions": given("alibi") or given("position_embedding_type") == "alibi",
        "bidirectional attention": given("use_bidirectional_attention"),
        "layers that share keys and values": given("num_kv_shared_layers"),
    }
    for kind in _rope_types(text):
        if kind in _LENGTH_DEPENDENT_ROPE:
            found[f"{kind} RoPE changes with the length of the text"] = True
    return [reason for reason, applies in found.items() if applies]


def _rope_types(text: Any) -> list[str]:
    """All RoPE types of a configuration, which may have one per kind of layer."""
    parameters = getattr(text, "rope_parameters", None) or {}
    nested = [entry for entry in parameters.values() if isinstance(entry, dict)]
    return [str(entry.get("rope_type", "default")) for entry in [parameters, *nested]]


def _windows(text: Any) -> list[int | None]:
    windows: list[int | None] = []
    for layer, (kind, given) in enumerate(zip(*get_layer_types_and_kwargs(text), strict=True)):
        if kind not in ("full_attention", "sliding_attention"):
            raise UnsupportedModel(f"layer {layer} is of type {kind}")
        windows.append(given["sliding_window"] if kind == "sliding_attention" else None)
    return windows
