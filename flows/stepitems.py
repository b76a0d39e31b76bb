"""Where a prose prompt says its steps, and each of them as an item.

Numbered lists are everywhere in real prompts, and most of them are no steps: analyses, problems, requirements. So the
sources are ranked (implementation steps before phase headings before plans before requirements) and only the best one
is taken; everything else is context for it. The accepted cost: a prompt that spreads its steps over two kinds of
sections loses those of the lesser kind as steps of their own. They are still in every agent's brief.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflowmaster.flows import outline
from workflowmaster.flows.outline import Inline, is_checkbox
from workflowmaster.flows.sections import Part, is_quotation, items
from workflowmaster.flows.vocabulary import is_imperative, meaning, vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from workflowmaster.flows.outline import Block
    from workflowmaster.flows.vocabulary import Meaning

_NEVER = frozenset(("success", "risks", "references", "context", "notes", "quotation"))
"""Kinds of sections in which a numbered heading is no step."""
_ASIDES = frozenset(("notes", "risks"))
"""Kinds of subsections that say nothing about the step they happen to stand under."""
_TICKED = re.compile(r"\[[xX]\]\s")
_TASK_MARKS = re.compile(r"T\d{2,4}\s+(?:\[[A-Z]{1,3}\d*\]\s*)*")
_MAX_NAME = 90


@dataclass(frozen=True, slots=True)
class Item:
    """One thing the prompt asks for."""

    name: str
    text: str
    """All its own words, without what is nested below."""
    meaning: Meaning
    line: int
    end_line: int
    section: str
    """Heading it was found under."""
    rule: str
    """Why it is a step, in words."""
    number: str = ""
    """As written: `2`, `3.1`."""
    phase: str = ""
    """Number of the phase heading it stands under."""
    details: tuple[str, ...] = ()
    """What is nested below it."""
    blocks: tuple[Block, ...] = ()
    """What stands directly in it; fences among these may be commands."""
    parallel: int = 0
    """Line of the list whose items need not wait for each other; 0 for the ordinary list."""


@dataclass(frozen=True, slots=True)
class _Place:
    """What is known about where items stand."""

    section: str
    rule: str
    phase: str = ""
    hint: Meaning = "unknown"
    """Meaning of the heading above, for items whose own words say nothing."""


def find_items(root: Part) -> list[Item]:
    """Return the items of the best source of steps, in document order; none where the prompt lists nothing to do."""
    # Labels are read after what stands under no label, so the page's order is put right here.
    found = [sorted(filter(_asks, source(root)), key=lambda item: item.line) for source in _SOURCES]
    best = next((index for index, some in enumerate(found) if some), None)
    if best is None:
        return []
    return _filled(found[best], found[best + 1 : _REQUIREMENTS])


def _asks(item: Item) -> bool:
    return item.meaning not in ("nothing", "process", "constraint")


def _filled(chosen: list[Item], others: Sequence[list[Item]]) -> list[Item]:
    """Return the chosen items, with another source's work put in where they only retell the skeleton.

    "Create issue, create branch, group fixes, test, document, create PR" is an outline of how to work; what is to be
    worked on then stands in the phases or the plan.
    """
    # One piece of work among retold tasks is the umbrella ("group fixes") for work listed elsewhere.
    own = [item for item in chosen if _is_work(item)]
    retold = [item for item in chosen if item.meaning in ("issue", "branch", "pull_request", "review", "followup")]
    if len(own) > 1 or len(retold) < 2:
        return chosen
    richer = next((some for some in others if sum(_is_work(item) for item in some) > 1), None)
    if richer is None:
        return chosen
    lines = {item.line for item in chosen}
    added = [item for item in richer if _is_work(item) and item.line not in lines]
    return sorted([item for item in chosen if item not in own] + added, key=lambda item: item.line)


def _is_work(item: Item) -> bool:
    return item.meaning in ("implementation", "unknown")


def _from_step_sections(root: Part) -> Iterator[Item]:
    taken: list[Part] = []
    for part in root.walk():
        if part.kind == "steps" and part.own_kind and not any(_inside(part, other) for other in taken):
            found = list(_items_of(part, _Place(part.title, "section of steps"), is_root=True))
            # "Tasks" below each phase of a plan say what the phase is about; only a section of its own is a source.
            if found and not _below_phase(root, part):
                taken.append(part)
                yield from found


def _from_phase_headings(root: Part) -> Iterator[Item]:
    taken: list[Part] = []
    for part in root.walk():
        if part.number and part.kind not in _NEVER and not any(_inside(part, other) for other in taken):
            taken.append(part)
            yield from _phase_items(part, _Place(part.title, "numbered heading"))


def _from_plans(root: Part) -> Iterator[Item]:
    for part in root.walk():
        if part.kind == "plan" and part.own_kind:
            yield from _list_items(part.blocks, _Place(part.title, "list of a plan"), ordered=True)


def _from_numbered_requirements(root: Part) -> Iterator[Item]:
    yield from _requirements(root, ordered=True)


def _from_bulleted_requirements(root: Part) -> Iterator[Item]:
    yield from _requirements(root, ordered=False)


def _requirements(root: Part, *, ordered: bool) -> Iterator[Item]:
    rule = "numbered requirement" if ordered else "bulleted requirement"
    for part in root.walk():
        if part.kind == "requirements":
            yield from _list_items(part.blocks, _Place(part.title, rule), ordered=ordered)


_SOURCES: tuple[Callable[[Part], Iterator[Item]], ...] = (
    _from_step_sections,
    _from_phase_headings,
    _from_plans,
    _from_numbered_requirements,
    _from_bulleted_requirements,
)
_REQUIREMENTS = 3
"""Index of the first source that lists what is wanted rather than what to do."""


def _inside(part: Part, other: Part) -> bool:
    return other.line <= part.line <= other.end_line


def _below_phase(root: Part, part: Part) -> bool:
    return any(other.number and other is not part and _inside(part, other) for other in root.walk())


def _items_of(part: Part, place: _Place, *, is_root: bool = False) -> Iterator[Item]:
    """Yield the items of a section of steps: of its parts where these are steps, else of its lists."""
    # Below the section itself any heading may be a step; below a step only one that says so.
    steps = [child for child in part.parts if _is_step(child, named=is_root)]
    yield from _list_items(part.blocks, place, ordered=None if is_root and not steps else True)
    for child in part.parts:
        if child in steps:
            yield from _phase_items(child, place)
        elif child.label and not child.own_kind:
            yield from _list_items(child.blocks, place, ordered=True)


def _is_step(part: Part, *, named: bool) -> bool:
    if part.number or is_imperative(part.words):
        return not part.label
    return named and not part.label and part.kind not in vocabulary().facets


def _phase_items(part: Part, place: _Place) -> Iterator[Item]:
    """Yield what a step's heading stands for: its own steps, its tasks, the files it numbers, or the heading itself."""
    below = _Place(part.title, place.rule, part.number or place.phase, _of_heading(part, place))
    inner = list(_items_of(part, below))
    for kind, ordered in (("steps", None), ("files", True)):
        if not inner:
            inner = [
                item
                for child in part.parts
                if child.kind == kind and child.own_kind and not child.label
                for item in _list_items(child.blocks, below, ordered=ordered)
            ]
    yield from inner or [_heading_item(part, place, below.hint)]


