"""Explicit prompts: `## Steps` with one `### heading` for each step.

Whether a prompt is explicit is decided by its form, never by a switch: a `Steps` or `Tasks` section whose parts carry
attributes, or are fences under plain names. "### Step 1: Install the tool" with an example below is how people write
prose, and running such an example would be the one mistake that cannot be taken back; so numbered headings without a
single attribute are prose. The accepted cost: a writer who numbers explicit steps must give one of them an attribute.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflowmaster.flows import outline
from workflowmaster.flows.attributes import StepAttributes
from workflowmaster.flows.bullets import fence_attributes, has_attributes, merge_fence, read_attributes
from workflowmaster.flows.fences import Fences, is_runnable, read_fences
from workflowmaster.flows.naming import step_name
from workflowmaster.flows.plan import Kind, Source, Work
from workflowmaster.flows.validation import Read, validate

if TYPE_CHECKING:
    from workflowmaster.flows.diagnostics import Place, Report
    from workflowmaster.flows.outline import Block, Section
    from workflowmaster.flows.prompts import Prompt

_TITLES = frozenset(("steps", "tasks"))
# What nobody would write as a heading of prose: one word in lower case, or `word: title`.
_PLAIN_NAME = re.compile(r"[a-z0-9][\w.-]*(:.*)?")
_NUMBERED = re.compile(r"(?:(?:step|phase|task|part)\s+)?\d+[.):]?(\s|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Draft:
    """One written step before its defaults, its matrix and its needs are known."""

    id: str
    name: str
    kind: Kind
    place: Place
    """Of the heading's words."""
    source: Source
    read: Read[StepAttributes]
    work: Work | None = None
    check: Work | None = None


def steps_section(prompt: Prompt) -> Section | None:
    """Return the section that makes a prompt explicit, or None where it is prose."""
    return next((section for section in prompt.root.walk() if _is_usable(section, prompt)), None)


def read_drafts(section: Section, prompt: Prompt, report: Report) -> list[Draft]:
    """Return the steps of an explicit prompt in document order. Reports whatever is wrong with each of them."""
    drafts = [_draft(step, section.title, number, prompt, report) for number, step in enumerate(section.sections, 1)]
    for other in prompt.root.walk():
        if other is not section and _is_usable(other, prompt):
            said = f"a second section of steps; the first is in line {section.line}"
            report.add("WM219", said, prompt.place(other.line), help="put all steps into one section")
    return drafts


def _is_usable(section: Section, prompt: Prompt) -> bool:
    if outline.inline(section.title).text.strip(" :").lower() not in _TITLES or not section.sections:
        return False
    if any(has_attributes(step.blocks, prompt.lines) for step in section.sections):
        return True
    titles = [outline.inline(step.title).text for step in section.sections]
    runnable = [any(_runnable(block) for block in step.blocks) for step in section.sections]
    # Asked after the attributes: one attribute anywhere says that the writer knows this format.
    if any(_NUMBERED.match(title) for title in titles):
        return False
    return all(runnable) or (any(runnable) and all(_PLAIN_NAME.fullmatch(title) for title in titles))


def _runnable(block: Block) -> bool:
    return block.kind == "fence" and is_runnable(block)


def _draft(step: Section, section: str, number: int, prompt: Prompt, report: Report) -> Draft:
    step_id, name = step_name(step.title)
    place = prompt.place(step.line, step.title)
    if not step_id:
        step_id = f"step-{number}"
        said = f"the heading has no Latin letters, so the step is called {step_id!r}"
        report.add("WM218", said, place, severity="note", help=f"write `### an-id: {name}` to name it yourself")
    # Deeper headings structure a long step; they do not end it.
    blocks = [block for part in step.walk() for block in part.blocks]
    fences = read_fences(blocks, step_id, report)
    written = read_attributes(step.blocks, prompt.lines, report)
    if fence_attributes(fences.info):
        merge_fence(written, fences.info, prompt.place(fences.line, fences.info), report)
    read = validate(StepAttributes, written, report)
    work, check = fences.work, _written_check(read, fences, report) or fences.check
    kind = _kind(step_id, read, fences, place, report)
    # A check alone is the step's work; there is nothing left to check afterwards.
    if kind == "check":
        work, check = check, None
    source = Source(line=step.line, end_line=_last_line(step, prompt), section=outline.inline(section).text)
    return Draft(step_id, read.keys.name or name, kind, place, source, read, work, check)


def _written_check(read: Read[StepAttributes], fences: Fences, report: Report) -> Work | None:
    if not read.keys.check:
        return None
    if fences.check:
        report.add("WM216", "the step has a `check` fence and a `check` attribute", read.at("check"), help="keep one")
    return Work(interpreter="bash", text=read.keys.check, line=read.at("check")[0])


def _kind(step: str, read: Read[StepAttributes], fences: Fences, place: Place, report: Report) -> Kind:
    keys = read.keys
    if keys.uses:
        if fences.work:
            said = f"step {step!r} has a fence and `uses: {keys.uses}`: it can do one thing"
            report.add("WM208", said, read.at("uses"), help="make two steps of it")
        return "forge"
    if fences.work:
        return "agent" if fences.work.interpreter == "prompt" else "command"
    if fences.check or keys.check:
        return "check"
    if keys.approval:
        return "approval"
    if not fences.refused:
        advice = "add a fence (```bash, ```sh, ```python or ```prompt), or `- approval: required` for a pause"
        report.add("WM207", f"step {step!r} has no work", place, help=advice)
    return "command"


def _last_line(step: Section, prompt: Prompt) -> int:
    last = step.end_line
    while last > step.line and not prompt.lines[last - 1].strip():
        last -= 1
    return last


def duplicate_ids(drafts: list[Draft], report: Report) -> None:
    """Report steps with one id."""
    first: dict[str, Draft] = {}
    for draft in drafts:
        other = first.setdefault(draft.id, draft)
        if other is not draft:
            said = f"two steps are called {draft.id!r}; the first is in line {other.source.line}"
            report.add("WM206", said, draft.place, help="rename one: a step's id is the slug of its heading")
