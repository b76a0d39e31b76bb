"""What a run leaves: one commit of all work, a branch, a patch, a pull request, a report, and its state.

Whatever completed is kept, also when the run as a whole did not: the branch is the user's to judge. Nothing of their
checkout is touched; the branch appears beside it.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Literal

from workflowmaster.blocks.atomic import write_atomically
from workflowmaster.blocks.forge import ChangedFile, LocalForge, PullRequest
from workflowmaster.blocks.layering import tree_of
from workflowmaster.blocks.workspace import WorkspaceError
from workflowmaster.flows import anchoring, evidence, questioning, report, tasktable
from workflowmaster.flows.execution import in_git
from workflowmaster.flows.hosting import branch
from workflowmaster.flows.state import WorkflowState, final_status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflowmaster.blocks import workspace
    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.plan import StepResult

TAIL_LINES = 60
"""Last lines of each log that the report looks at for those that decided."""


async def conclude(journey: Journey, *, aborted: str = "", paused: str = "") -> WorkflowState:
    """Compute how the run ended, publish what it made, and write the report and the final state.

    `aborted` and `paused` are the reasons of a run that was stopped before its end.
    """
    await journey.claim.must_hold(look=True)
    stopped = "aborted" if aborted else "paused" if paused else ""
    status = stopped or final_status(journey.plan.tasks, journey.results)
    state = journey.state(status=status, reason=aborted or paused or reason(journey), running=())
    state, files = await _publish(journey, state)
    logs = journey.folder.tails(journey.results, TAIL_LINES)
    state = state.model_copy(update={"report": str(journey.folder.report)})
    journey.keeping.last_checkpoint(state)
    await asyncio.to_thread(questioning.publish, journey, state.status)
    await asyncio.to_thread(write_atomically, journey.folder.report, report.html(state, logs, files=files))
    await asyncio.gather(_artifact(state, logs), tasktable.last(journey))
    await asyncio.to_thread(journey.keeping.drain)
    # Said before it is done, for nothing may follow the end.
    journey.audit.append("claim.released", claim=journey.claim.epoch)
    told = {"status": state.status, "reason": state.reason, "branch": state.branch, "commit": state.commit}
    # In a thread: it waits until the checkpoint is signed and on the disk.
    await asyncio.to_thread(journey.audit.append, "workflow.finished", **told)
    journey.save(state, durable=True)
    await anchoring.at_the_end(journey, state)
    if state.status == "completed":
        # Nothing will be built on the base any more; a resume would pin it again.
        await in_git(journey, journey.store.unpin)
    return state


def reason(journey: Journey) -> str:
    """Return the first thing a person should read about a run that did not complete; empty if it did."""
    mandatory = [journey.results[s.id] for s in journey.steps.values() if s.mandatory and s.id in journey.results]
    for status in ("failed", "waiting", "blocked", "pending"):
        found = [result for result in mandatory if result.status == status]
        if found:
            first = min(found, key=lambda result: result.started_at + result.seconds)
            return f"step {first.step}: {first.reason}"
    return ""


async def _publish(journey: Journey, state: WorkflowState) -> tuple[WorkflowState, tuple[ChangedFile, ...]]:
    """Join the ends of all branches of the graph and export them. A conflict is reported, and nothing is exported."""
    ends = _ends(journey)
    if not ends:
        return state, ()
    try:
        tip, commit, patch = await in_git(journey, lambda: _export(journey, ends))
    except WorkspaceError as error:
        worse = "partial" if state.status == "completed" else state.status
        return state.model_copy(update={"status": worse, "reason": state.reason or str(error)}), ()
    if not commit:
        return state, ()
    state = state.model_copy(update={"branch": branch(journey), "commit": commit})
    files = tuple(map(_changed, await in_git(journey, lambda: journey.store.changed_files(tip))))
    title, body = report.pull_request(state, files=files)
    request = PullRequest(title=title, body=body, branch=state.branch, patch=patch, files=files)
    forge = LocalForge(journey.folder.path)
    made = await asyncio.to_thread(forge.open_pull_request, request)
    journey.audit.append("branch.exported", branch=state.branch, commit=commit, tree=tree_of(journey.store, tip))
    evidence.published(journey, made)
    return state.model_copy(update={"pull_request": made.location}), files


def _changed(file: workspace.ChangedFile) -> ChangedFile:
    words: dict[str, Literal["added", "modified", "deleted"]] = {
        "A": "added",
        "M": "modified",
        "D": "deleted",
        "T": "modified",
    }
    return ChangedFile(path=file.path, change=words[file.status], added=file.additions, deleted=file.deletions)


def _ends(journey: Journey) -> list[tuple[str, str]]:
    """Return (step, commit) of finished work that no other finished work builds on, in the plan's order."""
    done: dict[str, StepResult] = {
        step.id: journey.results[step.id]
        for step in journey.plan.tasks
        if step.id in journey.passed and journey.results[step.id].commit
    }
    built_on = {need for name in done for need in journey.steps[name].needs}
    return [(name, result.commit) for name, result in done.items() if name not in built_on]


def _export(journey: Journey, ends: list[tuple[str, str]]) -> tuple[str, str, bytes]:
    store = journey.store
    tip = store.merge(ends, message="Join all steps")
    if tree_of(store, tip) == tree_of(store, store.origin):
        return tip, "", b""
    author = _author(journey.settings.commit_author)
    message = f"Workflow: {journey.id}\nPlan: {journey.plan.workflow_hash}"
    commit = store.export(tip, branch=branch(journey), message=message, author=author, expected=journey.exported)
    return tip, commit, store.patch(tip)


def _author(text: str) -> tuple[str, str]:
    found = re.fullmatch(r"\s*(.*?)\s*<(.+)>\s*", text)
    return (found[1], found[2]) if found else (text.strip(), "workflowmaster@localhost")


async def _artifact(state: WorkflowState, logs: Mapping[str, str]) -> None:
    """Show the report in the Prefect UI; outside a flow run there is nowhere to show it."""
    from prefect.artifacts import acreate_markdown_artifact
    from prefect.context import FlowRunContext

    if FlowRunContext.get() is None:
        return
    await acreate_markdown_artifact(
        key="report", markdown=report.markdown(state, logs), description=f"{state.status}: {state.plan.name}"[:200]
    )
