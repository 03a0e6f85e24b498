"""A greedy text that copies a known document says which, and where; from prompt to answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rasd import LLM, SamplingParams
from rasd.config import CorpusConfig, parse_config
from rasd.llm import CompletionOutput
from rasd.quotes import Quote
from rasd.retrieval.store.browse import Browser
from tests.tokenizers import byte_tokenizer
from tests.worlds import TEXTS, said_by, tiny_config

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine

NEW = 60
ASKED = [byte_tokenizer()(text).input_ids for text in TEXTS[:2]]
FRONT = [7, 9, 11]  # what stands before the copied part


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model, and what it says in a document of its own per prompt."""
    place = tmp_path_factory.mktemp("library")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config("llama"), dtype=torch.float32).eval()
    model.save_pretrained(place / "model")
    byte_tokenizer().save_pretrained(place / "model")
    model.generation_config.eos_token_id = None
    said = [said_by(model, prompt, NEW)[0] for prompt in ASKED]
    for name, documents in {
        "copied": {f"said {i}": [*FRONT, *ASKED[i], *said[i]] for i in range(2)},
        "other": {"noise": list(range(20, 90))},
    }.items():
        lines = [json.dumps({"id": id_, "tokens": ids}) for id_, ids in documents.items()]
        (place / f"{name}.jsonl").write_text("\n".join(lines))
    return place


@pytest.fixture(scope="module")
def llm(library: Path) -> Iterator[LLM]:
    llm = LLM(
        str(library / "model"),
        dtype="float32",
        drafter=None,
        corpora=[
            CorpusConfig(name=name, source=str(library / f"{name}.jsonl"))
            for name in ("other", "copied")
        ],
        settings=parse_config(
            {
                "target": {"kv_slots": 2048, "threads": 1},
                "datastore": {"root": str(library / "store"), "partitions": 2},
                # A model this small decodes as quickly as it is asked: nothing would pay.
                "speculation": {"budget": "fixed"},
            }
        ),
    )
    yield llm
    llm.close()


def answers_of(llm: LLM, **values: Any) -> list[CompletionOutput]:
    params = SamplingParams(max_tokens=NEW, temperature=0.0, ignore_eos=True, **values)
    return [answer.outputs[0] for answer in llm.generate(ASKED, params)]


def check_quotes(library: Path, prompt: list[int], answer: CompletionOutput) -> int:
    """Every quote stands where it says; gives how many tokens all have."""
    lines = (library / "copied.jsonl").read_text().splitlines()
    documents = {entry["id"]: entry["tokens"] for entry in map(json.loads, lines)}
    end = 0
    for quote in answer.origins:
        assert quote.position >= end
        end = quote.position + quote.tokens
        said = answer.token_ids[quote.position : end]
        assert len(said) == quote.tokens
        if quote.source == "prompt":
            text = [*prompt, *answer.token_ids]
            assert (quote.corpus, quote.document) == (None, None)
        else:
            assert quote.corpus == "copied"
            assert quote.document is not None
            text = documents[quote.document]
        assert text[quote.offset : quote.offset + quote.tokens] == said
    return sum(quote.tokens for quote in answer.origins)


def test_a_copied_document_is_named_with_its_place(library: Path, llm: LLM) -> None:
    answers = answers_of(llm, speculation="corpus", return_origins=True)
    for i, answer in enumerate(answers):
        accepted = answer.statistics.accepted["corpus"]
        assert accepted > 30
        assert accepted <= check_quotes(library, ASKED[i], answer) <= NEW
        longest = max(answer.origins, key=lambda quote: quote.tokens)
        assert longest.document == f"said {i}"
        assert longest.offset == len(FRONT) + len(ASKED[i]) + longest.position
        assert longest.tokens > 20
    plain = answers_of(llm, speculation="off", return_origins=True)
    assert [answer.token_ids for answer in plain] == [answer.token_ids for answer in answers]
    assert all(answer.origins == [] for answer in plain)


def test_prompt_and_corpus_are_told_apart(library: Path, llm: LLM) -> None:
    answers = answers_of(llm, return_origins=True)
    for i, answer in enumerate(answers):
        assert check_quotes(library, ASKED[i], answer) > 30
    own = answers_of(llm, speculation="prompt", return_origins=True)
    quotes = [quote for answer in own for quote in answer.origins]
    assert {quote.source for quote in quotes} == {"prompt"}
    for i, answer in enumerate(own):
        check_quotes(library, ASKED[i], answer)


def test_only_corpora_asked_for_are_quoted(llm: LLM) -> None:
    for answer in answers_of(llm, speculation="corpus", corpora=("other",), return_origins=True):
        assert {quote.corpus for quote in answer.origins} <= {"other"}
    # The order of names does not matter to what they stand for.
    for corpora in (("other", "copied"), ("copied", "other"), ("copied",)):
        for answer in answers_of(llm, speculation="corpus", corpora=corpora, return_origins=True):
            named: list[Quote] = [q for q in answer.origins if q.tokens > 10]
            assert {quote.corpus for quote in named} == {"copied"}


def test_nothing_is_said_where_nobody_asks(llm: LLM) -> None:
    assert all(answer.origins == [] for answer in answers_of(llm))


def test_a_document_that_is_gone_has_no_name(
    library: Path, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = answers_of(llm, speculation="corpus", return_origins=True)
    monkeypatch.setitem(llm._stages.browsers, "copied", Browser(library / "nowhere", "copied"))
    for answer, known in zip(
        answers_of(llm, speculation="corpus", return_origins=True), whole, strict=True
    ):
        assert answer.token_ids == known.token_ids
        assert answer.origins == [replace(quote, document=None) for quote in known.origins]


def test_a_stop_string_cuts_the_last_quote(library: Path, llm: LLM) -> None:
    whole = answers_of(llm, speculation="corpus", return_origins=True)[0]
    stop = whole.text[len(whole.text) // 2 :][:4]
    ended = answers_of(llm, speculation="corpus", return_origins=True, stop=(stop,))[0]
    assert len(ended.token_ids) < NEW
    assert check_quotes(library, ASKED[0], ended) <= len(ended.token_ids)
