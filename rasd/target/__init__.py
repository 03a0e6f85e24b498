"""The target: loading any causal language model and verifying many trees in one forward."""

from rasd.target.load import LoadedModel, load_model
from rasd.target.target import LocalTarget

__all__ = ["LoadedModel", "LocalTarget", "load_model"]
