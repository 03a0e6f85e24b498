"""Finds what followed the newest tokens elsewhere: in the sequence itself, and in corpora."""

from rasd.retrieval.merge import merge
from rasd.retrieval.prompt import PromptRetriever
from rasd.retrieval.search import Index
from rasd.retrieval.segment import Segment, open_segment, write_segment
from rasd.retrieval.shard import LocalRetriever, ShardStore
from rasd.retrieval.sources import documents_of

__all__ = [
    "Index",
    "LocalRetriever",
    "PromptRetriever",
    "Segment",
    "ShardStore",
    "documents_of",
    "merge",
    "open_segment",
    "write_segment",
]
