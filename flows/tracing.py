"""What each range of a prose prompt's lines became, and by which rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflowmaster.flows.options import Explained
from workflowmaster.flows.sections import is_quotation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workflowmaster.flows.criteria import Wanted
    from workflowmaster.flows.placing import Placed
    from workflowmaster.flows.prosesteps import Child
    from workflowmaster.flows.sections import Part


def explain(
    root: Part, placed: Placed, children: Mapping[str, Sequence[Child]], criteria: Sequence[Wanted]
) -> tuple[Explained, ...]:
    """Return what became of the prompt, by line: steps, retold tasks, criteria, quotations, and what is left."""
    found = [
        Explained(
            line=child.item.line,
            end_line=child.item.end_line,
            became=child.id,
            rule=f"{child.item.rule}, read as {child.item.meaning}",
        )
        for some in children.values()
        for child in some
    ]
    found += [
        Explained(line=item.line, end_line=item.end_line, became=task, rule=f"{item.rule} that retells task {task}")
        for task, some in placed.mapped.items()
        for item in some
    ]
    found += [
        Explained(line=one.line, end_line=one.line, became="criterion", rule="success section") for one in criteria
    ]
    for part in root.walk():
        found += [
            Explained(
                line=block.line, end_line=block.end_line, became="quotation", rule="fence with a title of its own"
            )
            for block in part.blocks
            if is_quotation(block)
        ]
        if part.title and not any(one.line == part.line for one in found):
            last = max([part.line, *(block.end_line for block in part.blocks)])
            found.append(
                Explained(line=part.line, end_line=last, became="context", rule=f"section read as {part.kind}")
            )
    return tuple(sorted(found, key=lambda one: (one.line, one.end_line, one.became)))
