"""All stages in this process: what `rasd.LLM` puts into its engine. Imports torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.progress import track

from rasd.config import (
    EMBEDDED,
    AppConfig,
    CorpusConfig,
    DatastoreConfig,
    DrafterConfig,
    Dtype,
    RetrievalConfig,
    SpeculationConfig,
    TargetConfig,
    parse_config,
)
from rasd.draft import LoadedDrafter, drafter_class
from rasd.draft.weights import SharedWeights
from rasd.errors import TokenizerMismatch
from rasd.retrieval import (
    LocalRetriever,
    PromptRetriever,
    ShardStore,
    documents_of,
    ensure_corpus,
    has_corpus,
)
from rasd.stages import Drafter, Retriever, Target
from rasd.target import LoadedModel, LocalTarget, load_model
from rasd.text import encode_document, load_tokenizer, tokenizer_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Auto = Literal["auto"]


@dataclass(frozen=True, slots=True)
class LocalStages:
    """Loaded stages, and what an engine must know of the model beside them."""

    tokenizer: PreTrainedTokenizerFast
    target: Target
    drafter: Drafter | None
    prompt: Retriever
    corpus: Retriever | None
    corpora: tuple[str, ...]
    eos: frozenset[int]

    def close(self) -> None:
        """Frees them all."""
        for stage in (self.target, self.drafter, self.prompt, self.corpus):
            if stage is not None:
                stage.close()


def config_of(
    base: AppConfig,
    *,
    model: str | None,
    dtype: Dtype,
    drafter: str | None,
    corpora: Iterable[str | CorpusConfig] | Auto | None,
    speculation: SpeculationConfig | str | None,
) -> AppConfig:
    """The settings that the arguments of `rasd.LLM` mean.

    Raises:
        ConfigError: one of them is wrong, by name.
    """
    changed: dict[str, Any] = base.model_dump()
    if model is not None:
        changed["target"]["model"] = model
    shipped = changed["target"]["model"] == str(EMBEDDED / "target")
    if drafter is None or (drafter == "auto" and not shipped):
        changed["drafter"] = None
    elif drafter != "auto":
        changed["drafter"] = {**(base.drafter or DrafterConfig()).model_dump(), "model": drafter}
    for section in ("target", "drafter"):
        if dtype != "auto" and changed[section] is not None:
            changed[section]["dtype"] = dtype
    if corpora is None or (corpora == "auto" and not shipped):
        changed["datastore"] = None
    elif corpora != "auto":
        store = (base.datastore or DatastoreConfig()).model_dump()
        store["corpora"] = [
            {"name": c, "source": c} if isinstance(c, str) else c.model_dump() for c in corpora
        ]
        changed["datastore"] = store
    if isinstance(speculation, SpeculationConfig):
        changed["speculation"] = speculation.model_dump()
    elif speculation is not None:
        changed["speculation"]["mode"] = speculation
    return parse_config(changed)


def load_stages(config: AppConfig) -> LocalStages:
    """Loads everything; corpora that do not exist are made first, or waited for if another
    process is making them.

    Raises:
        ModelError, ConfigError: something cannot be loaded or does not fit, by name.
        SegmentError: a corpus is unusable.
        Unavailable: another process takes too long to make one.
    """
    target, store = config.target, config.datastore
    tokenizer = load_tokenizer(target.model, target.revision)
    loaded = load_model(target)
    drafter = _load_drafter(config.drafter, target, loaded)
    names = tuple(corpus.name for corpus in store.corpora) if store else ()
    return LocalStages(
        tokenizer,
        LocalTarget(loaded, target, drafter),
        drafter,
        PromptRetriever(config.retrieval),
        _open_corpora(tokenizer, store, config.retrieval) if store and names else None,
        names,
        eos_of(loaded.model),
    )


def _load_drafter(
    config: DrafterConfig | None, target: TargetConfig, loaded: LoadedModel
) -> LoadedDrafter | None:
    if config is None:
        return None
    return drafter_class(config.kind).load(
        config, target.model, revision=target.revision, shared=SharedWeights.of(loaded.model)
    )


def _open_corpora(
    tokenizer: PreTrainedTokenizerFast, store: DatastoreConfig, retrieval: RetrievalConfig
) -> Retriever:
    root = Path(store.root).expanduser()
    made_with: dict[str, Any] = {
        "vocabulary": len(tokenizer),
        "tokenizer_hash": tokenizer_hash(tokenizer),
    }
    for corpus in store.corpora:
        if has_corpus(root, corpus.name):
            continue
        documents = track(
            documents_of(corpus.source, lambda text: encode_document(tokenizer, text)),
            description=f"indexing corpus {corpus.name}",
            console=Console(stderr=True),
            transient=True,
        )
        ensure_corpus(root, corpus.name, documents, partitions=store.partitions, **made_with)
    holdings = dict.fromkeys(corpus.name for corpus in store.corpora)
    try:
        return LocalRetriever(ShardStore(root, holdings, **made_with), retrieval)
    except TokenizerMismatch as error:
        raise TokenizerMismatch(f"{error}; remove it from {root} or set datastore.root") from error


def eos_of(model: Any) -> frozenset[int]:
    """Tokens that end a text, as the checkpoint says."""
    for config in (model.generation_config, model.config):
        ids = getattr(config, "eos_token_id", None)
        if ids is not None:
            return frozenset([ids] if isinstance(ids, int) else ids)
    return frozenset()
