"""All stages in this process: what `rasd.LLM` puts into its engine. Imports torch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

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
from rasd.errors import RasdError, TokenizerMismatch
from rasd.quotes import Key
from rasd.retrieval import LocalRetriever, PromptRetriever, ShardStore
from rasd.retrieval.store.browse import Browser
from rasd.retrieval.store.corpora import read_spec
from rasd.retrieval.store.intake import Intake
from rasd.retrieval.store.prepare import check_fits, is_filled
from rasd.retrieval.store.seed import ensure_seeded
from rasd.stages import Drafter, Retriever, Target
from rasd.target import LoadedModel, LocalTarget, load_model
from rasd.text import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

Auto = Literal["auto"]


@dataclass(frozen=True, slots=True)
class Models:
    """A target and its drafter in this process; ``eos`` are the tokens that end a text."""

    target: LocalTarget
    drafter: LoadedDrafter | None
    eos: frozenset[int]


@dataclass(frozen=True, slots=True)
class LocalStages:
    """Loaded stages, and what an engine must know of the model beside them.

    ``by_meaning``: whether passages near a prompt can be copied.
    """

    tokenizer: PreTrainedTokenizerFast
    target: Target
    drafter: Drafter | None
    prompt: Retriever
    corpus: LocalRetriever | None
    corpora: tuple[str, ...]
    eos: frozenset[int]
    browsers: dict[str, Browser] = field(default_factory=dict)
    by_meaning: bool = False

    def ids_of(self, digests: Mapping[str, Sequence[bytes]]) -> dict[Key, str | None]:
        """Ids of documents by corpus and digest, as far as they can be read."""
        ids: dict[Key, str | None] = {}
        for corpus, asked in digests.items():
            try:
                found = self.browsers[corpus].resolve(asked)
            except (RasdError, OSError) as error:
                logger.warning("documents of corpus %s are not named: %s", corpus, error)
            else:
                ids |= {(corpus, digest): id_ for digest, id_ in zip(asked, found, strict=True)}
        return ids

    def refresh(self) -> None:
        """From now on finds what was written to the corpora before."""
        if self.corpus is not None:
            self.corpus.refresh()

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
    """Loads everything; corpora that are not filled yet are filled first, or waited for if
    another process is filling them.

    Raises:
        ModelError, ConfigError: something cannot be loaded or does not fit, by name.
        SegmentError: a corpus is unusable.
        StoreLocked, StorageError: another process takes too long to fill one; or it cannot be.
    """
    target, store = config.target, config.datastore
    tokenizer = load_tokenizer(target.model, target.revision)
    models = load_models(config)
    names = tuple(corpus.name for corpus in store.corpora) if store else ()
    corpus = _open_corpora(tokenizer, store, config.retrieval) if store and names else None
    if corpus is not None:
        corpus = _by_meaning(corpus, tokenizer, config)
    return LocalStages(
        tokenizer,
        models.target,
        models.drafter,
        PromptRetriever(config.retrieval),
        corpus,
        names,
        models.eos,
        {name: Browser(Path(store.root).expanduser(), name) for name in names} if store else {},
        config.retrieval.dense is not None,
    )


def load_models(config: AppConfig) -> Models:
    """Loads target and drafter; they share the embedding and the head where those are the same.

    Raises:
        ModelError, ConfigError: something cannot be loaded or does not fit, by name.
    """
    torch.set_num_threads(config.target.threads)
    loaded = load_model(config.target)
    drafter = _load_drafter(config.drafter, config.target, loaded)
    return Models(LocalTarget(loaded, config.target, drafter), drafter, eos_of(loaded.model))


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
) -> LocalRetriever:
    root = Path(store.root).expanduser()
    intake = Intake(tokenizer, max_document_bytes=store.store.max_document_bytes)
    for corpus in store.corpora:
        try:
            if not is_filled(root, corpus.name):
                _fill(root, corpus, intake, store)
            check_fits(read_spec(root, corpus.name), intake)
        except TokenizerMismatch as error:
            hint = f"remove it from {root} or set datastore.root"
            raise TokenizerMismatch(f"{error}; {hint}") from error
    shard = ShardStore(
        root,
        dict.fromkeys(corpus.name for corpus in store.corpora),
        vocabulary=intake.vocabulary,
        tokenizer_hash=intake.tokenizer_hash,
    )
    return LocalRetriever(shard, retrieval)


def _by_meaning(
    corpus: LocalRetriever, tokenizer: PreTrainedTokenizerFast, config: AppConfig
) -> LocalRetriever:
    from rasd.retrieval.dense.load import load_embedder  # faiss and all: only where it is wanted
    from rasd.retrieval.dense.local import DenseRetriever
    from rasd.retrieval.dense.store import DenseStore

    dense, target = config.retrieval.dense, config.target
    if dense is None:
        return corpus
    embedder = load_embedder(dense.embedder, target.model, target.revision, tokenizer)
    indexes = DenseStore(embedder, dense)
    return DenseRetriever(corpus, config.retrieval, dense, indexes, len(tokenizer))


def _fill(root: Path, corpus: CorpusConfig, intake: Intake, store: DatastoreConfig) -> None:
    console = Console(stderr=True)
    columns = (SpinnerColumn(), "{task.description}", TimeElapsedColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as shown:
        title = f"filling corpus {corpus.name}"
        task = shown.add_task(title, total=None)

        def show(documents: int, tokens: int) -> None:
            shown.update(task, description=f"{title}: {documents:,} documents, {tokens:,} tokens")

        ensure_seeded(root, corpus, intake, store, progress=show)


def eos_of(model: Any) -> frozenset[int]:
    """Tokens that end a text, as the checkpoint says."""
    for config in (model.generation_config, model.config):
        ids = getattr(config, "eos_token_id", None)
        if ids is not None:
            return frozenset([ids] if isinstance(ids, int) else ids)
    return frozenset()
