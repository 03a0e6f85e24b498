"""Load a causal language model so that it runs over our cache, or say why not."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from rasd.config import TargetConfig
from rasd.errors import ConfigError, ModelError, UnsupportedModel
from rasd.forward import Decoder, unsupported
from rasd.kv import ATTENTION
from rasd.target.modules import Modules
from rasd.target.probe import Proven, examine, prove
from rasd.target.runner import Body
from rasd.target.support import check_config

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model whose layers attend through our cache.

    Attributes:
        model: a transformers model in evaluation mode.
        body: what runs its layers; if that is packed, the model has none any more.
        proven: what the probe found of it.
        device: where it takes its input.
        max_positions: tokens a sequence may have.
    """

    model: Any
    body: Body
    proven: Proven
    device: torch.device
    max_positions: int


def load_model(config: TargetConfig) -> LoadedModel:
    """Loads, proves and, with ``tensor_parallel`` over 1, shards a model.

    Under tensor parallelism every rank calls this; torch.distributed is initialised before.

    Raises:
        ModelError: files are missing or broken; naming the model.
        UnsupportedModel: it cannot run losslessly; naming the reason.
        ConfigError: the number of ranks does not fit.
    """
    _check_ranks(config.tensor_parallel)
    settings = _read_config(config)
    windows = check_config(settings)
    model = _read_weights(config, settings)
    device = torch.device(model.device)
    proven = examine(model, windows, device)
    positions = _max_positions(settings, config)
    body = _pack(model, proven, config, positions)
    if body is None:
        if config.forward == "auto" and not unsupported(model):  # an attempt took its layers
            model = _read_weights(config, settings)
        body = Modules(model)
        prove(body, proven, settings.model_type, device)
    return LoadedModel(model, body, proven, device, positions)


def _pack(model: Any, proven: Proven, config: TargetConfig, positions: int) -> Body | None:
    """The model's packed decoder, proven; None where transformers' modules are to run.

    Raises:
        UnsupportedModel: there is none, and ``config`` wants it.
    """
    if config.forward == "transformers" or (config.forward == "auto" and unsupported(model)):
        return None
    name, device = model.config.model_type, torch.device(model.device)
    try:
        body = Decoder(model, min(positions, config.kv_slots), config.tensor_parallel)
        prove(body, proven, name, device)
    except UnsupportedModel as error:
        if config.forward == "packed":
            raise
        _log.warning("transformers' modules run %s: %s", config.model, error)
        return None
    return body


def _check_ranks(wanted: int) -> None:
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if wanted not in (1, ranks):
        raise ConfigError(f"tensor_parallel is {wanted}, torch.distributed has {ranks} ranks")


def _read_config(config: TargetConfig) -> Any:
    if config.model[:1] in ("/", ".", "~") and not Path(config.model).expanduser().is_dir():
        raise ModelError(f"model directory {config.model} does not exist")
    try:
        return AutoConfig.from_pretrained(
            str(Path(config.model).expanduser()) if config.model[:1] == "~" else config.model,
            revision=config.revision,
            trust_remote_code=False,
        )
    except Exception as error:
        raise _loading_error(config.model, error) from error


def _read_weights(config: TargetConfig, settings: Any) -> Any:
    parallel = config.tensor_parallel > 1
    placement: dict[str, Any] = {"device_map": config.device}
    if parallel:
        placement = {"distributed_config": DistributedConfig(tp_size=config.tensor_parallel)}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            settings.name_or_path,
            config=settings,
            revision=config.revision,
            dtype=config.dtype,
            attn_implementation=ATTENTION,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported, and refused below by name
            output_loading_info=True,
            **placement,
        )
    except Exception as error:
        raise _loading_error(config.model, error) from error
    absent = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if absent:
        raise ModelError(f"{config.model} lacks weights, or has them in another shape: {absent}")
    return model.eval().requires_grad_(False)


def _loading_error(name: str, error: Exception) -> ModelError:
    """Whatever loading raised, as ours. Its kinds are as many as file formats."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "trust_remote_code" in text:
        return UnsupportedModel(f"{name} needs code of its own, which is never run")
    if isinstance(error, KeyError) and ATTENTION in text:
        return UnsupportedModel(
            f"{name}: its attention does not go through transformers' interface"
        )
    if "Unrecognized configuration class" in text:
        return UnsupportedModel(f"{name} is not a causal language model")
    return ModelError(f"cannot load {name}: {text}")


def _max_positions(settings: Any, config: TargetConfig) -> int:
    own = getattr(settings.get_text_config(decoder=True), "max_position_embeddings", None)
    limits = [limit for limit in (own, config.max_model_len) if limit is not None]
    if not limits:
        raise ConfigError(f"{config.model} names no longest text; set max_model_len")
    return int(min(limits))
