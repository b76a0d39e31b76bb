"""Whether a step may run, and what its end means for the rest. Pure but for reading the journey.

Dependants follow the rule that users of GitHub Actions know: a step runs when all its needs succeeded, and a step that
was skipped by its own `if` takes those that need it along, unless they say `if: always()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflowmaster.flows.conditions import StepView, evaluate, parse_condition
from workflowmaster.flows.execution import host_result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.plan import Step, StepResult, StepStatus


def before(step: Step, journey: Journey) -> StepResult | None:
    """Return the result of a step that does not run, or None if it does."""
    in_the_way = [name for name in step.needs if name not in journey.passed]
    asked_anyway = step.condition and parse_condition(step.condition).looks_at_failures
    if in_the_way and not asked_anyway:
        return _stopped(step, journey, in_the_way)
    if step.condition and not _holds(step, journey):
        return host_result(journey, step, status="skipped", reason=f"its condition is not met: {step.condition}")
    return _unanswered(step, journey) if step.approval or step.kind == "approval" else None


def _unanswered(step: Step, journey: Journey) -> StepResult | None:
    """Return the result of a step that a person has not approved; None once one has.

    Decided here and not in the step's task: a task's result is kept, and would be the answer for ever.
    """
    answer = journey.record.approvals.get(step.id, "")
    if not answer:
        question = f"a person must approve this: workflowmaster approve {journey.id} --step {step.id}"
        return host_result(journey, step, status="waiting", reason=question)
    verdict, _, who = answer.partition(" ")
    return None if verdict == "approved" else host_result(journey, step, status="failed", reason=f"denied {who}")


def _stopped(step: Step, journey: Journey, names: list[str]) -> StepResult:
    statuses = {name: journey.results[name].status for name in names}
    if "waiting" in statuses.values() and not {"failed", "blocked"} & set(statuses.values()):
        return host_result(journey, step, status="waiting", reason=f"it needs {_listed(statuses)}")
    status: StepStatus = "skipped" if set(statuses.values()) == {"skipped"} else "blocked"
    return host_result(journey, step, status=status, reason=f"it needs {_listed(statuses)}")


def _listed(statuses: Mapping[str, str]) -> str:
    shown = [f"{name}, which is {status}" for name, status in list(statuses.items())[:3]]
    return "; ".join(shown) + (f" and {len(statuses) - 3} more" if len(statuses) > 3 else "")


def _holds(step: Step, journey: Journey) -> bool:
    seen = {name: journey.results[name] for name in journey.ancestors[step.id]}
    # A step that failed with leave to go on is no failure to those after it.
    views = {
        name: StepView("completed" if name in journey.passed else result.status, result.outputs)
        for name, result in seen.items()
    }
    inputs = {**journey.plan.input_values, **journey.record.options.inputs}
    return evaluate(parse_condition(step.condition), steps=views, inputs=inputs, matrix=step.matrix)


def after(step: Step, result: StepResult, journey: Journey) -> StepResult:
    """Apply the step's `on-failure` and note whether what needs it may go on."""
    if result.status == "failed" and step.on_failure == "skip":
        result = result.model_copy(
            update={"status": "skipped", "reason": f"given up, as its on-failure says: {result.reason}"}
        )
        journey.passed.add(step.id)
    elif result.status == "failed" and step.on_failure == "escalate" and not _denied(step, journey):
        asks = f"it failed and asks for a person: {result.reason}"
        result = result.model_copy(update={"status": "waiting", "reason": asks})
    if result.status == "completed" or (result.status == "failed" and step.continue_on_error):
        journey.passed.add(step.id)
    return result


def _denied(step: Step, journey: Journey) -> bool:
    return journey.record.approvals.get(step.id, "").startswith("denied")


def aborts(step: Step, result: StepResult) -> str:
    """Return why the whole run stops here, or nothing."""
    if result.status == "failed" and step.on_failure == "abort":
        return f"step {step.id} failed and its on-failure is abort: {result.reason}"
    return ""
