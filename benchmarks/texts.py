"""Real text for the benchmarks: whatever this machine has, each content once, in a fixed order.

Source, headers and documentation of the interpreter, of installed packages and of the system.
Which files there are differs between machines; results name the number of tokens. A file is held
out by the hash of its content, and so are its copies.
"""

from __future__ import annotations

import hashlib
import json
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from rich.progress import Progress

from rasd.config import EMBEDDED

SUFFIXES: Final = frozenset(
    ".c .cc .cpp .cu .cuh .h .hpp .html .java .js .json .md .pl .pm .py .pyi .rs .rst .sh .txt .ts"
    " .tex .xml .yaml".split()
)
HELD_OUT_PER_MILLE: Final = 10
MIN_BYTES, MAX_BYTES = 256, 2**20
_BATCH: Final = 256


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenised corpus: documents in turn, and held-out text.

    Attributes:
        tokens: uint32[T]; starts: int64[D], where each document starts; held: uint32[H].
    """

    tokens: np.ndarray
    starts: np.ndarray
    held: np.ndarray
    vocabulary: int
    text_bytes: int

    def documents(self, limit: int | None = None) -> list[np.ndarray]:
        """The first documents, of about ``limit`` tokens in all."""
        ends = np.append(self.starts[1:], len(self.tokens))
        count = len(ends) if limit is None else int(np.searchsorted(ends, limit, "left")) + 1
        pairs = zip(self.starts[:count].tolist(), ends[:count].tolist(), strict=True)
        return [self.tokens[low:high] for low, high in pairs]


def roots() -> list[Path]:
    """Where to look: the interpreter's library, packages, and the system's documentation."""
    paths = [sysconfig.get_paths()[key] for key in ("stdlib", "purelib")]
    paths += [str(Path(sys.base_prefix) / "lib"), "/usr/share", "/usr/include", "/usr/lib"]
    return list(dict.fromkeys(map(Path, paths)))


def texts() -> Iterator[tuple[str, str, bool]]:
    """Path, text and whether it is held out, of every file that is text; contents come once."""
    seen: set[bytes] = set()
    for root in roots():
        for path in sorted(root.rglob("*")):
            raw = _read(path)
            digest = hashlib.blake2b(raw, digest_size=16).digest()
            if not raw or digest in seen:
                continue
            seen.add(digest)
            try:
                text = raw.decode()
            except UnicodeDecodeError:
                continue
            if "\0" not in text:
                held = int.from_bytes(digest[:4], "little") % 1000 < HELD_OUT_PER_MILLE
                yield str(path), text, held


def _read(path: Path) -> bytes:
    try:
        wanted = path.suffix in SUFFIXES and not path.is_symlink() and path.is_file()
        if not wanted or not MIN_BYTES <= path.stat().st_size <= MAX_BYTES:
            return b""
        return path.read_bytes()
    except OSError:
        return b""


def tokenized(place: Path, limit: int) -> Tokens:
    """At least ``limit`` tokens in the embedded model's vocabulary, kept below ``place``."""
    meta = place / "meta.json"
    if not meta.exists() or json.loads(meta.read_text())["limit"] < limit:
        _tokenize(place, limit)
    known = json.loads(meta.read_text())
    arrays = (np.load(place / f"{name}.npy", mmap_mode="r") for name in ("tokens", "starts"))
    held = np.load(place / "held.npy")
    return Tokens(*arrays, held, known["vocabulary"], known["text_bytes"])


def _tokenize(place: Path, limit: int) -> None:
    from tokenizers import Tokenizer

    place.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(EMBEDDED / "target" / "tokenizer.json"))
    kept: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    total = size = 0
    with Progress() as progress:
        task = progress.add_task("tokenising", total=limit)
        for batch in _batches():
            encoded = tokenizer.encode_batch([text for text, _ in batch], add_special_tokens=False)
            for (text, held), one in zip(batch, encoded, strict=True):
                kept[held].append(np.array(one.ids, np.uint32))
                total += 0 if held else len(one.ids)
                size += 0 if held else len(text.encode())
            progress.update(task, completed=total)
            if total >= limit:
                break
    ends = np.cumsum([len(one) for one in kept[0]])
    np.save(place / "tokens.npy", np.concatenate(kept[0]))
    np.save(place / "starts.npy", np.append(0, ends[:-1]))
    np.save(place / "held.npy", np.concatenate(kept[1]))
    known = {"limit": min(limit, total), "vocabulary": tokenizer.get_vocab_size()}
    known |= {"text_bytes": size, "tokens": total, "documents": len(ends)}
    (place / "meta.json").write_text(json.dumps(known))


def _batches() -> Iterator[list[tuple[str, bool]]]:
    batch = []
    for _, text, held in texts():
        batch.append((text, held))
        if len(batch) == _BATCH:
            yield batch
            batch = []
    yield batch
