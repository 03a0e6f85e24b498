"""A process of its own: passages are copied at the first question, and tokens do not change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rasd import LLM, SamplingParams
from rasd.config import CorpusConfig, DenseConfig, RetrievalConfig, parse_config
from rasd.errors import InvalidRequest
from rasd.retrieval import LocalRetriever
from rasd.retrieval.dense.background import Background
from rasd.retrieval.dense.embed import Embedder
from rasd.retrieval.dense.local import DenseRetriever
from rasd.retrieval.dense.store import DenseStore
from rasd.retrieval.store.records import Delete, id_digest
from rasd.stages import RetrieveQuery, RetrieveRequest
from tests.retrieval.dense.worlds import VOCABULARY, WIDTH, World, embedder, text, until
from tests.tokenizers import byte_tokenizer
from tests.worlds import TEXTS, said_by, tiny_config

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine

NEW = 40


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    for name in ("one", "two"):
        world.create(name)
        world.put(name, **{f"{name}{topic}": text(topic, 90) for topic in range(4)})
    yield world
    world.close()


def retriever(world: World, **dense: Any) -> DenseRetriever:
    settings = RetrievalConfig(suffix_min=1)
    chosen = DenseConfig(passage_tokens=WIDTH, passages=8).model_copy(update=dense)
    inner, indexes = LocalRetriever(world.store(), settings), DenseStore(embedder(), chosen)
    return DenseRetriever(inner, settings, chosen, indexes, VOCABULARY)


def ask(one: LocalRetriever, *corpora: str, topic: int = 2) -> Any:
    tail = text(topic, 90)[20:24].astype(np.int32)
    query = RetrieveQuery(0, tail, corpora, origins=True)
    return one.retrieve(RetrieveRequest(0, [query])).wait(0).found[0]


@pytest.mark.parametrize("mode", ["all", "selected", "none"])
def test_what_is_found_stands_in_the_corpora_read(world: World, mode: str) -> None:
    one = retriever(world, ask=mode)
    one.observe(0, text(2, 40, seed=9).astype(np.int32))
    for _ in range(2):
        found = ask(one, "two")
        assert found.match_length == 4
        documents = {row.tobytes() for row in found.origins.documents}
        assert documents == {id_digest("two2")} and set(found.origins.corpora.tolist()) == {0}
    elsewhere = ask(one, "two", topic=0)  # no topic of the prompt
    assert elsewhere.match_length == (0 if mode == "none" else 4)
    one.release(0)
    assert ask(one, "two", topic=0).match_length == 4


def test_a_refresh_takes_in_what_is_new_and_drops_what_is_gone(world: World) -> None:
    one = retriever(world, ask="none", passages=40)
    world.writers["two"].write([Delete("two2")])
    world.put("one", fresh=text(2, 90))
    one.refresh()
    one.observe(0, text(2, 40, seed=9).astype(np.int32))
    found = ask(one, "one", "two")
    assert id_digest("two2") not in {row.tobytes() for row in found.origins.documents}
    assert found.match_length == 4 and set(found.origins.corpora.tolist()) == {0}


def test_an_answer_is_partial_for_who_reads_what_is_damaged(world: World) -> None:
    one = retriever(world, ask="none")
    one.observe(0, text(2, 40, seed=9).astype(np.int32))
    ask(one, "one")  # from here on sequence 0 asks for nothing
    for file in (world.root / "two").rglob("source-*"):
        file.write_bytes(b"")
    one.store = world.store()
    tail = text(2, 90)[20:24].astype(np.int32)
    names = [("two",), ("one",), ("two",), (), ("one", "two")]
    queries = [RetrieveQuery(number, tail, corpora) for number, corpora in enumerate(names)]
    assert one.retrieve(RetrieveRequest(0, queries)).wait(0).partial == (2, 4)


def test_indexes_are_built_beside(world: World) -> None:
    def fails() -> Embedder:
        raise OSError("no model")

    store, prompt = world.store(), text(2, 40, seed=9)
    settings = DenseConfig(passage_tokens=WIDTH)
    with closing(Background(embedder, settings)) as built:
        assert built.search(store, prompt, ("one",), 4) == []
        built.follow([store])
        until(lambda: built.passages == 2 * 4 * 11)
        assert len(built.search(store, prompt, ("one",), 4)) == 4
        built.follow([])
        until(lambda: built.passages == 0)
    until(lambda: not built._thread.is_alive())
    broken = Background(fails, settings)
    broken.follow([store])
    until(lambda: not broken._thread.is_alive())
    assert broken.search(store, prompt, ("one",), 4) == [] and broken.passages == 0


# --- from prompt to answer ------------------------------------------------------------------


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model, a corpus of what it says, and one of something else."""
    place = tmp_path_factory.mktemp("library")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config("llama"), dtype=torch.float32).eval()
    model.save_pretrained(place / "model")
    byte_tokenizer().save_pretrained(place / "model")
    model.generation_config.eos_token_id = None
    asked = [byte_tokenizer()(each).input_ids for each in TEXTS[:2]]
    said = {f"d{i}": [*ids, *said_by(model, ids, NEW)[0]] for i, ids in enumerate(asked)}
    for name, documents in {"said": said, "noise": {"n": list(range(20, 90))}}.items():
        lines = [json.dumps({"id": id_, "tokens": ids}) for id_, ids in documents.items()]
        (place / f"{name}.jsonl").write_text("\n".join(lines))
    return place


def llm_of(library: Path, dense: dict[str, Any] | None) -> LLM:
    return LLM(
        str(library / "model"),
        dtype="float32",
        drafter=None,
        corpora=[
            CorpusConfig(name=name, source=str(library / f"{name}.jsonl"))
            for name in ("noise", "said")
        ],
        settings=parse_config(
            {
                "target": {"kv_slots": 2048, "threads": 1},
                "datastore": {"root": str(library / "store"), "partitions": 2},
                "retrieval": {"dense": dense},
                "speculation": {"budget": "fixed"},  # nothing pays where a step costs nothing
            }
        ),
    )


@pytest.mark.parametrize("mode", ["all", "selected", "none"])
def test_tokens_do_not_change(library: Path, mode: str) -> None:
    prompts = [byte_tokenizer()(each).input_ids for each in TEXTS[:2]]
    params = SamplingParams(max_tokens=NEW, temperature=0.0, ignore_eos=True, return_origins=True)
    with closing(llm_of(library, None)) as plain:
        wanted = [answer.outputs[0].token_ids for answer in plain.generate(prompts, params)]
        with pytest.raises(InvalidRequest, match=r"retrieval\.dense; got 1"):
            plain.generate(prompts, SamplingParams(passages=1))
    with closing(llm_of(library, {"ask": mode, "passage_tokens": 16})) as llm:
        for passages in (None, 0, 64):
            asked = SamplingParams(
                max_tokens=NEW,
                temperature=0.0,
                ignore_eos=True,
                speculation="corpus",
                return_origins=True,
                passages=passages,
            )
            answers = [answer.outputs[0] for answer in llm.generate(prompts, asked)]
            assert [answer.token_ids for answer in answers] == wanted
            for answer in answers:
                assert answer.statistics.accepted["corpus"] > 15
                assert {quote.corpus for quote in answer.origins} == {"said"}
