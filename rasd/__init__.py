"""RASD: retrieval-augmented speculative decoding. The library; knows nothing of Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["LLM", "SamplingParams", "__version__"]

if TYPE_CHECKING:
    from rasd.llm import LLM
    from rasd.params import SamplingParams


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds; the command line and the engine must not pay for it.
    if name == "LLM":
        from rasd.llm import LLM

        return LLM
    if name == "SamplingParams":
        from rasd.params import SamplingParams

        return SamplingParams
    raise AttributeError(f"module 'rasd' has no attribute {name!r}")