def _of_heading(part: Part, place: _Place) -> Meaning:
    own = meaning(part.words)
    return own if own != "unknown" else place.hint


def _heading_item(part: Part, place: _Place, hint: Meaning) -> Item:
    said = [inner for inner in part.walk() if not (inner.own_kind and inner.kind in _ASIDES)]
    blocks = tuple(block for inner in said for block in inner.blocks)
    return Item(
        name=shortened(part.words.rstrip(":")),
        text=_prose(blocks),
        meaning=hint,
        line=part.line,
        end_line=max([part.line, *(block.end_line for block in blocks), *(inner.line for inner in said)]),
        section=place.section,
        rule=place.rule,
        number=part.number,
        phase=place.phase,
        details=tuple(nested(blocks)),
        blocks=blocks,
    )


def _list_items(blocks: Sequence[Block], place: _Place, *, ordered: bool | None) -> Iterator[Item]:
    """Yield the items of the lists among blocks: ordered ones, bullets, or (None) the ordered ones if there are any."""
    lists = [block for block in blocks if block.kind == "list"]
    if ordered is None:
        ordered = any(block.ordered for block in lists)
    for index, block in enumerate(blocks):
        before = blocks[index - 1] if index else None
        ticked = ordered and _is_checklist(block) and (before is None or before.kind == "list")
        if block.kind == "list" and (block.ordered == ordered or ticked):
            parallel = block.line if _is_parallel(f"{place.section} {_lead_in(before)}") else 0
            for item, words in items(block):
                if words.text:
                    own, beside = _unmarked(words)
                    yield _list_item(item, own, place, block.line if beside else parallel)


