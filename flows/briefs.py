"""What an agent is handed: a text that needs nothing beside it.

The step stands first and as it was written, fences and all, because an agent reads Markdown better than any digest of
it. What else the prompt says follows as background, bounded in size, since thirty steps of one long prompt would
otherwise carry it thirty times; what is cut is said to be cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from workflowmaster.flows.criteria import Wanted
    from workflowmaster.flows.prompts import Prompt
    from workflowmaster.flows.stepitems import Item

MAX_CONTEXT = 16_000
"""Characters of background in one brief."""
MAX_CRITERIA = 60
"""Success criteria in one brief."""


def background(prompt: Prompt, steps: Iterable[Item], criteria: Iterable[Wanted]) -> str:
    """Return the prompt without the lines of its steps and criteria."""
    told = {line for item in steps for line in range(item.line, item.end_line + 1)}
    told |= {one.line for one in criteria}
    kept = [text for number, text in enumerate(prompt.lines, 1) if number >= prompt.body_line and number not in told]
    return "\n".join(_without_runs_of_blanks(kept)).strip()


def step_brief(item: Item, prompt: Prompt, title: str, criteria: Sequence[Wanted], context: str) -> str:
    """Return the brief of one found step."""
    written = "\n".join(prompt.lines[item.line - 1 : item.end_line]).rstrip()
    above = f" (from the section {item.section!r})" if item.section else ""
    return _join(
        f"# Your step: {item.name}",
        f"It is one step of a larger task, {title!r}. Do this step and no other. As written{above}:",
        written,
        *_done_when(criteria),
        *_about(context),
    )


def task_brief(asks: str, title: str, told: Sequence[Item], criteria: Sequence[Wanted], context: str) -> str:
    """Return the brief of a task of the skeleton for which the prompt lists no steps."""
    said = "\n".join(f"- {item.name}: {item.text}" if item.text != item.name else f"- {item.name}" for item in told)
    return _join(
        f"# {title}", asks, *(["The prompt says of it:", said] if said else []), *_done_when(criteria), *_about(context)
    )


def _done_when(criteria: Sequence[Wanted]) -> list[str]:
    if not criteria:
        return []
    lines = [f"- {one.text}" for one in criteria[:MAX_CRITERIA]]
    if len(criteria) > MAX_CRITERIA:
        lines.append(f"- … and {len(criteria) - MAX_CRITERIA} more in the prompt")
    return ["## The whole task is done when", "\n".join(lines)]


def _about(context: str) -> list[str]:
    if not context:
        return []
    if len(context) > MAX_CONTEXT:
        # Cut at a line's end, so that no sentence is left half and misleading.
        cut = context.rfind("\n", 0, MAX_CONTEXT)
        left = context.count("\n", cut) + 1
        context = f"{context[:cut].rstrip()}\n\n[{left} more lines of the prompt are left out here]"
    return ["## What else the prompt says", context]


def _join(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _without_runs_of_blanks(lines: Sequence[str]) -> list[str]:
    return [line for index, line in enumerate(lines) if line.strip() or (index and lines[index - 1].strip())]
