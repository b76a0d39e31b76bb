"""The vocabulary of prose prompts, compiled once.

Kept as data beside the code (`vocabulary.yaml`): what people call their sections and how they begin an item is
knowledge that grows with every prompt somebody brings, while the rules that use it should stay as they are.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

SectionKind = Literal[
    "success",
    "risks",
    "files",
    "references",
    "steps",
    "tests",
    "plan",
    "requirements",
    "docs",
    "context",
    "design",
    "notes",
    "quotation",
]
Meaning = Literal[
    "nothing",
    "process",
    "setup",
    "pull_request",
    "issue",
    "branch",
    "review",
    "followup",
    "constraint",
    "baseline",
    "tests",
    "docs",
    "research",
    "implementation",
    "unknown",
]

_FILE = Path(__file__).with_name("vocabulary.yaml")
_NUMBERING = re.compile(r"^\s*(?:\d+(?:\.\d+)*[.):]?|[a-z][.)])\s+", re.IGNORECASE)
_ISSUE = re.compile(r"\bissue\s*#\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Vocabulary:
    """Words and patterns, ready to match."""

    sections: tuple[tuple[SectionKind, re.Pattern[str]], ...]
    whole: Mapping[str, SectionKind]
    """Headings that mean something only when they say nothing else."""
    meanings: tuple[tuple[Meaning, re.Pattern[str]], ...]
    imperative: re.Pattern[str]
    """A verb that asks for something."""
    facets: frozenset[str]
    """Section kinds that, below a step, only say something about it."""
    programs: frozenset[str]
    parallel: re.Pattern[str]
    """Words above a list whose items need not wait for each other."""
    phase: re.Pattern[str]
    """A numbered heading: word, number, title."""


@cache
def vocabulary() -> Vocabulary:
    """Return the shipped vocabulary."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    data: dict[str, Any] = yaml.load(_FILE.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - a safe loader
    sections = tuple((kind, _words(words)) for kind, words in data["sections"].items())
    meanings = tuple((meaning, re.compile("|".join(patterns))) for meaning, patterns in data["meanings"].items())
    imperative = re.compile(rf"(?:{'|'.join(data['imperatives'])})\b")
    phase = rf"({'|'.join(data['phase_words'])})\s+(\d+(?:\.\d+)*|[a-z])\b\s*[:.)–—-]*\s*(.*)"  # noqa: RUF001 - dashes people write
    return Vocabulary(
        sections=sections,
        whole={word: kind for kind, words in data["whole_headings"].items() for word in words},
        meanings=(*meanings, ("implementation", imperative)),
        imperative=imperative,
        facets=frozenset(data["step_facets"]),
        programs=frozenset(data["programs"]),
        parallel=re.compile(data["parallel"], re.IGNORECASE),
        phase=re.compile(phase, re.IGNORECASE | re.DOTALL),
    )


def normal(heading: str) -> str:
    """Return a heading's words: lower case, without emoji, numbering, issue numbers and closing colon."""
    plain = "".join(" " if unicodedata.category(sign) in ("So", "Sk", "Cf") else sign for sign in heading)
    return " ".join(_ISSUE.sub(" ", _NUMBERING.sub("", plain.lstrip(" *_#"))).lower().strip(" :*_#-").split())


def section_kind(heading: str) -> SectionKind | None:
    """Return what a heading says its section is, or None where no word of the vocabulary is in it."""
    words = normal(heading)
    known = vocabulary()
    return known.whole.get(words) or next((kind for kind, pattern in known.sections if pattern.search(words)), None)


def is_section_name(words: str) -> bool:
    """Whether words are the name of a kind of section and nothing else."""
    known = vocabulary()
    plain = normal(words)
    return plain in known.whole or any(pattern.fullmatch(plain) for _, pattern in known.sections)


def meaning(text: str) -> Meaning:
    """Return what kind of work an item asks for, by how it begins."""
    words = " ".join(text.lower().split()).strip(" :*_`\"'")
    return next((kind for kind, pattern in vocabulary().meanings if pattern.match(words)), "unknown")


def is_imperative(text: str) -> bool:
    """Whether a text begins by asking for something."""
    return bool(vocabulary().imperative.match(normal(text)))


def _words(words: list[str]) -> re.Pattern[str]:
    # Alternatives are tried in order, so `feature requirements` must come before `requirements`.
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    return re.compile(rf"(?<![\w-])(?:{'|'.join(re.escape(word) for word in longest_first)})(?![\w-])")
