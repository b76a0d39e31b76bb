"""What may be wrong with a state: the word for it, and everything that can be told from its values alone. Pure.

A flaw is an `error` where something would be believed that is not so, or is gone that a resume needs; `state repair`
mends those. A `warning` is true and asks for somebody; a `note` may be the clock's doing and nobody's fault.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from workflowmaster.flows.ordering import find_cycle
from workflowmaster.flows.plan import Noun
from workflowmaster.flows.state import final_status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workflowmaster.flows.plan import Plan, StepResult
    from workflowmaster.flows.state import WorkflowState

SKEW = 60.0
"""Seconds by which clocks may differ before a time in the future is worth a note."""


class Flaw(Noun):
    """One thing that is wrong with what is kept of a workflow."""

    code: str
    """Stable, as `result.damaged`; all of them are in docs/state.md."""
    severity: Literal["error", "warning", "note"]
    where: str
    """File, with a line or a step where there is one."""
    what: str
    mend: str
    """What to do about it, or what `state repair` does."""


REPAIR = "`workflowmaster state repair` "
"""How the mend of a flaw begins that is mended by itself."""


def of_plan(plan: Plan) -> Iterator[Flaw]:
    """Yield what is wrong with the references of a plan: needs that are no steps, and cycles."""
    needs = {step.id: step.needs for step in plan.tasks}
    for step in plan.tasks:
        for need in step.needs:
            if need not in needs:
                what = f"step {step.id} needs {need}, which is no step"
                yield _flaw("plan.dangling", "plan.json", what, f"{REPAIR}takes the plan from elsewhere")
    known = {name: [need for need in wanted if need in needs] for name, wanted in needs.items()}
    if cycle := find_cycle(known):
        what = f"steps need each other: {' -> '.join(cycle)}"
        yield _flaw("plan.cycle", "plan.json", what, f"{REPAIR}takes the plan from elsewhere")


def of_state(state: WorkflowState, *, now: float) -> Iterator[Flaw]:
    """Yield what a state says that cannot be: impossible times, a status that its steps do not bear out."""
    yield from _status(state)
    for result in state.results.values():
        yield from _times(result, now)


def orphaned(state: WorkflowState) -> Flaw:
    """Return the flaw of a run that is under way by its state and has no living owner."""
    mend = f"`workflowmaster resume {state.workflow_id}` goes on with it"
    return _flaw("status.orphaned", "state.json", "it is running, and no process works on it", mend, "warning")


def strangers(state: WorkflowState) -> Iterator[Flaw]:
    """Yield what a snapshot says of steps that its plan does not have."""
    groups = {
        "result": state.results,
        "running step": state.running,
        "reused step": state.reused,
        "decision": [decision.step for decision in state.decisions],
    }
    ids = state.plan.ids
    for kind, names in groups.items():
        for name in dict.fromkeys(names):
            if name not in ids:
                what = f"a {kind} of {name}, which is no step of the plan"
                yield _flaw("step.unknown", "state.json", what, f"{REPAIR}leaves it out")


def _status(state: WorkflowState) -> Iterator[Flaw]:
    if state.status == "completed" and final_status(state.plan.tasks, state.results) != "completed":
        fine = ("completed", "skipped")
        bad = next(s.id for s in state.plan.tasks if s.mandatory and state.step_status(s.id) not in fine)
        what = f"it is completed, and step {bad} is {state.step_status(bad)}"
        yield _flaw("status.mandatory", "state.json", what, f"{REPAIR}computes the status from the steps")
    if state.status != "running" and state.running:
        what = f"it is {state.status}, and {', '.join(state.running)} still runs"
        yield _flaw("status.running", "state.json", what, f"{REPAIR}writes it anew from the records")
    if state.seconds < 0:
        yield _flaw("status.times", "state.json", "it ended before it started", f"{REPAIR}writes it anew")


def _times(result: StepResult, now: float) -> Iterator[Flaw]:
    where = f"step {result.step}"
    if result.seconds < 0 or any(receipt.seconds < 0 for receipt in result.receipts):
        yield _flaw("status.times", where, "it ended before it started", f"{REPAIR}drops the result: it runs again")
    if result.started_at > now + SKEW:
        ahead = f"it started {result.started_at - now:.0f} s in the future"
        yield _flaw("time.future", where, ahead, "nothing, if the clock was put back since", "note")


def _flaw(code: str, where: str, what: str, mend: str, severity: Literal["error", "warning", "note"] = "error") -> Flaw:
    return Flaw(code=code, severity=severity, where=where, what=what, mend=mend)
