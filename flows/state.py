"""The state of one workflow, derived: a view over the plan, the persisted results and the small records.

Nothing decides by this file. Prefect's persisted results are the truth for finished steps; `WorkflowState` is what
people, reports and the JSON of `run` read. `state.json` is a snapshot of it; how one is made is in `statekeeping.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflowmaster.flows.plan import Account, Decision, Noun, Plan, Step, StepResult, StepStatus, WorkflowStatus

if TYPE_CHECKING:
    from collections.abc import Iterable

FINISHED: frozenset[StepStatus] = frozenset({"completed", "failed", "skipped", "blocked"})


class WorkflowState(Noun):
    """One workflow as it stands, self-contained enough to draw its report."""

    schema_version: int = 2
    workflow_id: str
    journal_at: int = 0
    """Bytes of the journal that it holds; what is recorded after them is to be added."""
    flow_run_id: str = ""
    plan: Plan
    plan_hash: str = ""
    """The plan's hash when the flow began to go by it; empty before."""
    status: WorkflowStatus = "running"
    reason: str = ""
    """Why it ended this way; the first thing a person should read when it did not complete."""
    workspace: str = ""
    """The user's directory."""
    images: dict[str, str] = {}
    """Image reference of the plan → id it was pinned to."""
    results: dict[str, StepResult] = {}
    """Step id → result, for every step that ended or was reused."""
    running: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()
    """Steps whose result came back without running anything."""
    generations: dict[str, int] = {}
    """Step id → how often it was made to run anew; part of its key, and kept here for the day the journal is lost."""
    decisions: tuple[Decision, ...] = ()
    budget: Account | None = None
    """What it might use and had used when its last part ended; None while its first part runs."""
    base_commit: str = ""
    """The user's commit the workflow started from; empty where the workspace is no repository."""
    branch: str = ""
    commit: str = ""
    """Tip of `branch` in the user's repository."""
    pull_request: str = ""
    """URL, or path of `pull-request.md` with the local forge."""
    issue: str = ""
    report: str = ""
    audit_log: str = ""
    started_at: float = 0.0
    """Unix time, seconds."""
    results_place: str = ""
    """Folder in which Prefect keeps the results, as the run found it set."""
    seconds: float = 0.0

    def result(self, step_id: str) -> StepResult | None:
        """Return the step's result, if it has one."""
        return self.results.get(step_id)

    def step_status(self, step_id: str) -> StepStatus:
        """Return how the step stands."""
        found = self.results.get(step_id)
        if found:
            return found.status
        return "in_progress" if step_id in self.running else "pending"


def final_status(tasks: Iterable[Step], results: dict[str, StepResult]) -> WorkflowStatus:
    """Compute the workflow's status from its steps'.

    `completed` needs every mandatory step completed, or skipped by its own `if` or prompt; one that a rule of ours has
    given up counts only where its priority is low, for then its author has said how little it matters. No share of
    successes waives one (the original called 7 of 8 a success with the review failing every time). `partial` means that
    something completed.
    """
    steps = list(tasks)
    status = {s.id: results[s.id].status if s.id in results else "pending" for s in steps}
    if "waiting" in status.values():
        return "waiting"
    waived = {name for name, result in results.items() if result.waived}
    bad = [s for s in steps if s.mandatory and (status[s.id] not in ("completed", "skipped") or s.id in waived)]
    if not bad:
        return "completed"
    done = any(status[s.id] == "completed" and s.kind != "setup" for s in steps)
    return "partial" if done else "failed"
