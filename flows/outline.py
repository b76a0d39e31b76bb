"""Markdown as blocks and sections that know their lines.

A CommonMark parser does the reading, because a line that begins with `#` may be a comment in a fence, and in real
prompts it is so in one file of five. Inline markup is parsed only where somebody asks (`Inline`): a prompt of 500
explicit steps never needs it, and it is most of the parser's time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from markdown_it import MarkdownIt
    from markdown_it.token import Token

BlockKind = Literal["heading", "paragraph", "list", "item", "fence", "quote", "table", "html", "rule"]

_CONTAINERS: dict[str, BlockKind] = {
    "bullet_list_open": "list",
    "ordered_list_open": "list",
    "list_item_open": "item",
    "blockquote_open": "quote",
    "table_open": "table",
}
_LEAVES: dict[str, BlockKind] = {"fence": "fence", "code_block": "fence", "html_block": "html", "hr": "rule"}
# The parser says where a fence stops, but not whether somebody closed it.
_CLOSING_FENCE = re.compile(r"[\s>]*(`{3,}|~{3,})\s*")
_CHECKBOX = re.compile(r"\[[ xX]\]\s+")


@dataclass(frozen=True, slots=True)
class Block:
    """One block of the file. Lines count from 1; `end_line` is its last one."""

    kind: BlockKind
    line: int
    end_line: int
    text: str = ""
    """Inline source of a heading or paragraph, content of a fence."""
    info: str = ""
    """What stands behind the opening marks of a fence."""
    level: int = 0
    """Of a heading; of a list item, its number."""
    ordered: bool = False
    closed: bool = True
    """False for a fence that runs to the end of the file because nothing ends it."""
    children: tuple[Block, ...] = ()

    def first(self, kind: BlockKind) -> Block | None:
        """Return the first direct child of that kind."""
        return next((child for child in self.children if child.kind == kind), None)

    def walk(self) -> Iterator[Block]:
        """Yield this block and everything inside it, in document order."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, what stands below it, and the deeper headings under it. The root has level 0 and no title."""

    title: str
    """Inline source of the heading."""
    level: int
    line: int
    end_line: int
    blocks: tuple[Block, ...]
    """What stands between this heading and the next one."""
    sections: tuple[Section, ...]

    def walk(self) -> Iterator[Section]:
        """Yield this section and those below it, in document order."""
        yield self
        for section in self.sections:
            yield from section.walk()


@dataclass(frozen=True, slots=True)
class Inline:
    """A line of prose without its markup."""

    text: str
    lead: str = ""
    """Bold words it begins with, without the colon."""
    rest: str = ""
    """What follows the lead."""
    codes: tuple[str, ...] = ()
    """Back-ticked words, in order."""


def parse(text: str) -> tuple[Block, ...]:
    """Return the blocks of a Markdown text."""
    lines = text.split("\n")
    stack: list[list[Block]] = [[]]
    opened: list[Token] = []
    # A stack of our own instead of recursion: the nesting of a prompt is its writer's choice.
    tokens = _parser().parse(text)
    for index, token in enumerate(tokens):
        if token.type in _CONTAINERS:
            opened.append(token)
            stack.append([])
        elif opened and token.type == opened[-1].type.replace("_open", "_close"):
            start = opened.pop()
            children = tuple(stack.pop())
            stack[-1].append(_container(start, children, lines))
        elif token.type in _LEAVES or token.type == "inline":
            block = _leaf(token, tokens[index - 1], lines)
            stack[-1].append(block)
    return tuple(stack[0])


def sections(blocks: Sequence[Block], last_line: int) -> Section:
    """Return the tree of headings over the blocks."""
    headings = [(index, block) for index, block in enumerate(blocks) if block.kind == "heading"]
    # Headings inside lists and quotes are other people's: only the top level makes sections.
    starts = [index for index, _ in headings] + [len(blocks)]
    flat = [
        (heading, tuple(blocks[index + 1 : following]))
        for (index, heading), following in zip(headings, starts[1:], strict=True)
    ]
    below, _ = _nest(flat, 0, 0, last_line)
    return Section("", 0, 1, last_line, tuple(blocks[: starts[0]]), below)


