"""Single tokens as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from rasd.api.tokens import Offsets, TokenTexts
from tests.tokenizers import byte_tokenizer, metaspace_tokenizer


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_the_bytes_of_tokens_are_the_bytes_of_the_text(text: str) -> None:
    tokenizer = byte_tokenizer()
    texts = TokenTexts(tokenizer)
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert b"".join(map(texts.bytes_of, ids)).decode() == text
    offsets = Offsets(texts)
    found = [offsets.next(token) for token in ids]
    assert found == sorted(found)
    assert all(0 <= offset <= len(text) for offset in found)


def test_tokenizers_with_visible_spaces() -> None:
    tokenizer = metaspace_tokenizer()
    texts = TokenTexts(tokenizer)
    ids = tokenizer("the a", add_special_tokens=False).input_ids
    assert b"".join(map(texts.bytes_of, ids)) == b" the a"
    byte = tokenizer.convert_tokens_to_ids("<0xE4>")
    assert texts.bytes_of(byte) == b"\xe4"
    assert texts.text_of(byte) == "bytes:\\xe4"


@pytest.mark.parametrize("tokenizer", [byte_tokenizer(), metaspace_tokenizer()], ids=["b", "m"])
def test_special_and_unknown_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = TokenTexts(tokenizer)
    assert texts.text_of(tokenizer.eos_token_id) == tokenizer.eos_token
    assert texts.is_special(tokenizer.eos_token_id)
    assert texts.bytes_of(len(tokenizer) + 5) == b""
    assert not texts.is_special(len(tokenizer) + 5)
