"""What a prompt asks for and a run could not keep: refused before anything starts, never silently dropped.

The compiler knows the whole format, because a prompt must be checkable before every part of it can be run, and it does
not know what an operator's policies do with what a step leaves. Whoever asks for something to be kept and gets a run
without it has been told a lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflowmaster.policies import PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from workflowmaster.flows.plan import Plan, Step
    from workflowmaster.policies import SecurityPolicy


def refuse_unmet(plan: Plan, limits: Mapping[str, SecurityPolicy]) -> None:
    """Raise PolicyError that names everything the plan asks for and a run would not get, with its line.

    `limits` are the policies that its steps run under.
    """
    path = plan.prompt.path
    asked = [(step, what) for step in plan.tasks for what in unmet(step, limits[step.id])]
    found = [f"  {path}:{step.source.line}: step {step.id}: {what}" for step, what in asked]
    if found:
        raise PolicyError("\n".join(["this run cannot keep all that the prompt asks for:", *found]))


def unmet(step: Step, policy: SecurityPolicy) -> Iterator[str]:
    """Yield what one step asks for and would not get, each with what to do instead."""
    if step.on_retry == "keep" and step.in_container and policy.workspace == "copy":
        yield (
            f"on-retry: keep: policy {policy.name} throws away what a step leaves in its workspace; leave it out, or "
            "name a policy that keeps it"
        )
