"""What a corpus accepts, and how it says no."""

from __future__ import annotations

import json
import re
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.datastore import NewDocument, Written
from rasd.retrieval.store import intake
from rasd.retrieval.store.intake import Intake
from rasd.retrieval.store.records import Document
from tests.tokenizers import END, byte_tokenizer

LIMIT = 1000
TAKES = Intake(byte_tokenizer(), max_document_bytes=LIMIT)
DEEP: dict[str, Any] = {}
for _ in range(intake.MAX_METADATA_DEPTH):
    DEEP = {"a": DEEP}


def refusal(document: Any) -> str:
    """The reason, or ''. It can always be sent as JSON."""
    (found,) = TAKES.check([document])
    if found is None:
        return ""
    assert found.change == "rejected" and found.error
    json.dumps(found.error).encode()
    found.id.encode()
    found.error.encode()
    assert len(found.error) < 300 and len(found.id) <= intake.MAX_ID_BYTES
    return found.error


def new(id_: Any = "a", **values: Any) -> NewDocument:
    return NewDocument(id_, **({"text": "some text"} | values))


# --- ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "id_",
    ["a", "../../etc/passwd", "/", "..", "a b", "你好/🙂", "C:\\x", "é" * 256, "x" * 512, "%2e"],
)
def test_an_id_is_any_name(id_: str) -> None:
    assert refusal(new(id_)) == ""


@pytest.mark.parametrize(
    ("id_", "reason"),
    [
        ("", "must be 1 to 512 bytes of UTF-8; got 0 characters"),
        ("x" * 513, "must be 1 to 512 bytes of UTF-8; got 513 characters"),
        ("é" * 257, "must be 1 to 512 bytes of UTF-8; got 514: 'éé"),
        ("x" * 10**7, "got 10000000 characters"),
        ("a\0", r"without control characters; character 1 of 'a\\x00' is one"),
        ("a\nb", "without control characters; character 1"),
        ("\x7f", "without control characters; character 0"),
        ("ab\ud800", r"without lone surrogates; character 2 of 'ab\\ud800' is one"),
        (5, "must be a string; got int"),
        (None, "must be a string; got NoneType"),
    ],
)
def test_what_names_nothing_is_refused(id_: Any, reason: str) -> None:
    assert reason.replace("\\\\", "\\") in refusal(new(id_))


def test_only_the_first_of_an_id_counts() -> None:
    given_ = [new("a"), new("b"), new("a"), new("b", tokens=[1]), new("\0"), new("\0")]
    found = TAKES.check(given_)
    assert found[:2] == [None, None]
    errors = [one.error for one in found[2:] if one]
    assert errors[0] == "id 'a' comes twice in one call; the first one counts"
    assert "comes twice" in errors[1]
    assert all("control characters" in error for error in errors[2:])


