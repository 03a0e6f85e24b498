"""Tasks are made from definitions: answers stand in their texts, the sides do not mix."""

from collections.abc import Iterator

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from benchmarks.models import docqa, tasks
from benchmarks.models.sources import Definition, document_definitions
from rasd.config import EMBEDDED
from rasd.train.text import Document

NUMPY_STYLE = """Sort the rows of a table by one of its columns.

The order of rows with equal values is kept. Values are compared as they are, which is why
strings and numbers in one column are refused. Nothing is copied unless it has to be, for
copies take memory.

Parameters
----------
table : Table
    What to sort, a table of at least one row. It is changed in place unless it is a view,
    and a view is copied before anything else happens, which takes memory for every row of it.
column : str
    The column's name.

Returns
-------
Table
    The table, for chaining. It is the very object that was given unless that was a view, as
    described above, in which case it is the copy, which owns its memory and is never a view.
"""

GOOGLE_STYLE = """Open a store.

Args:
    place: Where the store is, a directory that exists or whose parent does. Symbolic links are
        followed once, and the place they lead to is what is locked for the time it is open.
    writable: Whether to lock.
"""

SOURCE = f'''
class Table:
    """{NUMPY_STYLE}"""

    def sort(self, table, column):
        """{NUMPY_STYLE.replace(chr(10), chr(10) + "        ")}"""
        rows = sorted(table.rows, key=lambda row: row[column])
        table.rows[:] = rows
        if table.is_view and not table.owner.is_locked:
            raise ValueError("a view cannot be sorted in place while its owner is in use")
        return table

    def _hidden(self):
        """Nobody asks."""


def bare():
    return 1
'''


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(EMBEDDED / "target")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Six modules on each side instead of everything that is installed."""
    sides: dict[bool, tuple[Definition, ...]] = {
        held_out: tuple(
            definition
            for number in range(6)
            for definition in document_definitions(
                Document(f"side{held_out}{number}.py", SOURCE.replace("Sort", f"Sort {number}"))
            )
        )
        for held_out in (False, True)
    }
    monkeypatch.setattr(tasks, "definitions", lambda *, held_out: sides[held_out])
    monkeypatch.setattr(tasks, "indomain_definitions", lambda: sides[False])
    tasks._indomain_entries.cache_clear()
    yield
    tasks._indomain_entries.cache_clear()


def test_definitions_are_public_and_documented() -> None:
    found = document_definitions(Document("package/table.py", SOURCE))
    assert [d.name for d in found] == ["package.table.Table", "package.table.Table.sort"]
    assert found[0].body == ""
    assert found[1].head.startswith("def sort(self, table, column):\n")
    assert found[1].body.startswith("    rows = sorted(") and found[1].body.endswith("table")
    assert found[1].module == "package"
    assert document_definitions(Document("broken.py", "def f(:")) == []


@pytest.mark.parametrize("text", [NUMPY_STYLE, GOOGLE_STYLE])
def test_parts_stand_in_the_text_and_begin_with_their_key(text: str) -> None:
    parts = docqa.parts(text)
    assert parts
    for part in parts:
        assert part.text in text
        assert part.text.startswith(part.key)


def test_sections_entries_and_paragraphs_are_found() -> None:
    keys = {part.key for part in docqa.parts(NUMPY_STYLE)}
    assert {"Parameters", "Returns", "table", "The order of rows"} <= keys
    assert {part.key for part in docqa.parts(GOOGLE_STYLE)} == {"Args", "place"}
    assert docqa.parts("") == []


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("task", tasks.TASKS)
def test_every_task_has_examples_that_repeat(task: str) -> None:
    for side in (False, True):
        found = tasks.examples(task, held_out=side)
        assert found and found == tasks.examples(task, held_out=side)
        assert len(set(found)) == len(found)


@pytest.mark.usefixtures("known")
def test_answers_come_from_the_text() -> None:
    for example in tasks.examples("docqa", held_out=True):
        assert example.answer in example.question
    for example in tasks.examples("code", held_out=True):
        assert example.answer.startswith("```python\n    rows") and "def sort" in example.question
    for example in tasks.examples("summary", held_out=True):
        for line in example.answer.split("\n"):
            words = line.removeprefix("- ").rstrip(".").split()
            assert " ".join(words[-4:]) in " ".join(example.question.split())


@pytest.mark.usefixtures("known")
def test_in_domain_asks_about_the_same_documents_in_other_words() -> None:
    sides = [tasks.examples("indomain", held_out=side) for side in (False, True)]
    assert {e.answer for e in sides[0]} == {e.answer for e in sides[1]}
    assert not {e.question for e in sides[0]} & {e.question for e in sides[1]}
    texts = "".join(document.text for document in tasks.corpus_documents("indomain"))
    assert all(example.answer in texts for example in sides[1])


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("task", tasks.TASKS)
def test_prompts_end_where_the_answer_begins(task: str, tokenizer: PreTrainedTokenizerFast) -> None:
    prompts = tasks.prompts(task, tokenizer, 3)
    assert 0 < len(prompts) <= 3
    assert prompts == tasks.prompts(task, tokenizer, 3)
    for ids in prompts:
        assert tokenizer.decode(ids).endswith("<|end|><|assistant|>")
        assert len(ids) <= tasks.MAX_PROMPT_TOKENS
