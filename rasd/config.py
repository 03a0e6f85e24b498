"""Every setting, once. Frozen; unknown keys are errors; values are checked here and nowhere else.

`AppConfig` is what ``deploy/config.yaml`` gives to the application under ``args``. The library
takes the sections it needs. Units are in the names.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rasd.errors import ConfigError
from rasd.params import MAX_NODES, MAX_PASSAGES, Speculation

EMBEDDED = Path(__file__).parent.parent / "deploy" / "models" / "embedded"
STDLIB_CORPUS = "stdlib"

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Section(BaseModel):
    """A part of the configuration. Frozen, strict, and deaf to unknown keys by refusing them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TargetConfig(Section):
    """The model whose text is served.

    ``model`` is a directory or a hub id; ``kv_slots`` the tokens of keys and values that fit in
    all; ``threads`` the torch threads of each rank. ``forward`` is who runs the layers: our
    packed ones, transformers' modules, or (``auto``) ours where they are proven to compute the
    same. With ``prefix_cache`` text that was run before is not run again, within a tenant.
    """

    model: str = str(EMBEDDED / "target")
    revision: str | None = None
    dtype: Dtype = "auto"
    device: str = "cpu"
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    threads: Count = 1
    kv_slots: Count = 16_384
    page_size: Annotated[int, Field(ge=1, le=1024)] = 16
    max_model_len: Count | None = None
    forward: Literal["auto", "packed", "transformers"] = "auto"
    prefix_cache: bool = True


class DrafterConfig(Section):
    """The EAGLE-2 drafter: ``levels`` expansions of the ``top_k`` best, the ``nodes`` best kept.

    Of a text that it was not told yet it reads the last ``window`` tokens: what stands farther back
    helps it little, and is what retrieval is for.
    """

    kind: Literal["eagle2"] = "eagle2"
    model: str = str(EMBEDDED / "eagle")
    dtype: Dtype = "auto"
    device: str = "cpu"
    threads: Count = 1
    levels: Annotated[int, Field(ge=1, le=16)] = 5
    top_k: Annotated[int, Field(ge=1, le=128)] = 8
    nodes: Annotated[int, Field(ge=1, le=MAX_NODES)] = 48
    window: Annotated[int, Field(ge=16)] = 32
    kv_slots: Count = 32_768
    page_size: Annotated[int, Field(ge=1, le=1024)] = 16


class DenseConfig(Section):
    """Passages of the corpora that are near a prompt in meaning.

    Per sequence ``passages`` of ``passage_tokens`` are copied and then searched without asking
    anybody; with 0 only for requests that ask for some. ``ask`` says who is asked beside that:
    all corpora, those the passages came from (``selected``), or none. ``embedder`` is ``tokens``
    (of the target, nothing to download) or a model of sentence-transformers. A prompt that is not
    answered in ``deadline_s`` selects nothing.
    """

    passages: Annotated[int, Field(ge=0, le=MAX_PASSAGES)] = 64
    passage_tokens: Annotated[int, Field(ge=16, le=512, multiple_of=2)] = 128
    ask: Literal["all", "selected", "none"] = "all"
    embedder: Annotated[str, Field(min_length=1)] = "tokens"
    deadline_s: Seconds = 1.0


class RetrievalConfig(Section):
    """Suffixes of ``suffix_max`` down to ``suffix_min`` tokens, continued ``depth`` tokens deep.

    ``dense`` is null for no indexes of meaning, which cost memory and time at every write.
    """

    suffix_max: Annotated[int, Field(ge=1, le=64)] = 16
    suffix_min: Annotated[int, Field(ge=1, le=64)] = 2
    depth: Annotated[int, Field(ge=1, le=64)] = 10
    nodes: Annotated[int, Field(ge=1, le=MAX_NODES)] = 64
    dense: DenseConfig | None = None

    @model_validator(mode="after")
    def _ordered(self) -> RetrievalConfig:
        if self.suffix_min > self.suffix_max:
            raise ValueError(f"suffix_min {self.suffix_min} is above suffix_max {self.suffix_max}")
        return self


class SpeculationConfig(Section):
    """How sources are combined.

    ``mode`` says which sources there are at all; a request may use fewer. ``nodes`` is the
    most a tree may hold beside its root.

    ``scores`` says how branches of different sources compare: ``calibrated``, by how often the
    like of them were accepted so far, or ``static``, by a formula: then ``prune_top_k`` is the
    paper's pruning (null prunes nothing), ``prompt_doubt`` and ``corpus_doubt`` how little a
    match of L tokens is trusted: L / (L + doubt). With ``budget`` ``auto`` a step takes as many
    nodes, and drafts only where, it pays by measured times; ``fixed`` always takes ``nodes`` and
    drafts. ``extend`` is how many of the draft's best nodes the retrievers are asked behind, too.
    ``combine`` ``route`` takes retrieved branches alone where the match has ``route_length``
    tokens, and the draft alone elsewhere, as SAM-Decoding does (arXiv 2411.10666).

    Late answers are dropped or used one step later.
    """

    mode: Speculation = "rasd"
    combine: Literal["fuse", "route"] = "fuse"
    route_length: Annotated[int, Field(ge=1, le=64)] = 5
    scores: Literal["calibrated", "static"] = "calibrated"
    budget: Literal["auto", "fixed"] = "auto"
    extend: Annotated[int, Field(ge=0, le=32)] = 4
    nodes: Annotated[int, Field(ge=0, le=MAX_NODES)] = 32
    prune_top_k: Annotated[int, Field(ge=1, le=128)] | None = 10
    prompt_doubt: Annotated[float, Field(ge=0, le=100)] = 1.0
    corpus_doubt: Annotated[float, Field(ge=0, le=100)] = 4.0
    draft_deadline_s: Seconds = 0.5
    retrieve_deadline_s: Seconds = 0.1
    breaker_misses: Count = 3
    breaker_probe_s: Seconds = 1.0