# --- content ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"text": ""}, "text must have at least 1 character; got 0"),
        ({"text": "a\0b"}, "text must be without NUL; character 1 is one"),
        ({"text": "ab\udfff"}, "text must be without lone surrogates; character 2 is one"),
        ({"text": "x" * (LIMIT + 1)}, "at most 1000 bytes of UTF-8; got 1001 characters"),
        ({"text": "é" * (LIMIT // 2 + 1)}, "at most 1000 bytes of UTF-8; got 1002"),
        ({"text": b"bytes"}, "text must be a string; got bytes"),
        ({"text": None}, "either text or tokens; got neither"),
        ({"tokens": [1]}, "either text or tokens; got both"),
        ({"text": None, "tokens": []}, "tokens must be 1 to 250 token ids; got 0"),
        ({"text": None, "tokens": [1] * 251}, "tokens must be 1 to 250 token ids; got 251"),
        ({"text": None, "tokens": [3, -1]}, "[0, 268); got -1"),
        ({"text": None, "tokens": [3, 268]}, "[0, 268); got 268"),
        ({"text": None, "tokens": [10**5000]}, "[0, 268); got an integer of 16610 bits"),
        ({"text": None, "tokens": [3, 1.0]}, "list of integers; got a float"),
        ({"text": None, "tokens": [3, True]}, "list of integers; got a bool"),
        ({"text": None, "tokens": [3, "4"]}, "list of integers; got a str"),
        ({"text": None, "tokens": "34"}, "list of integers; got str"),
    ],
)
def test_wrong_content_is_refused(values: dict[str, Any], reason: str) -> None:
    assert len(byte_tokenizer()) == 268
    assert reason in refusal(new(**values))


@pytest.mark.parametrize("values", [{"text": "x" * LIMIT}, {"text": None, "tokens": [267] * 250}])
def test_the_limits_themselves_are_allowed(values: dict[str, Any]) -> None:
    assert refusal(new(**values)) == ""


def test_what_is_far_too_long_is_refused_at_once() -> None:
    text = "é" * 10**8
    tracemalloc.start()
    try:
        start = time.process_time()
        assert "got 100000000 characters" in refusal(new(text=text))
        assert time.process_time() - start < 1
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ([], "must be an object; got list"),
        ({1: 2}, "keys must be strings; got 1"),
        ({"a": {(): 2}}, "keys must be strings; got tuple"),
        ({"a": [float("nan")]}, "numbers must be finite; got nan"),
        ({"a": -float("inf")}, "numbers must be finite; got -inf"),
        ({"a": 2**64}, "integers must be in .*; got an integer of 65 bits"),
        ({"a": "\ud800"}, "without lone surrogates"),
        ({"\ud800": 1}, "without lone surrogates"),
        ({"a": b"x"}, "values must be those of JSON; got bytes"),
        ({"a": (1, 2)}, "values must be those of JSON; got tuple"),
        ({"a": "x" * 65_537}, "at most 65536 bytes; a text has 65537 characters"),
        ({"a": "x" * 65_529}, "at most 65536 bytes of JSON; got 65537"),
        ({"a": [0] * 10**6}, "at most 65536 bytes; got 1000001 values"),
        ({"a": DEEP}, "nested at most 32 deep"),
    ],
)
def test_wrong_metadata_is_refused(metadata: Any, reason: str) -> None:
    assert re.search(reason, refusal(new(metadata=metadata)))


def test_metadata_in_a_circle_ends() -> None:
    circle: dict[str, Any] = {}
    circle["a"] = [circle, circle]
    assert "nested at most" in refusal(new(metadata=circle))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inside, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON, max_size=4))
def test_what_json_can_say_is_taken(metadata: dict[str, Any]) -> None:
    assert refusal(new(metadata=metadata)) == ""


# --- tokens -------------------------------------------------------------------------------------


@given(st.lists(st.text("ab the🙂" + END, min_size=1, max_size=40), max_size=8))
def test_texts_become_their_tokens_in_order(texts: list[str]) -> None:
    documents = [new(f"d{i}", text=text) for i, text in enumerate(texts)]
    mixed = [*documents, new("t", text=None, tokens=[7, 0])]
    assert TAKES.check(mixed) == [None] * len(mixed)
    made = TAKES.tokenise(mixed)
    for document, one in zip(documents, made, strict=False):
        assert isinstance(one, Document)
        assert one.tokens.dtype == np.uint32
        assert byte_tokenizer().decode(one.tokens.tolist()) == document.text == one.text
    last = made[-1]
    assert isinstance(last, Document)
    assert (last.id, last.tokens.tolist(), last.text) == ("t", [7, 0], None)


def test_batches_are_bounded_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [new(str(i), text="the " * (i % 5 + 1)) for i in range(20)]
    whole = [one.tokens.tolist() for one in TAKES.tokenise(documents) if isinstance(one, Document)]
    sizes: list[int] = []
    encode = intake.encode_documents

    def counting(tokenizer: Any, texts: Any) -> Any:
        sizes.append(sum(map(len, texts)))
        return encode(tokenizer, texts)

    monkeypatch.setattr(intake, "encode_documents", counting)
    monkeypatch.setattr(intake, "BATCH_BYTES", 16)
    parts = [one.tokens.tolist() for one in TAKES.tokenise(documents) if isinstance(one, Document)]
    assert parts == whole
    assert len(sizes) > 5 and max(sizes) <= 20


def test_a_text_of_no_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = [np.zeros(0, np.int32)]
    monkeypatch.setattr(intake, "encode_documents", lambda tokenizer, texts: nothing)
    (found,) = TAKES.tokenise([new("a")])
    assert found == Written("a", "rejected", "text must give at least 1 token; got 0")
