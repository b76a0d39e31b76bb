"""Prose as parts: headings and bold labels, each with what it says its content is.

A bold line with a list below it is a heading in all but marks, and real prompts use it as one, as they use a bare
"Requirements:"; so these make parts too. A heading nobody knows says nothing and takes its meaning from the part it stands in. The
first heading is the prompt's title and means nothing by itself ("Test Enhancement for …" is not a test section).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflowmaster.flows import outline
from workflowmaster.flows.outline import Block, Inline, Section
from workflowmaster.flows.vocabulary import SectionKind, section_kind, vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TITLE_IN_FENCE = re.compile(r"^# +\S", re.MULTILINE)
_SECTION_IN_FENCE = re.compile(r"^## +\S", re.MULTILINE)
_STICKY: frozenset[SectionKind | None] = frozenset(("success", "risks"))
"""Kinds whose subsections keep them: "Core requirements" below success criteria are no requirements."""
_LONGEST_LABEL = 4
"""Words a plain line may have to be taken for a heading; longer ones are sentences that introduce a list."""
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
    """Return the blocks before the first bold label, and a part for each label."""
    starts = [index for index, block in enumerate(blocks) if _is_label(blocks, index)]
    if not starts:
        return tuple(blocks), ()
    parts = []
    for start, end in zip(starts, [*starts[1:], len(blocks)], strict=True):
        found = outline.inline(blocks[start].text)
        words = found.lead or found.text.rstrip(" :")
        known = section_kind(words)
        parts.append(
            Part(
                title=words,
                kind=known or kind,
                line=blocks[start].line,
                end_line=blocks[end - 1].end_line,
                blocks=tuple(blocks[start + 1 : end]),
                label=True,
                own_kind=known is not None,
            )
        )
    return tuple(blocks[: starts[0]]), tuple(parts)


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
    return words.text.endswith(":") and len(words.text.split()) <= _LONGEST_LABEL and section_kind(words.text) is not None