class EngineConfig(Section):
    """The loop. ``chunk_tokens`` is how much of the prompts enters per step, over all sequences.

    ``placement`` says where a service's target and drafter run: in the engine's process
    (``together``, for targets of one rank), in processes of their own (``apart``), or ``auto``:
    together on a CPU, whose cores they share anyway.
    """

    placement: Literal["auto", "together", "apart"] = "auto"
    max_sequences: Count = 32
    chunk_tokens: Count = 256
    verify_deadline_s: Seconds = 60.0


class CorpusConfig(Section):
    """A corpus made at first start: a JSONL file or folder of text, or ``stdlib``."""

    name: Name
    source: str


class StoreConfig(Section):
    """How a corpus is kept, per partition.

    From ``flush_tokens`` on, or once it has waited for ``flush_after_s``, what was written last
    becomes a segment; beyond ``max_segments`` they are merged, and one of which more than
    ``max_dead_share`` is deleted is written anew. Files nobody needs any more stay for
    ``grace_s``, for readers that are behind.

    Segments are merged into none of more than ``max_segment_tokens``, as that takes 30 bytes of
    memory per token, 60 from 65,536 ids on: 4 or 8 GiB with the default. One of half as many is
    large: it is merged no further, and not counted. One of more, from a single write or from when
    this was higher, is still written anew when too much of it is deleted, never larger than it was.
    """

    flush_tokens: Annotated[int, Field(ge=1, le=2**28)] = 2**20
    flush_after_s: Seconds = 60.0
    max_segments: Annotated[int, Field(ge=1, le=64)] = 3
    max_segment_tokens: Annotated[int, Field(ge=1, le=2**30)] = 2**27
    max_dead_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    max_document_bytes: Annotated[int, Field(ge=1, le=2**30)] = 4 * 1024 * 1024
    grace_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    refresh_s: Seconds = 0.2


class DatastoreConfig(Section):
    """Where corpora live. ``partitions`` is the default for new ones, fixed once made.

    Of all corpora together at most ``compactions`` merges run at once, and beside them one flush or
    repair, which never waits for a merge; each takes a core and, with large segments, gigabytes.
    """

    root: str = "~/.cache/rasd/corpora"
    partitions: Annotated[int, Field(ge=1, le=1024)] = 4
    compactions: Annotated[int, Field(ge=1, le=64)] = 1
    store: StoreConfig = StoreConfig()
    corpora: list[CorpusConfig] = [CorpusConfig(name=STDLIB_CORPUS, source=STDLIB_CORPUS)]


class ApiKey(Section):
    """A key by its SHA-256 (hex), and the corpora it may read (null: all).

    With ``manage`` it may also make, change and drop those, and scale the datastore.
    """

    name: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    corpora: list[Name] | None = None
    manage: bool = False

    @staticmethod
    def digest(key: str) -> str:
        """The hex SHA-256 to put into the configuration."""
        return hashlib.sha256(key.encode()).hexdigest()


class RouterConfig(Section):
    """HTTP and admission. Limits are exact; what is over them gets 429 with Retry-After.

    Without ``api_keys`` only loopback clients are served. An answer's first and last tokens are
    sent at once; those between them wait for others at most ``stream_interval_s``, because an
    event costs the same however many it brings. 0 sends whatever a step brings.
    """

    served_model_name: Name = "rasd"
    max_running: Count = 64
    max_queued: Annotated[int, Field(ge=0)] = 256
    queue_deadline_s: Seconds = 60.0
    run_deadline_s: Seconds = 600.0
    stream_interval_s: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.05
    max_body_bytes: Count = 8 * 1024 * 1024
    max_choices: Annotated[int, Field(ge=1, le=128)] = 16
    api_keys: list[ApiKey] = []


class AppConfig(Section):
    """Everything a deployment sets."""

    target: TargetConfig = TargetConfig()
    drafter: DrafterConfig | None = DrafterConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    speculation: SpeculationConfig = SpeculationConfig()
    engine: EngineConfig = EngineConfig()
    datastore: DatastoreConfig | None = DatastoreConfig()
    router: RouterConfig = RouterConfig()


def parse_config(args: dict[str, Any]) -> AppConfig:
    """Checks a plain mapping, as YAML gives it.

    Raises:
        ConfigError: naming each wrong key with its value.
    """
    try:
        return AppConfig.model_validate(args)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']} (got {fault['input']!r})"
            for fault in error.errors()
        ]
        raise ConfigError("; ".join(faults)) from error