def _unmarked(words: Inline) -> tuple[Inline, bool]:
    """Return an item without the marks of a spec-kit task list (`T012 [P] [US1]`), and whether `[P]` is among them."""
    marks = _TASK_MARKS.match(words.text)
    if not marks:
        return words, False
    text = words.text[marks.end() :]
    return Inline(text, "", text, words.codes), "[P]" in marks[0]


def _is_checklist(block: Block) -> bool:
    """Whether every bullet is a box to tick.

    Right below a heading such bullets are things to do, like numbered ones; below a sentence they are what it is about.
    """
    firsts = [item.first("paragraph") for item in block.children]
    return bool(firsts) and all(first is not None and is_checkbox(first.text) for first in firsts)


def _list_item(item: Block, words: Inline, place: _Place, parallel: int) -> Item:
    paragraph = item.first("paragraph")
    blocks = tuple(block for block in item.children if block is not paragraph)
    lines = [block.end_line for block in item.walk() if block.kind != "item"]
    return Item(
        name=shortened(words.lead or words.text),
        text=words.rest if words.lead else words.text,
        # A box somebody ticked is work that has been done.
        meaning="nothing" if paragraph and _TICKED.match(paragraph.text) else _meaning(words, place),
        line=item.line,
        end_line=max([item.line, *lines]) if item.children else item.line,
        section=place.section,
        rule=place.rule,
        number=str(item.level) if item.level else "",
        phase=place.phase,
        details=tuple(nested(blocks)),
        blocks=blocks,
        parallel=parallel,
    )


def _meaning(words: Inline, place: _Place) -> Meaning:
    """Return an item's meaning: of its lead, else of its sentence, else of the heading above."""
    # The lead is the writer's own summary; the sentence only decides where the lead says nothing.
    for text in (words.lead, words.rest):
        found = meaning(text) if text else "unknown"
        if found != "unknown":
            return found
    return place.hint


def shortened(text: str) -> str:
    """Return a text as a name: one line of at most 90 characters."""
    words = " ".join(text.split()).rstrip(" :.,;")
    return words if len(words) <= _MAX_NAME else words[: _MAX_NAME - 1].rstrip() + "…"


def nested(blocks: Sequence[Block], indent: str = "") -> Iterator[str]:
    """Yield what is nested below an item, a line each; deeper bullets are indented."""
    for block in blocks:
        if block.kind == "list":
            for item, words in items(block):
                if words.text:
                    yield f"{indent}{words.text}"
                yield from nested([child for child in item.children if child.kind == "list"], indent + "  ")


def _prose(blocks: Sequence[Block]) -> str:
    paragraphs = (outline.inline(block.text).text for block in blocks if block.kind == "paragraph")
    return " ".join(text for text in paragraphs if text)


def _lead_in(block: Block | None) -> str:
    return block.text if block is not None and block.kind == "paragraph" else ""


def _is_parallel(text: str) -> bool:
    return bool(vocabulary().parallel.search(text))


def quotations(root: Part) -> Iterator[Block]:
    """Yield the fences that quote a whole document."""
    for part in root.walk():
        yield from (block for block in part.blocks if is_quotation(block))
