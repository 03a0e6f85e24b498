"""Vectors of passages, beside the plain definition; and where a checkpoint keeps its matrix."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from rasd.config import EMBEDDED
from rasd.errors import ConfigError, ModelError
from rasd.retrieval.dense.embed import Spans, TokenMean, normalised
from rasd.retrieval.dense.load import load_embedder
from rasd.retrieval.dense.matrix import read_embeddings, reduced
from rasd.retrieval.dense.passages import Cut, prompt_spans
from rasd.retrieval.dense.sentence import SentenceEmbedder
from rasd.retrieval.live import Live
from rasd.retrieval.search import Part
from rasd.retrieval.segment import build_segment
from tests.retrieval.dense.worlds import VOCABULARY, matrix
from tests.tokenizers import byte_tokenizer

documents = st.lists(st.lists(st.integers(0, VOCABULARY - 1), max_size=40), min_size=1, max_size=6)


def slow_passages(texts: list[list[int]], width: int) -> list[tuple[int, int, list[int]]]:
    """Document, offset and tokens: one begins every half width while it adds something."""
    found = []
    for number, tokens in enumerate(texts):
        offset = 0
        while offset == 0 or offset + width // 2 < len(tokens):
            if tokens:
                found.append((number, offset, tokens[offset : offset + width]))
            offset += width // 2
    return found


def slow_vectors(passages: list[list[int]], fitted_on: list[list[int]]) -> Any:
    rows, counts = matrix().astype(np.float64), np.zeros(VOCABULARY)
    holding = np.zeros(VOCABULARY)
    for passage in fitted_on:
        for token in set(passage):
            holding[token] += 1
        for token in passage:
            counts[token] += 1
    weights = np.log((len(fitted_on) + 1) / (holding + 1)) * (holding > 0)
    mean = counts @ rows / max(counts.sum(), 1)

    def raw(passage: list[int]) -> Any:
        return sum((weights[t] * (rows[t] - mean) for t in passage), np.zeros(rows.shape[1]))

    def unit(vectors: Any) -> Any:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.where(lengths > 1e-6, vectors / np.maximum(lengths, 1e-6), 0)

    first = unit(np.array([raw(p) for p in fitted_on]))
    shared = np.linalg.eigh(first.T @ first)[1][:, -1]
    vectors = np.array([raw(p) for p in passages])
    return unit(vectors - np.outer(vectors @ shared, shared))


@given(texts=documents, width=st.sampled_from([16, 18, 32]))
def test_passages_are_those_of_a_plain_loop(texts: list[list[int]], width: int) -> None:
    segment = build_segment([np.array(t, np.uint32) for t in texts], vocabulary=VOCABULARY)
    cut, wanted = Cut.of(segment, width), slow_passages(texts, width)
    rows = np.arange(len(cut))
    places = list(zip(*(array.tolist() for array in cut.places(rows)), strict=True))
    assert places == [(number, offset) for number, offset, _ in wanted]
    spans = cut.spans(rows)
    pieces = [spans.tokens[a:b].tolist() for a, b in zip(spans.starts, spans.ends, strict=True)]
    assert pieces == [tokens for _, _, tokens in wanted]


@given(texts=documents, dead=st.sets(st.integers(0, 5)))
def test_passages_of_dead_documents_are_dead(texts: list[list[int]], dead: set[int]) -> None:
    gone = sorted(number for number in dead if number < len(texts))
    segment = build_segment([np.array(t, np.uint32) for t in texts], vocabulary=VOCABULARY)
    cut = Cut.of(segment, 16)
    living = cut.living(Part(segment, Live.without(segment, np.array(gone, np.int64))))
    wanted = [number not in gone for number, _, _ in slow_passages(texts, 16)]
    assert (living is None and all(wanted)) or (living is not None and living.tolist() == wanted)
    assert cut.living(Part(segment)) is None


def test_vectors_are_those_of_a_plain_loop() -> None:
    draw = np.random.default_rng(3)
    texts = [draw.integers(0, VOCABULARY - 5, size).tolist() for size in (40, 3, 90, 17)]
    segment = build_segment([np.array(t, np.uint32) for t in texts], vocabulary=VOCABULARY)
    cut = Cut.of(segment, 16)
    passages = [tokens for _, _, tokens in slow_passages(texts, 16)]
    fit = TokenMean(matrix()).fitted([cut.every(1)])
    vectors = fit.embed(cut.every(1))
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, slow_vectors(passages, passages), atol=1e-4)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_words_that_no_passage_holds_say_nothing() -> None:
    known, unknown = np.arange(20, dtype=np.uint32), np.arange(150, 160, dtype=np.uint32)
    beyond = np.array([VOCABULARY, 2**31], np.uint32)
    fit = TokenMean(matrix()).fitted([prompt_spans(np.repeat(known, 3), 16, 100)])
    mixed = np.concatenate([known[:8], unknown, beyond])
    one, other = (fit.embed(prompt_spans(tokens, 64, 1)) for tokens in (known[:8], mixed))
    assert np.allclose(one, other, atol=1e-6) and np.any(one)
    for nothing in (unknown, beyond, known[:0]):
        assert not np.any(fit.embed(prompt_spans(nothing, 64, 1)))
    empty = TokenMean(matrix()).fitted([])
    assert np.any(empty.embed(prompt_spans(unknown, 64, 1)))


@given(size=st.integers(0, 100), most=st.integers(1, 5))
def test_a_prompt_is_cut_from_its_end(size: int, most: int) -> None:
    prompt = np.arange(size, dtype=np.uint32)
    spans = prompt_spans(prompt, 16, most)
    assert len(spans) <= most
    ends = spans.ends.tolist()
    assert ends == list(range(size, 0, -8))[: len(ends)]
    assert all(a == max(b - 16, 0) for a, b in zip(spans.starts.tolist(), ends, strict=True))
    if 0 < len(spans) < most:
        assert spans.starts[-1] == 0 and (spans.starts[:-1] > 0).all()


def test_normalised_rows_have_length_one_or_none() -> None:
    rows = normalised(np.array([[3, 4], [0, 0], [1e-9, 0]], np.float32))
    assert rows.tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0], [0, 0]]
    assert len(normalised(np.zeros((0, 3), np.float32))) == 0


# --- checkpoints --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sharded", [False, True])
def test_the_matrix_is_read_alone(tmp_path: Path, dtype: torch.dtype, sharded: bool) -> None:
    name = "model.embed_tokens.weight"
    rows = torch.randn(5000, 8).to(dtype)
    single = "model.safetensors"
    file = "model-00002.safetensors" if sharded else single
    save_file({name: rows, "model.norm.weight": torch.ones(8)}, tmp_path / file)
    if sharded:
        index = {"weight_map": {name: file, "lm_head.weight": "model-00001.safetensors"}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = read_embeddings(str(tmp_path))
    assert found.shape == (5000, 8)
    assert np.array_equal(np.concatenate(list(found.chunks())), rows.float().numpy())


def test_reducing_keeps_the_strongest_directions(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for width in (32, 1500):  # the wide one goes through a random projection
        strong = draw.standard_normal((300, 4)) @ draw.standard_normal((4, width))
        rows = (strong + 0.01 * draw.standard_normal((300, width)) + 5).astype(np.float32)
        save_file({"wte.weight": torch.from_numpy(rows)}, tmp_path / "model.safetensors")
        small = reduced(read_embeddings(str(tmp_path)), 4)
        assert small.shape == (300, 4) and small.dtype == np.float32
        whole = rows - rows.mean(0)
        wanted, got = normalised(whole), normalised(small)
        assert np.abs(wanted @ wanted.T - got @ got.T).mean() < (0.02 if width == 32 else 0.06)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has neither"):
        read_embeddings(str(tmp_path))
    path = tmp_path / "model.safetensors"
    save_file({"x.weight": torch.ones(2, 2)}, path)
    with pytest.raises(ModelError, match="no one tensor of token embeddings"):
        read_embeddings(str(tmp_path))
    save_file({"wte.weight": torch.ones(2, 2, dtype=torch.int8)}, path)
    with pytest.raises(ModelError, match="I8"):
        read_embeddings(str(tmp_path))
    for data in (b"", b"\xff" * 20, path.read_bytes()[:-3].replace(b"I8", b"F3")):
        path.write_bytes(data)
        with pytest.raises(ModelError, match="cannot be read"):
            read_embeddings(str(tmp_path))


def test_the_embedder_is_the_one_named(tmp_path: Path) -> None:
    tokens = load_embedder("tokens", str(EMBEDDED / "target"), None, byte_tokenizer())
    assert (tokens.name, tokens.dimension) == ("tokens", 64)
    spans = Spans(np.zeros(3, np.uint32), np.array([0]), np.array([3]))
    assert tokens.embed(spans).shape == (1, 64)
    with pytest.raises(ConfigError, match=r"pip install sentence-transformers|cannot be loaded"):
        load_embedder(str(tmp_path), "unused", None, byte_tokenizer())


class FakeModel:
    """Four counts of letters for a vector; notes how it was made and what it read."""

    def __init__(self, name: str, device: str) -> None:
        self.made = name, device
        self.read: list[str] = []

    def encode(self, texts: list[str], **options: Any) -> Any:
        self.read += texts
        return np.array([[text.count(letter) for letter in "abc "] for text in texts])


def test_a_named_model_reads_the_text_of_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(SentenceTransformer=FakeModel)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    tokenizer = byte_tokenizer()
    found = load_embedder("some/model", "unused", None, tokenizer)
    assert isinstance(found, SentenceEmbedder)
    assert (found.name, found.dimension, found._model.made) == (
        "some/model",
        4,
        ("some/model", "cpu"),
    )
    ids = tokenizer("aaab cd", add_special_tokens=False).input_ids
    unknown = [len(tokenizer), 2**31]
    tokens = np.array([tokenizer.bos_token_id, *ids, *unknown, *ids], np.uint32)
    whole = 1 + len(ids) + len(unknown)
    spans = Spans(tokens, np.array([0, whole, 3, 0]), np.array([whole, len(tokens), 3, 1]))
    found._model.read.clear()
    vectors = found.fitted([spans]).embed(spans)
    assert found._model.read == ["aaab cd", "aaab cd", "", ""]
    assert vectors.dtype == np.float32 and vectors.shape == (4, 4)
    assert np.allclose(vectors[:2], np.array([3, 1, 1, 1]) / np.sqrt(12))
    assert not np.any(vectors[2:])
    assert found.embed(spans.of(slice(0, 0))).shape == (0, 4)
