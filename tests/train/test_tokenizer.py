"""The tokenizer: any text comes back, and chats render."""

import random
from pathlib import Path

import pytest
from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rasd.text import load_tokenizer, tokenizer_hash
from rasd.train import tokenizer as tok
from rasd.train.batches import encode_chats
from rasd.train.text import documents

SEED = 3


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    texts = [d.text for d in documents(held_out=True)]
    tok.publish_tokenizer(tok.train_tokenizer(texts, vocabulary=600), path)
    return path


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def test_any_text_round_trips(tokenizer: PreTrainedTokenizerFast) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    texts = ["", " ", "\n\n\t x  .  y ,\r\n", "naïve ☃ 日本語 🐍", "\x00\x7f\u200b"]
    alphabet = [chr(c) for c in (*range(0x250), *range(0x3000, 0x3100), *range(0x1F600, 0x1F640))]
    texts += ["".join(rng.choices(alphabet, k=rng.randrange(40))) for _ in range(300)]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_corpus_text_gets_no_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("import os", add_special_tokens=False)["input_ids"]
    assert not set(ids) & set(tokenizer.all_special_ids)


def test_special_ids_are_the_first_four(tokenizer: PreTrainedTokenizerFast) -> None:
    names = [tok.BOS, tok.END, tok.USER, tok.ASSISTANT]
    assert tokenizer.convert_tokens_to_ids(names) == [0, 1, 2, 3]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)
    assert len(tokenizer) == 600


def test_chat_renders(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi?"},
        {"role": "assistant", "content": "Ho."},
        {"role": "user", "content": "So?"},
    ]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<|bos|><|user|>Be brief.\n\nHi?<|end|><|assistant|>Ho.<|end|>"
        "<|user|>So?<|end|><|assistant|>"
    )
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert ids.count(0) == 1
    assert ids[-1] == 3
    assert encode_chats(tokenizer, [chat]) == [ids[:-1]]


def test_unknown_role_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(TemplateError, match="unknown role: tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_template_lives_in_the_config_file(directory: Path) -> None:
    assert sorted(p.name for p in directory.iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert "chat_template" in (directory / "tokenizer_config.json").read_text()


def test_same_texts_give_the_same_tokenizer(directory: Path, tmp_path: Path) -> None:
    texts = [d.text for d in documents(held_out=True)]
    tok.publish_tokenizer(tok.train_tokenizer(texts, vocabulary=600), tmp_path / "again")
    again, first = (load_tokenizer(str(path)) for path in (tmp_path / "again", directory))
    assert tokenizer_hash(again) == tokenizer_hash(first)
