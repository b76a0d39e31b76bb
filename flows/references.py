"""What a prompt mentions outside itself, and whether it continues earlier work.

Looked for only in prose: a number in a fence is somebody's code. A bare `#12` counts as an issue unless the prompt
calls the same number a pull request somewhere else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from workflowmaster.flows.plan import Phase, Reference
from workflowmaster.flows.skeleton import PHASE_OF_NUMBER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from workflowmaster.flows.outline import Block

Line = tuple[int, str]
ReferenceKind = Literal["issue", "pull_request", "branch", "file", "prompt", "url"]

_REQUEST = re.compile(r"\b(?:PRs?|pull requests?)\s*#?(\d+)\b|github\.com/[\w.-]+/[\w.-]+/pull/(\d+)", re.IGNORECASE)
_ISSUE = re.compile(r"\bissues?\s*#?(\d+)\b|github\.com/[\w.-]+/[\w.-]+/issues/(\d+)", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w/&])#(\d+)\b")
_URL = re.compile(r"https?://[^\s)>\]`\"']+")
_BRANCH = re.compile(
    r"\bbranch\b[^`\n]{0,20}`([\w./-]+)`|\bbranch(?:\s*name)?\**:\s*\**`?([\w.-]+/[\w./-]+)", re.IGNORECASE
)
_CODE = re.compile(r"`([^`\n]+)`")
# A dot with letters behind it, or a folder: `pytest -q` and `v1.2` are no files.
_FILE = re.compile(r"@?(?:[\w.@-]+/)*[\w@-][\w.-]*\.[A-Za-z][A-Za-z0-9]{0,5}|(?:[\w.@-]+/){2,}|\.[\w-]+(?:/[\w.-]+)*/")
_PROMPT = re.compile(r"\bprompt(?:\s+file)?\**:\s*\**`?([\w./-]+\.md)", re.IGNORECASE)
_PROGRAM_WORD = re.compile(r"\w+\.(?:com|org|io|net|dev)$")

_CONTINUES = re.compile(r"\b(?:resume|resuming|continue|continuing|continuation|complete|finish)\b", re.IGNORECASE)
_EXISTS = re.compile(
    r"\b(?:PR|pull request)\s*#?\d+,?\s+(?:\([^)]*\)\s*)?(?:which\s+|already\s+)*exists\b"
    r"|\bexisting\s+(?:PR|pull request)\b",
    re.IGNORECASE,
)
_PHASES = re.compile(r"\bphases?\s+(\d+)", re.IGNORECASE)


def prose_lines(blocks: Iterable[Block]) -> Iterator[Line]:
    """Yield the lines of headings and paragraphs, wherever they stand, with their numbers."""
    for block in (inner for outer in blocks for inner in outer.walk()):
        if block.kind in ("heading", "paragraph"):
            yield from enumerate(block.text.split("\n"), block.line)


def find_references(lines: list[Line], issue: str = "", issue_line: int = 1) -> tuple[Reference, ...]:
    """Return what the lines mention, each once, in document order; first the issue of the front matter."""
    found: dict[tuple[str, str], Reference] = {}
    if issue.isdigit():
        found["issue", issue] = Reference(kind="issue", value=issue, line=issue_line)
    # Collected first, because "PR #7" may come after the first bare "#7".
    requests = {value for _, text in lines for value in _values(_REQUEST, text)}
    for line, text in lines:
        for kind, value in _mentions(text, requests):
            key = (kind, value)
            found.setdefault(key, Reference(kind=kind, value=value, line=line))
    return tuple(found.values())


def resume_phase(lines: list[Line]) -> Phase | None:
    """Return the phase at which a prompt that continues earlier work begins, or None where it begins anew.

    It must ask to resume or complete work on a pull request that exists, or name one together with a phase ("complete
    phase 9 for PR #270"). The first phase named counts, and those beyond the ninth follow the review.
    """
    texts = [text for _, text in lines]
    named = any(_CONTINUES.search(text) and _PHASES.search(text) and _REQUEST.search(text) for text in texts)
    if not named and not (any(map(_EXISTS.search, texts)) and any(map(_CONTINUES.search, texts))):
        return None
    numbers = [int(found) for text in texts for found in _PHASES.findall(text)[:1]]
    return PHASE_OF_NUMBER.get(min(numbers[0], 9)) if numbers else None


def _mentions(text: str, requests: set[str]) -> Iterator[tuple[ReferenceKind, str]]:
    for value in _values(_REQUEST, text):
        yield "pull_request", value
    for value in _values(_ISSUE, text):
        yield "issue", value
    for value in _values(_NUMBER, text):
        yield ("pull_request" if value in requests else "issue"), value
    for value in _values(_BRANCH, text):
        yield "branch", value
    for value in _values(_PROMPT, text):
        yield "prompt", value
    for found in _URL.finditer(text):
        yield "url", found[0].rstrip(".,;:")
    for found in _CODE.finditer(text):
        word = found[1].strip().lstrip("@").split(" (")[0]
        if _FILE.fullmatch(word) and not _PROGRAM_WORD.fullmatch(word):
            yield "file", word


def _values(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    for found in pattern.finditer(text):
        value = next((group for group in found.groups() if group), "")
        if value:
            yield value
