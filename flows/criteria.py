"""Success criteria: what a prompt calls done, and which of it a command can prove.

A criterion with a back-ticked command becomes a check; everything else stays a line somebody must judge. No number in
it is ever taken for measured: "99 % success" without a way to measure it is a question, not a check.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflowmaster.flows import outline
from workflowmaster.flows.commands import is_command
from workflowmaster.flows.sections import items

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workflowmaster.flows.outline import Block, Inline
    from workflowmaster.flows.sections import Part

# Ticks people paste instead of bullets; in one paragraph each begins a line of its own.
_MARK = re.compile(r"^\s*(?:[✅✔☑✓❌☐•·▪-]️?|:white_check_mark:)\s*")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One criterion as written."""

    text: str
    line: int
    command: str = ""
    """The command that proves it, or empty."""


def find_criteria(root: Part) -> list[Wanted]:
    """Return the lines of all sections of success criteria, each text once."""
    found: dict[str, Wanted] = {}
    for part in root.walk():
        if part.kind == "success":
            for one in _of_blocks(part.blocks):
                found.setdefault(one.text, one)
    return list(found.values())


def commands_of_tests(root: Part) -> Iterator[tuple[Block, str, str, list[str]]]:
    """Yield the items of test sections that are commands: the item, its name, its section, the commands."""
    for part in root.walk():
        if part.kind != "tests":
            continue
        for block in part.blocks:
            if block.kind != "list":
                continue
            for item, words in items(block):
                commands = _bare_commands(item, words)
                if commands:
                    yield item, words.lead or words.text, part.title, commands


def _of_blocks(blocks: tuple[Block, ...]) -> Iterator[Wanted]:
    """Yield the items of lists and the lines that begin with a mark; sentences only where there is neither."""
    listed = any(block.kind == "list" or _has_marks(block) for block in blocks)
    for block in blocks:
        if block.kind == "list":
            for item, words in items(block):
                if words.text:
                    yield _wanted(words, item.line)
        elif block.kind == "paragraph" and (_has_marks(block) or not listed):
            yield from _lines(block)


def _has_marks(block: Block) -> bool:
    return block.kind == "paragraph" and bool(_MARK.match(block.text))


def _lines(block: Block) -> Iterator[Wanted]:
    """Yield the lines of a paragraph; a line break without a mark continues the line before."""
    lines: list[tuple[int, str]] = []
    for offset, text in enumerate(block.text.split("\n")):
        if lines and not _MARK.match(text):
            lines[-1] = (lines[-1][0], f"{lines[-1][1]} {text.strip()}")
        else:
            lines.append((block.line + offset, _MARK.sub("", text)))
    for line, text in lines:
        words = outline.inline(text)
        if words.text and not words.text.endswith(":"):
            yield _wanted(words, line)


def _wanted(words: Inline, line: int) -> Wanted:
    command = next((code for code in words.codes if is_command(code)), "")
    return Wanted(_MARK.sub("", words.text), line, command)


def _bare_commands(item: Block, words: Inline) -> list[str]:
    """Return the commands of an item that is nothing else: itself, or each of its bullets, one back-ticked command."""
    own = [code for code in words.codes if is_command(code) and _is_all(code, words.rest)]
    if own:
        return own
    nested = [inner for block in item.children if block.kind == "list" for inner in items(block)]
    commands = [
        code for _, inner in nested for code in inner.codes[:1] if is_command(code) and _is_all(code, inner.text)
    ]
    return commands if commands and len(commands) == len(nested) else []


def _is_all(code: str, text: str) -> bool:
    """Whether a text is the command and at most a remark behind a dash."""
    # "`make test` - the slow ones" is the command; "look at `make test`" is not.
    rest = text.removeprefix("Run ").removeprefix("run ").removeprefix(code)
    return rest != text and (not rest.strip(" .") or rest.lstrip().startswith(("-", "–", "—", "(", "#")))  # noqa: RUF001 - dashes people write
