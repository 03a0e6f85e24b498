"""The training text and its split."""

from rasd.train import text


def test_split_is_disjoint_by_whole_modules_and_complete() -> None:
    held_in, held_out = text.documents(held_out=False), text.documents(held_out=True)
    modules_in, modules_out = {d.module for d in held_in}, {d.module for d in held_out}
    assert not modules_in & modules_out
    assert sorted(modules_out) == text.held_out_modules()
    ids = [d.id for d in held_in + held_out]
    assert len(set(ids)) == len(ids)
    assert sorted(ids) == sorted(d.id for d in text.stdlib_documents())


def test_held_out_share_is_a_few_percent() -> None:
    sizes = [sum(len(d.text) for d in text.documents(held_out=side)) for side in (True, False)]
    assert 0.02 < sizes[0] / sum(sizes) < 0.06


def test_split_does_not_depend_on_the_process() -> None:
    assert text.is_held_out("configparser")
    assert not text.is_held_out("posixpath")


def test_no_tests_and_no_other_peoples_packages() -> None:
    parts = {part for d in text.stdlib_documents() for part in d.id.split("/")}
    assert not parts & {"test", "tests", "idle_test", "site-packages", "encodings"}
    assert {"os.py", "json", "asyncio"} <= parts


def test_questions_come_from_docstrings_and_sources() -> None:
    source = (
        '"""A module about nothing in particular."""\n'
        "class Thing:\n"
        "    def act(self, x):\n"
        '        """Return x.\n\n        Nothing more, nothing less.\n        """\n'
        "        return x\n"
        "    def _hidden(self):\n"
        '        """Not to be asked about by anyone."""\n'
    )
    pairs = text.document_questions(text.Document("pkg/__init__.py", source))
    assert {(pair.module, pair.name) for pair in pairs} == {
        ("pkg", "pkg"),
        ("pkg", "pkg.Thing.act"),
    }
    answers = [pair.answer for pair in pairs]
    assert "A module about nothing in particular." in answers
    assert "Return x.\n\nNothing more, nothing less." in answers
    assert answers[-1].startswith("```python\ndef act(self, x):\n    ")
    assert all(pair.name in pair.question for pair in pairs)


def test_public_names_are_used() -> None:
    posixpath = next(d for d in text.stdlib_documents() if d.id == "posixpath.py")
    asked = {pair.name for pair in text.document_questions(posixpath)}
    assert "os.path.join" in asked


def test_long_answers_end_at_a_line() -> None:
    docstring = "\n".join(["word " * 10] * 200)
    source = f'"""{docstring}"""'
    (pair,) = text.document_questions(text.Document("m.py", source))
    assert len(pair.answer) <= text.MAX_ANSWER_CHARS
    assert pair.answer.splitlines()[-1].strip() == ("word " * 10).strip()
