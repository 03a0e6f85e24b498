"""The token embeddings of a target, read from its checkpoint and nothing else of it.

Tensors are mapped and read by rows, so memory is that of the result; torch is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from numpy.typing import NDArray

from rasd.errors import ModelError
from rasd.retrieval.dense.embed import Float32s

_SINGLE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_NAMES: Final = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "embed_in.weight",
)
_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_ROWS: Final = 4096
_WIDE: Final = 1024


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A matrix on disk, read by rows. ``bits``: of a number type numpy lacks, bfloat16."""

    mapped: NDArray[Any]
    bits: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens and width."""
        return self.mapped.shape[0], self.mapped.shape[1]

    def chunks(self) -> Iterator[Float32s]:
        """All rows in turn, some thousand at a time."""
        for start in range(0, len(self.mapped), _ROWS):
            rows = self.mapped[start : start + _ROWS]
            if self.bits:
                yield (rows.astype(np.uint32) << 16).view(np.float32)
            else:
                yield rows.astype(np.float32)


def read_embeddings(model: str, revision: str | None = None) -> Embeddings:
    """Those of a checkpoint in safetensors, sharded or not: a directory or a hub id.

    Raises:
        ModelError: files or tensors are missing or malformed.
    """
    try:
        path, name = _find(model, revision)
        return _map(path, name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{model}: token embeddings cannot be read: {error!r}") from error


def reduced(embeddings: Embeddings, dimension: int) -> Float32s:
    """The matrix in its ``dimension`` strongest directions: float32[V, d], d at most that.

    Rows are centred. Those wider than 1,024 are first projected at random to that width, which
    keeps angles and makes the rest quick. The same checkpoint always gives the same.
    """
    count, width = embeddings.shape
    rows = np.empty((count, min(width, _WIDE)), np.float32)
    narrow = None
    if width > _WIDE:
        draw = np.random.default_rng(0)
        narrow = draw.standard_normal((width, _WIDE), np.float32) / np.float32(np.sqrt(_WIDE))
    at = 0
    for chunk in embeddings.chunks():
        rows[at : at + len(chunk)] = chunk if narrow is None else chunk @ narrow
        at += len(chunk)
    rows -= rows.mean(0)
    _, directions = np.linalg.eigh(rows.T @ rows)
    return np.ascontiguousarray(rows @ directions[:, ::-1][:, :dimension])


def _find(model: str, revision: str | None) -> tuple[Path, str]:
    """The file that holds the matrix, and its name there."""
    index = _file(model, _INDEX, revision)
    if index is None:
        single = _file(model, _SINGLE, revision)
        if single is None:
            raise ModelError(f"{model}: has neither {_SINGLE} nor {_INDEX}")
        return single, _only(model, _header(single)[0])
    names: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
    name = _only(model, names)
    shard = _file(model, names[name], revision)
    if shard is None:
        raise ModelError(f"{model}: lacks {names[name]}")
    return shard, name


def _file(model: str, name: str, revision: str | None) -> Path | None:
    if Path(model).is_dir():
        path = Path(model) / name
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(model, name, revision=revision))
    except EntryNotFoundError:
        return None


def _only(model: str, names: Mapping[str, Any]) -> str:
    for ending in _NAMES:
        found = [name for name in names if name == ending or name.endswith(f".{ending}")]
        if len(found) == 1:
            return found[0]
    raise ModelError(f"{model}: has no one tensor of token embeddings; names known: {_NAMES}")


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """What the file holds by name, and where its numbers start."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise ValueError(f"{path.name}: a header of {size} bytes is longer than the file")
        return json.loads(file.read(size)), 8 + size


def _map(path: Path, name: str) -> Embeddings:
    tensors, start = _header(path)
    told = tensors[name]
    if told["dtype"] not in _DTYPES or len(told["shape"]) != 2:
        raise ValueError(f"{name} is {told['dtype']} of shape {told['shape']}")
    kind: np.dtype[Any] = _DTYPES[told["dtype"]]
    rows, width = told["shape"]
    offset = start + told["data_offsets"][0]
    mapped: NDArray[Any] = np.memmap(path, kind, "r", offset=offset, shape=(int(rows), int(width)))
    return Embeddings(mapped, told["dtype"] == "BF16")
