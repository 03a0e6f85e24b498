"""The target's embedding and LM head, read without the rest of the target."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rasd.errors import ModelError

_SINGLE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_EMBEDDING: Final = "embed_tokens.weight"
_HEAD: Final = "lm_head.weight"
_DTYPES: Final = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class SharedWeights:
    """What an EAGLE drafter borrows from its target; never modified.

    Attributes:
        embedding: [V, H]; head: [V, H], the same tensor where the target ties them.
    """

    embedding: Tensor
    head: Tensor

    @classmethod
    def of(cls, model: nn.Module) -> SharedWeights:
        """Those of a model in this process, shared with it.

        Raises:
            ModelError: it has no embedding or no output layer.
        """
        try:
            return cls(
                model.get_input_embeddings().weight.detach(),  # type: ignore[operator]
                model.get_output_embeddings().weight.detach(),  # type: ignore[operator]
            )
        except AttributeError as error:
            raise ModelError(f"{type(model).__name__} lacks an embedding or LM head") from error

    @classmethod
    def read(cls, model: str, revision: str | None = None) -> SharedWeights:
        """Those of a checkpoint: a directory or a hub id; only the files that hold them.

        Raises:
            ModelError: files or tensors are missing, unreadable, or differ in shape.
        """
        files = _Files(model, revision)
        weight_map = files.weight_map()
        embedding_name = _only(model, _EMBEDDING, weight_map)
        names = [embedding_name]
        # Some checkpoints leave it to the architecture's default to say that they tie.
        if not files.tied() and any(name.endswith(_HEAD) for name in weight_map):
            names.append(_only(model, _HEAD, weight_map))
        tensors = [files.tensor(weight_map[name], name) for name in names]
        if any(t.ndim != 2 or t.shape != tensors[0].shape for t in tensors):
            shapes = [tuple(t.shape) for t in tensors]
            raise ModelError(f"{model}: {names} have shapes {shapes}")
        return cls(tensors[0], tensors[-1])

    def to(self, device: torch.device, dtype: torch.dtype) -> SharedWeights:
        """A copy there, or itself where nothing changes. Ties stay ties."""
        embedding = self.embedding.to(device, dtype)
        tied = self.head is self.embedding
        return SharedWeights(embedding, embedding if tied else self.head.to(device, dtype))


class _Files:
    """The files of one checkpoint, fetched one by one when they are asked for."""

    def __init__(self, model: str, revision: str | None) -> None:
        self._model = model
        self._revision = revision

    def weight_map(self) -> dict[str, str]:
        """Which file holds which tensor."""
        index = find_file(self._model, _INDEX, self._revision)
        if index is None:
            with self._open(_SINGLE) as file:
                return dict.fromkeys(file.keys(), _SINGLE)
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelError(f"{index} has no weight_map")
        return {str(name): str(file) for name, file in weight_map.items()}

    def tied(self) -> bool:
        """Whether the target's configuration ties head and embedding."""
        config = _read_json(self._need("config.json"))
        # Multimodal models keep the language model's settings in a section of their own.
        text = config.get("text_config")
        inner = text.get("tie_word_embeddings", False) if isinstance(text, dict) else False
        return bool(config.get("tie_word_embeddings", inner))

    def tensor(self, file: str, name: str) -> Tensor:
        """One tensor of one file."""
        with self._open(file) as opened:
            tensor: Tensor = opened.get_tensor(name)
            return tensor

    def _need(self, file: str) -> Path:
        path = find_file(self._model, file, self._revision)
        if path is None:
            raise ModelError(f"{self._model} has no {file}; only safetensors are read")
        return path

    @contextmanager
    def _open(self, file: str) -> Iterator[Any]:
        path = self._need(file)
        try:
            with safe_open(path, framework="pt") as opened:
                yield opened
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error


def find_file(model: str, file: str, revision: str | None = None) -> Path | None:
    """Where a file of a checkpoint is, fetched from the hub if need be; None if there is none.

    Raises:
        ModelError: ``model`` is neither a directory nor a hub id that can be reached.
    """
    root = Path(model).expanduser()
    if root.is_dir():
        return root / file if (root / file).is_file() else None
    try:
        return Path(hf_hub_download(model, file, revision=revision))
    except EntryNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{model}: {file} cannot be fetched: {error}") from error


def checkpoint_dtype(path: Path) -> torch.dtype:
    """The one type of a safetensors file's tensors.

    Raises:
        ModelError: it cannot be read, or holds tensors of several or of other types.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = {file.get_slice(name).get_dtype() for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if len(found) != 1 or not found <= _DTYPES.keys():
        raise ModelError(f"{path} must hold one type of {', '.join(_DTYPES)}; found {found}")
    return _DTYPES[found.pop()]


def _only(model: str, suffix: str, names: dict[str, str]) -> str:
    found = [name for name in names if name == suffix or name.endswith("." + suffix)]
    if len(found) != 1:
        raise ModelError(f"{model} must hold exactly one {suffix}; found {found}")
    return found[0]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object")
    return content
