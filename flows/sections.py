"""Prose as parts: headings and bold labels, each with what it says its content is.

A bold line with a list below it is a heading in all but marks, and real prompts use it as one, as they use a bare
"Requirements:"; so these make parts too. A heading nobody knows says nothing and takes its meaning from the part it
stands in. The first heading is the prompt's title and means nothing by itself ("Test Enhancement for …" is no test
section).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflowmaster.flows import outline
from workflowmaster.flows.outline import Block, Inline, Section
from workflowmaster.flows.vocabulary import SectionKind, is_section_name, section_kind, vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TITLE_IN_FENCE = re.compile(r"^# +\S", re.MULTILINE)
_SECTION_IN_FENCE = re.compile(r"^## +\S", re.MULTILINE)
_STICKY: frozenset[SectionKind | None] = frozenset(("success", "risks"))
"""Kinds whose subsections keep them: "Core requirements" below success criteria are no requirements."""
_MARKDOWN = frozenset(("markdown", "md"))


@dataclass(frozen=True, slots=True)
class Part:
    """A heading or bold label and what stands below it."""

    title: str
    """Plain words of the heading or label; empty for what stands before the first one."""
    kind: SectionKind
    line: int
    end_line: int
    blocks: tuple[Block, ...]
    """Content up to the next heading or label."""
    parts: tuple[Part, ...] = ()
    number: str = ""
    """Of a numbered heading: `2`, `3.1`."""
    label: bool = False
    """Whether it is a bold label rather than a heading."""
    own_kind: bool = False
    """Whether its own words say what it is."""

    def walk(self) -> Iterator[Part]:
        """Yield this part and those below it, in document order."""
        yield self
        for part in self.parts:
            yield from part.walk()

    @property
    def words(self) -> str:
        """The title without its number: `Code Review` of `Phase 9: Code Review`."""
        found = vocabulary().phase.fullmatch(self.title)
        return (found[3] or self.title).strip() if found else self.title


def parts_of(root: Section) -> Part:
    """Return the whole prompt as a tree of parts."""
    headings = [section for section in root.walk() if section.level]
    first = headings[0] if headings else None
    alone = first is not None and (first.level == 1 or all(other.level > first.level for other in headings[1:]))
    return _part(root, None, first if alone else None)


def is_quotation(block: Block) -> bool:
    """Whether a fence quotes a whole document: Markdown with a title, or untagged with a title and sections."""
    if block.kind != "fence" or not _TITLE_IN_FENCE.search(block.text):
        return False
    language = block.info.lower()
    return language in _MARKDOWN or (not language and bool(_SECTION_IN_FENCE.search(block.text)))


def items(block: Block) -> Iterator[tuple[Block, Inline]]:
    """Yield the items of a list with their first paragraph's words."""
    for item in block.children:
        first = item.first("paragraph") or item.first("heading")
        yield item, outline.inline(first.text) if first else Inline("")


def _part(section: Section, inherited: SectionKind | None, title: Section | None) -> Part:
    words = outline.inline(section.title).text
    whole = section is title or not section.level
    numbered = vocabulary().phase.fullmatch(words)
    # "Phase 5: Testing" is a phase first; what it is about is asked where its items are read.
    known = None if numbered or whole else section_kind(words)
    if inherited in _STICKY:
        known = inherited
    kind = known or inherited or ("context" if whole else "plan" if numbered else "notes")
    own, labelled = _split_labels(section.blocks, kind)
    # What stands under the title alone inherits nothing: it is not context for all that follows.
    below = tuple(_part(child, None if whole else kind, title) for child in section.sections)
    return Part(
        title=words,
        kind=kind,
        line=section.line,
        end_line=section.end_line,
        blocks=own,
        parts=(*labelled, *below),
        number=numbered[2] if numbered else "",
        own_kind=known is not None,
    )


def _split_labels(blocks: Sequence[Block], kind: SectionKind) -> tuple[tuple[Block, ...], tuple[Part, ...]]:
    """Return the blocks that stand under no bold label, and a part for each label.

    A label names the list below it and what goes with that; the next paragraph is about something else again.
    """
    own: list[Block] = []
    parts: list[Part] = []
    index = 0
    while index < len(blocks):
        if not _is_label(blocks, index):
            own.append(blocks[index])
            index += 1
            continue
        end = index + 1
        while end < len(blocks) and blocks[end].kind != "paragraph":
            end += 1
        parts.append(_label(blocks[index], blocks[index + 1 : end], kind))
        index = end
    return tuple(own), tuple(parts)


def _label(block: Block, content: Sequence[Block], kind: SectionKind) -> Part:
    found = outline.inline(block.text)
    words = found.lead or found.text.rstrip(" :")
    known = section_kind(words)
    return Part(
        title=words,
        kind=known or kind,
        line=block.line,
        end_line=content[-1].end_line,
        blocks=tuple(content),
        label=True,
        own_kind=known is not None,
    )


def _is_label(blocks: Sequence[Block], index: int) -> bool:
    """Whether a paragraph is nothing but bold words, or plain words of the vocabulary and a colon, above a list."""
    block = blocks[index]
    if block.kind != "paragraph" or "\n" in block.text:
        return False
    if index + 1 >= len(blocks) or blocks[index + 1].kind != "list":
        return False
    words = outline.inline(block.text)
    if words.lead:
        return words.rest.strip(" :") == ""
    # "The implementation involved:" introduces its list; "Requirements:" is its heading.
    return words.text.endswith(":") and is_section_name(words.text)
