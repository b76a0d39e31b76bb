"""What an explicit prompt says around its steps: background for agents, criteria, references.

Nothing here runs. A prompt with explicit steps has said all it wants done, so a command among its success criteria
stays a line to be judged, and becomes a check only where its writer makes it one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from workflowmaster.flows.plan import Criterion
from workflowmaster.flows.references import find_references, prose_lines

if TYPE_CHECKING:
    from workflowmaster.flows.context import Context
    from workflowmaster.flows.outline import Section
    from workflowmaster.flows.plan import Reference


def background(steps: Section, context: Context) -> str:
    """Return the prompt's text without front matter and steps."""
    prompt = context.prompt
    kept = [*prompt.lines[prompt.body_line - 1 : steps.line - 1], *prompt.lines[steps.end_line :]]
    return "\n".join(kept).strip()


def mentioned(steps: Section, context: Context) -> tuple[Reference, ...]:
    """Return what is mentioned outside the steps."""
    lines = [(line, text) for line, text in prose_lines(context.prompt.blocks) if not _within(line, steps)]
    return find_references(lines)


def criteria(steps: Section, context: Context) -> tuple[Criterion, ...]:
    """Return the lines of the sections of success criteria outside the steps."""
    rest = _without(context.prompt.root, steps)
    if not any(section.level and section.blocks for section in rest.walk()):
        return ()
    # The vocabulary of sections is read only here: most explicit prompts have no other section.
    from workflowmaster.flows.criteria import find_criteria
    from workflowmaster.flows.sections import parts_of

    return tuple(Criterion(text=one.text, line=one.line) for one in find_criteria(parts_of(rest)))


def _within(line: int, steps: Section) -> bool:
    return steps.line <= line <= steps.end_line


def _without(root: Section, steps: Section) -> Section:
    kept = tuple(_without(section, steps) for section in root.sections if section is not steps)
    return replace(root, sections=kept)
