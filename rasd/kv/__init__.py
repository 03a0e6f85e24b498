"""Keys and values of many sequences, in pages, with trees of uncommitted nodes behind them.

Shared by target and drafter. Knows torch and the cache and attention interfaces of transformers;
knows nothing of sampling.
"""

from rasd.kv.attention import ATTENTION, PLAN_ARGUMENT, attend
from rasd.kv.cache import PagedCache
from rasd.kv.pages import PagePool
from rasd.kv.plan import Append, Plan
from rasd.kv.prefix import Prefixes
from rasd.kv.stores import LayerSpec

__all__ = [
    "ATTENTION",
    "PLAN_ARGUMENT",
    "Append",
    "LayerSpec",
    "PagePool",
    "PagedCache",
    "Plan",
    "Prefixes",
    "attend",
]
