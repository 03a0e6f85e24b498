"""Questions about a docstring that are answered by lines of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

MIN_ANSWER, MAX_ANSWER = 180, 1000
"""Characters; about 60 to 330 tokens."""

ASK_SECTION = (
    'What does the section "{key}" say?',
    'Quote the section "{key}".',
    'Show me what is written under "{key}".',
)
ASK_ENTRY = ("What is {key}?", "Explain {key}.", "What does the text say about {key}?")
ASK_PARAGRAPH = (
    'Quote the paragraph that begins with "{key}".',
    'Which paragraph starts with "{key}"?',
    'Go on from "{key}".',
)
_FIRST_WORDS = 4
_GOOGLE = re.compile(r"^[A-Z][A-Za-z ]{2,20}:$")
_ENTRY = re.compile(r"^\s*[`*]*(\w+)[`*]*\s*[:(]")


@dataclass(frozen=True)
class Part:
    """Lines of a text that answer one question: `key` stands in the question and begins them."""

    phrasings: tuple[str, ...]
    key: str
    text: str


def parts(text: str) -> list[Part]:
    """Every section, entry of a section and paragraph of a docstring with an answer's length."""
    found = _paragraphs(text)
    for heading, section in _sections(text):
        found.append(Part(ASK_SECTION, heading, section))
        found += _entries(section)
    return [part for part in found if MIN_ANSWER <= len(part.text) <= MAX_ANSWER]


def _sections(text: str) -> list[tuple[str, str]]:
    lines = text.split("\n")
    starts = [i for i in range(len(lines) - 1) if _is_heading(lines[i], lines[i + 1])]
    ends = [*starts, len(lines)][1:]
    return [
        (lines[start].rstrip(":").strip(), "\n".join(lines[start:end]).strip())
        for start, end in zip(starts, ends, strict=True)
    ]


def _is_heading(line: str, after: str) -> bool:
    underlined = bool(line.strip()) and len(after) > 2 and set(after.strip()) == {"-"}
    return underlined or (bool(_GOOGLE.match(line)) and after.startswith("  "))


def _entries(section: str) -> list[Part]:
    """The items of a section: lines at its least indent that name something, and what follows."""
    lines = section.split("\n")[1:]
    lines = lines[1:] if lines and set(lines[0].strip()) == {"-"} else lines
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    if not indents:
        return []
    starts = [
        i
        for i, line in enumerate(lines)
        if line.strip() and len(line) - len(line.lstrip()) == min(indents)
    ]
    ends = [*starts[1:], len(lines)]
    found = []
    for start, end in zip(starts, ends, strict=True):
        if match := _ENTRY.match(lines[start]):
            found.append(Part(ASK_ENTRY, match[1], "\n".join(lines[start:end]).strip()))
    return found


def _paragraphs(text: str) -> list[Part]:
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        words = paragraph.strip().split("\n")[0].split()
        if len(words) >= _FIRST_WORDS:
            key = " ".join(words[:_FIRST_WORDS])
            found.append(Part(ASK_PARAGRAPH, key, paragraph.strip()))
    return found
