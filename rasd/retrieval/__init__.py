"""Finds what followed the newest tokens elsewhere: in the sequence itself, and in corpora."""

from rasd.retrieval.build import build_corpus, ensure_corpus
from rasd.retrieval.corpus import Corpus, Manifest, has_corpus, open_corpus
from rasd.retrieval.merge import merge
from rasd.retrieval.prompt import PromptRetriever
from rasd.retrieval.search import Index
from rasd.retrieval.segment import Segment, open_segment, write_segment
from rasd.retrieval.shard import LocalRetriever, ShardStore
from rasd.retrieval.sources import documents_of

__all__ = [
    "Corpus",
    "Index",
    "LocalRetriever",
    "Manifest",
    "PromptRetriever",
    "Segment",
    "ShardStore",
    "build_corpus",
    "documents_of",
    "ensure_corpus",
    "has_corpus",
    "merge",
    "open_corpus",
    "open_segment",
    "write_segment",
]