def _nest(
    flat: Sequence[tuple[Block, tuple[Block, ...]]], index: int, level: int, last_line: int
) -> tuple[tuple[Section, ...], int]:
    """Return the sections deeper than `level` that begin at `index`, and where they end."""
    found: list[Section] = []
    while index < len(flat) and flat[index][0].level > level:
        heading, content = flat[index]
        below, following = _nest(flat, index + 1, heading.level, last_line)
        end = flat[following][0].line - 1 if following < len(flat) else last_line
        found.append(Section(heading.text, heading.level, heading.line, end, content, below))
        index = following
    return tuple(found), index


def inline(text: str) -> Inline:
    """Return a line of prose without its markup, its bold lead and its back-ticked words."""
    tokens = _inline_parser().parseInline(_CHECKBOX.sub("", text, count=1) if text.startswith("[") else text)
    children = tokens[0].children or [] if tokens else []
    lead_end = _lead_end(children)
    lead = _plain(children[:lead_end]).strip()
    rest = _plain(children[lead_end:]).strip()
    codes = tuple(child.content.strip() for child in children if child.type == "code_inline" and child.content.strip())
    if not lead:
        return Inline(rest, "", rest, codes)
    return Inline(_plain(children).strip(), lead.rstrip(" :"), rest.lstrip(" :-–—").strip(), codes)  # noqa: RUF001 - people write dashes


def is_checkbox(text: str) -> bool:
    """Whether an item's text begins with a check-box."""
    return bool(_CHECKBOX.match(text))


def _lead_end(children: Sequence[Token]) -> int:
    visible = [index for index, child in enumerate(children) if child.type != "text" or child.content.strip()]
    if not visible or children[visible[0]].type != "strong_open":
        return 0
    level = children[visible[0]].level
    ends = (index for index, child in enumerate(children) if child.type == "strong_close" and child.level == level)
    return next(ends, -1) + 1


def _plain(children: Sequence[Token]) -> str:
    words = {"text": None, "code_inline": None, "image": None, "softbreak": " ", "hardbreak": " "}
    return "".join(words[child.type] or child.content for child in children if child.type in words)


def _container(start: Token, children: tuple[Block, ...], lines: Sequence[str]) -> Block:
    first, last = _lines(start)
    # The parser counts the blank lines behind a list as its own.
    while last > first and not lines[last - 1].strip(" \t>"):
        last -= 1
    kind = _CONTAINERS[start.type]
    number = int(start.info) if kind == "item" and start.info else 0
    return Block(kind, first, last, ordered=start.type == "ordered_list_open", level=number, children=children)


def _leaf(token: Token, before: Token, lines: Sequence[str]) -> Block:
    if token.type == "inline":
        heading = before.type == "heading_open"
        first, last = _lines(token)
        level = int(before.tag[1:]) if heading else 0
        return Block("heading" if heading else "paragraph", first, last, text=token.content, level=level)
    first, last = _lines(token)
    closed = token.type != "fence" or (last > first and bool(_CLOSING_FENCE.fullmatch(lines[last - 1])))
    return Block(_LEAVES[token.type], first, last, text=token.content, info=token.info.strip(), closed=closed)


def _lines(token: Token) -> tuple[int, int]:
    start, end = token.map or [0, 1]
    return start + 1, max(end, start + 1)


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    # Tables are no CommonMark, but their pipes would otherwise be read as paragraphs with back-ticks.
    return MarkdownIt("commonmark", {"maxNesting": 30}).enable("table").disable(["inline", "text_join"])


@cache
def _inline_parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"maxNesting": 30})
