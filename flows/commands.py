"""Which words of a prose prompt may be run as they stand.

Most fences in prose are illustrations: file contents, examples, sketches. Running one of those does harm that cannot
be undone, while not running a real command only hands it to the agent, who reads it anyway. So a text is a command only
if every line of it passes every test here, and a doubt is a no. The accepted cost: scripts with functions, loops,
substitutions or here-documents stay agent work.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflowmaster.flows.vocabulary import vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from workflowmaster.flows.outline import Block

SHELLS = frozenset(("bash", "sh", "shell", "zsh", "console", "shell-session", "terminal"))
"""Fence languages whose text may be commands."""

_TRANSCRIPTS = frozenset(("console", "shell-session", "terminal"))
_PROMPT_SIGN = re.compile(r"^\s*[$%]\s+")
# What people leave for the reader to fill in, in all the ways the corpus has.
_PLACEHOLDER = re.compile(
    r"<[A-Za-z][\w .|-]*>|\{\{.*?\}\}|\[(?:[A-Z][A-Za-z0-9_ ]*|N+|[a-z]+ [a-z ]+)\]|(?<![./\w])\.\.\.|…"
    r"|\b(?:YOUR|MY)_\w+|path/to/|\bexample\.(?:com|org)\b|\bxxx+\b",
)
_ILLUSTRATION = re.compile(
    r"#.*(\b(example|adjust|for instance|something like|pseudo|placeholder|optional)\b|\be\.g\.)", re.IGNORECASE
)
_HERE_DOCUMENT = re.compile(r"<<-?\s*['\"]?\w+")
_AGENT_LINE = re.compile(r"^\s*/[\w-]+:[\w-]+", re.MULTILINE)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_SCRIPT = re.compile(r"(?!.*\.\.)(?:(\./)?[\w.-]+(/[\w.-]+)*\.(sh|py|bash)|\./[\w./-]+|(scripts|bin|tools)/[\w./-]+)")
_SEPARATORS = frozenset((";", "&&", "||", "|", "&", "|&"))
_SIGNS = frozenset("();<>|&")
_BRACKETS = frozenset("()")
_SUBSTITUTION = re.compile(r"`|\$\(")
_KEYWORDS = frozenset(
    (
        "!",
        "{",
        "}",
        "(",
        ")",
        "if",
        "then",
        "else",
        "elif",
        "fi",
        "for",
        "while",
        "until",
        "do",
        "done",
        "case",
        "esac",
        "function",
        "select",
        "eval",
        "source",
        ".",
        "exec",
        "time",
        "in",
    )
)
_DANGERS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b(curl|wget)\b[^\n]*\|\s*(sudo\s+)?(ba|z|da)?sh\b"), "runs a script from the network"),
    (re.compile(r"\bsudo\b"), "asks for root"),
    (re.compile(r"\bgit\s+push\b"), "pushes"),
    (re.compile(r"(^|[;&|]\s*)gh\s", re.MULTILINE), "writes to GitHub"),
    (re.compile(r"\b(npm|yarn|pnpm|poetry|uv|cargo|gem)\s+publish\b|\btwine\s+upload\b"), "publishes a package"),
    (re.compile(r"\bdocker\s+(push|login)\b|\bkubectl\s+(apply|delete)\b|\bterraform\s+(apply|destroy)\b"), "deploys"),
    (re.compile(r"\brm\s+-\w*[rf]\w*\s+(/|~|\$HOME)"), "deletes outside the workspace"),
)


@dataclass(frozen=True, slots=True)
class Script:
    """A text that may be run, or the reason why not."""

    text: str
    """Lines to run; empty where it is no command."""
    refusal: str = ""
    """Why it is no command, in words."""
    danger: str = ""
    """Why a person must approve it, in words."""


def judge(text: str) -> Script:
    """Return a text as a script, or why it is none."""
    refusal = _refusal(text)
    if refusal:
        return Script("", refusal)
    danger = next((why for pattern, why in _DANGERS if pattern.search(text)), "")
    return Script(text if text.endswith("\n") else f"{text}\n", "", danger)


def judge_fence(fence: Block) -> Script:
    """Return a fence as a script: what it says in a shell's language, or of a transcript what was typed."""
    language = fence.info.split(maxsplit=1)[0].lower() if fence.info else ""
    if language not in SHELLS:
        return Script("", f"its language is {language!r}, no shell's" if language else "it names no language")
    if not fence.closed:
        return Script("", "it is never closed")
    if language in _TRANSCRIPTS:
        typed = [_PROMPT_SIGN.sub("", line) for line in fence.text.split("\n") if _PROMPT_SIGN.match(line)]
        return judge("\n".join(typed)) if typed else Script("", "nothing in it is typed at a prompt sign")
    return judge(fence.text)


def is_command(text: str) -> bool:
    """Whether a back-ticked text is a command with something to do: a program and at least one word more."""
    return len(text.split()) > 1 and "\n" not in text and not judge(text).refusal


def _refusal(text: str) -> str:
    if text.lstrip().startswith("#!"):
        return "it is the content of a script file"
    bare = _without_comments(text)
    for pattern, subject, why in (
        (_HERE_DOCUMENT, text, "it writes a text of its own"),
        (_AGENT_LINE, text, "it calls an agent"),
        (_ILLUSTRATION, text, "it calls itself an example"),
        (_SUBSTITUTION, bare, "it computes its own words"),
        (_PLACEHOLDER, bare, "it holds a placeholder"),
    ):
        if found := pattern.search(subject):
            return f"{why} ({found[0].strip()[:40]})"
    return _unknown_word(text)


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.split("\n") if not line.lstrip().startswith("#"))


def _unknown_word(text: str) -> str:
    """Return why the text's words make no plain commands, or nothing where they do."""
    try:
        commands = list(_commands(text))
    except ValueError as error:
        return f"it does not parse as shell: {error}"
    if not commands:
        return "there is nothing to run in it"
    for words in commands:
        if not _is_program(words):
            return f"{words[0]!r} is no known program"
    return ""


def _commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each simple command. ValueError where quotes are open or a word has a grammar of its own."""
    for line in re.sub(r"\\\n", " ", text).split("\n"):
        # Line by line: a quote that spans lines is a text being written, not a command being run.
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.commenters = "#"
        words: list[str] = []
        for word in lexer:
            if word in _SEPARATORS:
                yield from [words] if words else []
                words = []
            elif (not words and word in _KEYWORDS) or (set(word) <= _SIGNS and set(word) & _BRACKETS):
                raise ValueError(f"{word!r} begins a construct")
            # Assignments before a program are its environment; alone they run nothing.
            elif words or not _ASSIGNMENT.fullmatch(word):
                words.append(word)
        yield from [words] if words else []


def _is_program(words: Sequence[str]) -> bool:
    first = words[0]
    return first in vocabulary().programs or bool(_SCRIPT.fullmatch(first))
