"""The steps that run on the host: setup, forge, approval, and the gates that stand for a task's children.

No prompt's, repository's or agent's code runs in any of them; that is why they need no sandbox.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from workflowmaster.blocks.forge import IssueRequest, LocalForge
from workflowmaster.flows import evidence, report, steady
from workflowmaster.flows.execution import host_result

if TYPE_CHECKING:
    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.plan import Step, StepResult


async def run(journey: Journey, step: Step) -> StepResult:
    """Do a host step's work. Raises OSError if its file cannot be written."""
    began = steady.now()
    work = {"setup": _setup, "forge": _forge, "approval": _approval, "check": _gate}.get(step.kind, _gate)
    result = await asyncio.to_thread(work, journey, step)
    return result.model_copy(update={"started_at": began, "seconds": steady.now() - began})


def _setup(journey: Journey, step: Step) -> StepResult:
    """Say what was prepared; the preparing itself has happened, or the run would not have begun."""
    facts = {"base": journey.store.base, "images": str(len(journey.record.images)), "branch": branch(journey)}
    return host_result(journey, step, outputs=facts)


def _forge(journey: Journey, step: Step) -> StepResult:
    """Open the issue, name the branch or announce the pull request, according to the task's phase."""
    forge = LocalForge(journey.folder.path)
    if step.phase == "issue_creation":
        title, body = report.issue_text(journey.plan)
        issue = forge.open_issue(IssueRequest(title=title, body=body, labels=journey.plan.labels))
        evidence.published(journey, issue)
        return host_result(journey, step, outputs={"issue": issue.location})
    if step.phase == "branch_management":
        return host_result(journey, step, outputs={"branch": branch(journey)})
    # Branch, patch and pull request are made once, at the end, from the whole run's outcome: see `ending.py`. What is
    # judged here is whether there will be one.
    return host_result(journey, step, outputs={"pull_request": str(journey.folder.path / "pull-request.md")})


def _approval(journey: Journey, step: Step) -> StepResult:
    """Say who approved; without an answer the step would not have been started."""
    return host_result(journey, step, outputs={"approved_by": journey.record.approvals[step.id].partition(" ")[2]})


def _gate(journey: Journey, step: Step) -> StepResult:
    """Stand for the steps a task was split into: it runs only when all of them completed."""
    return host_result(journey, step, outputs={"steps": str(len(step.children))})


def branch(journey: Journey) -> str:
    """Return the name of the branch the run will leave in the user's repository."""
    return f"workflowmaster/{journey.id}"
