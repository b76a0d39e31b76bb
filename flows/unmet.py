"""What a prompt may say and this version does not keep: refused before anything starts, never silently dropped.

The compiler knows the whole format, because a prompt must be checkable before every part of it can be run. Whoever asks
for a hard stop and gets a run without it has been told a lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflowmaster.policies import PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workflowmaster.flows.plan import Plan, Step


def refuse_unmet(plan: Plan) -> None:
    """Raise PolicyError that names everything the plan asks for and a run would not get, with its line."""
    path = plan.prompt.path
    found = [f"  {path}:{step.source.line}: step {step.id}: {what}" for step in plan.tasks for what in unmet(step)]
    if plan.front.get("budget"):
        found.insert(0, f"  {path}: budget: a run is not stopped by it yet; leave it out")
    if found:
        raise PolicyError("\n".join(["this version cannot keep all that the prompt asks for:", *found]))


def unmet(step: Step) -> Iterator[str]:
    """Yield what one step asks for and would not get, each with what to do instead."""
    if step.budget:
        yield "budget: a step is not stopped by it yet; use timeout-minutes and retries"
    if step.on_retry == "keep":
        yield "on-retry: keep: every attempt starts from a clean tree; leave it out"
