"""Four tasks as chats: code, questions about a passage, summaries, and in-domain questions.

The examples to train on and the held-out prompts come from different modules, except in-domain:
there both ask about the same documents, in different words, for only who has read them can answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from transformers import PreTrainedTokenizerFast

from benchmarks.models import docqa
from benchmarks.models.sources import (
    Definition,
    code_documents,
    definitions,
    indomain_definitions,
)
from rasd.train.text import Document, exchange

TASKS: Final = ("code", "docqa", "summary", "indomain")

MIN_PROMPT_TOKENS, MAX_PROMPT_TOKENS = 100, 700
"""Limits of held-out prompts; in-domain questions have no passage and are shorter."""
_PASSAGE = (500, 1700)
_CODE_HEAD = (200, 1500)
_CODE_BODY = (150, 1200)
_INDOMAIN_ANSWER = 900
_INDOMAIN_COUNT = 80
_PARTS_PER_PASSAGE = 4
_OUTLINE_NAMES = (4, 12)

ASK_CODE = "Write the body of this function.\n\n```python\n{head}\n```"
ASK_PASSAGE = "This is the documentation of {name}:\n\n{passage}\n\n{question}"
ASK_OUTLINE = "Summarise this module in one line for each name.\n\n{text}"
ASK_CONDENSE = "Give the first sentence of each paragraph.\n\n{text}"
ASK_INDOMAIN = (
    "What does the handbook say about {name}?",
    "Show the handbook's entry on {name}.",
    "I need the reference text of {name}.",
    "How is {name} described in the handbook?",
    "Handbook, please: {name}.",
)
ASK_INDOMAIN_HELD_OUT = (
    "Please tell me what the handbook has on {name}.",
    "Can you show me the reference entry of {name}?",
)


@dataclass(frozen=True)
class Example:
    """One chat: a question and the answer the target is trained to give."""

    task: str
    question: str
    answer: str

    def messages(self) -> list[dict[str, str]]:
        """The pair in the form `apply_chat_template` takes."""
        return exchange(self.question, self.answer)


def examples(task: str, *, held_out: bool) -> list[Example]:
    """All examples of a task on one side of the split, in a fixed order without duplicates."""
    return list(dict.fromkeys(_BUILDERS[task](held_out)))


def prompts(
    task: str, tokenizer: PreTrainedTokenizerFast, count: int, seed: int = 0
) -> list[list[int]]:
    """At most `count` different held-out questions as token ids, ready for the answer."""
    found = examples(task, held_out=True)
    random.Random(seed).shuffle(found)
    least = 0 if task == "indomain" else MIN_PROMPT_TOKENS
    kept: list[list[int]] = []
    for example in found:
        if len(kept) == count:
            break
        ids = tokenizer.apply_chat_template(
            example.messages()[:1], add_generation_prompt=True, return_dict=False
        )
        if least <= len(ids) <= MAX_PROMPT_TOKENS:
            kept.append(list(ids))
    return kept


def corpus_documents(task: str) -> list[Document]:
    """What a service that does this task would have in its corpus.

    Code: the sources it was trained on. Questions and summaries: the documentation, that which is
    asked about included. In-domain: the documents that hold the answers.
    """
    if task == "code":
        return code_documents(held_out=False)
    if task == "indomain":
        return [_docstring_document(d) for d in indomain_definitions()]
    sides = [definitions(held_out=side) for side in (False, True)]
    return [_docstring_document(d) for side in sides for d in side if len(d.docstring) > 200]


def _docstring_document(definition: Definition) -> Document:
    path = definition.name.replace(".", "/")
    return Document(f"{path}.txt", f"{definition.name}\n\n{definition.docstring}\n")


def _code(held_out: bool) -> list[Example]:
    return [
        Example("code", ASK_CODE.format(head=d.head), f"```python\n{d.body}\n```")
        for d in definitions(held_out=held_out)
        if _within(d.head, _CODE_HEAD) and _within(d.body, _CODE_BODY)
    ]


def _docqa(held_out: bool) -> list[Example]:
    found = []
    for d in definitions(held_out=held_out):
        passage = _cut(d.docstring, _PASSAGE[1])
        if len(passage) < _PASSAGE[0]:
            continue
        rng = random.Random(d.name)
        parts = docqa.parts(passage)
        for part in rng.sample(parts, min(len(parts), _PARTS_PER_PASSAGE)):
            question = rng.choice(part.phrasings).format(key=part.key)
            asked = ASK_PASSAGE.format(name=d.name, passage=passage, question=question)
            found.append(Example("docqa", asked, part.text))
    return found


def _summary(held_out: bool) -> list[Example]:
    known = definitions(held_out=held_out)
    return _outlines(known) + [e for d in known for e in _condensed(d)]


def _outlines(known: Sequence[Definition]) -> list[Example]:
    """Runs of neighbouring definitions of one module, and a line for each."""
    found, run = [], list[Definition]()
    for d in known:
        wanted = random.Random(d.name).randint(*_OUTLINE_NAMES)
        text = "\n\n".join(_entry(one) for one in run)
        if run and (d.module != run[0].module or len(run) >= wanted or len(text) > _PASSAGE[1]):
            if len(run) >= _OUTLINE_NAMES[0] and _within(text, (400, 2000)):
                answer = "\n".join(f"- {_short(one.name)}: {_first_line(one)}" for one in run)
                found.append(Example("summary", ASK_OUTLINE.format(text=text), answer))
            run = []
        run.append(d)
    return found


def _condensed(d: Definition) -> list[Example]:
    text = _cut(d.docstring, _PASSAGE[1])
    prose = [p for p in text.split("\n\n") if p[:1].isupper() and ". " in " ".join(p.split())]
    if len(text) < _PASSAGE[0] or len(prose) < 2:
        return []
    answer = "\n".join(f"- {' '.join(p.split()).split('. ')[0].rstrip('.')}." for p in prose)
    return [Example("summary", ASK_CONDENSE.format(text=text), answer)] if len(answer) > 120 else []


def _indomain(held_out: bool) -> list[Example]:
    found = []
    for name, d in sorted(_indomain_entries().items()):
        answer = _cut(d.docstring, _INDOMAIN_ANSWER)
        if held_out:
            asked = [random.Random(name).choice(ASK_INDOMAIN_HELD_OUT)]
        else:
            asked = list(ASK_INDOMAIN)
        found += [Example("indomain", text.format(name=name), answer) for text in asked]
    return found


@cache
def _indomain_entries() -> dict[str, Definition]:
    """The entries asked about, by short name; every name once, spread over the package."""
    known = {_short(d.name): d for d in reversed(indomain_definitions()) if len(d.docstring) > 400}
    names = sorted(known)
    random.Random(0).shuffle(names)
    return {name: known[name] for name in names[:_INDOMAIN_COUNT]}


def _entry(d: Definition) -> str:
    signature = d.head.split('"""')[0].rstrip().removesuffix("r").rstrip()
    docstring = "\n".join("    " + line if line else "" for line in _lead(d).split("\n"))
    return f"{signature}\n{docstring}"


def _lead(d: Definition) -> str:
    """The docstring's first two paragraphs."""
    return "\n\n".join(d.docstring.split("\n\n")[:2])


def _first_line(d: Definition) -> str:
    return " ".join(d.docstring.split("\n\n")[0].split()).split(". ")[0].rstrip(".") + "."


def _short(name: str) -> str:
    return name.rsplit(".", 1)[1]


def _cut(text: str, limit: int) -> str:
    """At most `limit` characters, cut at a blank line if there is one, else at a line."""
    if len(text) <= limit:
        return text
    for separator in ("\n\n", "\n"):
        if (head := text[:limit].rpartition(separator)[0]) and len(head) > limit // 2:
            return head
    return text[:limit]


def _within(text: str, limits: tuple[int, int]) -> bool:
    return limits[0] <= len(text) <= limits[1]


_BUILDERS: Final[dict[str, Callable[[bool], list[Example]]]] = {
    "code": _code,
    "docqa": _docqa,
    "summary": _summary,
    "indomain": _indomain,
}
