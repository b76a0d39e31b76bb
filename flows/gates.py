"""Whether a step may run, and what its end means for the rest. Pure but for reading the journey.

Dependants follow the rule that users of GitHub Actions know: a step runs when all its needs succeeded, and a step that
was skipped by its own `if` takes those that need it along, unless they say `if: always()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflowmaster.flows import obeying
from workflowmaster.flows.conditions import StepView, evaluate, parse_condition
from workflowmaster.flows.execution import host_result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.plan import Step, StepResult, StepStatus

SPENT = "budget-spent"
"""Rule of decisions that end a step for want of budget."""


def before(step: Step, journey: Journey) -> StepResult | None:
    """Return the result of a step that does not run, or None if it does."""
    in_the_way = [name for name in step.needs if name not in journey.passed]
    asked_anyway = step.condition and parse_condition(step.condition).looks_at_failures
    if in_the_way and not asked_anyway:
        return _stopped(step, journey, in_the_way)
    if step.condition and not _holds(step, journey):
        return host_result(journey, step, status="skipped", reason=f"its condition is not met: {step.condition}")
    return obeying.before(step, journey)


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
    """Apply what was decided about a failure, and note whether what needs the step may go on."""
    # A person's no is not a failure to be decided on.
    verb = _verb(step, journey) if result.status == "failed" and not obeying.refused(step, journey) else ""
    if verb == "skip":
        changed = {"status": "skipped", "reason": f"{_given_up(step, journey)}{result.reason}"}
        result = result.model_copy(update={**changed, "waived": _waived(step, journey)})
        if _dependants_run(step, journey):
            journey.passed.add(step.id)
    elif verb == "escalate":
        asks = f"it failed and asks for a person: {result.reason}"
        result = result.model_copy(update={"status": "waiting", "reason": asks})
    elif result.status == "skipped" and obeying.given_up(step, journey):
        journey.passed.add(step.id)
    if result.status == "completed" or (result.status == "failed" and step.continue_on_error):
        journey.passed.add(step.id)
    return result


def aborts(step: Step, result: StepResult, journey: Journey) -> str:
    """Return why the whole run stops here, or nothing. A budget that is spent stops it in a way of its own."""
    if result.status != "failed" or _verb(step, journey) != "abort":
        return ""
    decision = journey.deciding.last.get(step.id)
    if decision is None or decision.rule == "prompt-aborts":
        return f"step {step.id} failed and its on-failure is abort: {result.reason}"
    return "" if decision.rule == SPENT else f"step {step.id} failed: {result.reason} ({decision.reason})"


def _verb(step: Step, journey: Journey) -> str:
    """Return what follows a failure: what was decided, or what the prompt says where it was no attempt that failed."""
    decision = journey.deciding.last.get(step.id)
    return decision.verb if decision else step.on_failure


def _given_up(step: Step, journey: Journey) -> str:
    """Say who gave a step up: its prompt, or a rule of ours."""
    decision = journey.deciding.last.get(step.id)
    whose = "its on-failure" if decision is None or decision.rule == "prompt-skips" else f"the rule {decision.rule}"
    return f"given up, as {whose} says: "


def _waived(step: Step, journey: Journey) -> bool:
    """Whether a workflow cannot count as complete because of a step that was given up: nobody had said that it may."""
    decision = journey.deciding.last.get(step.id)
    ours = decision is not None and decision.rule != "prompt-skips"
    return ours and step.mandatory and step.priority != "low"


def _dependants_run(step: Step, journey: Journey) -> bool:
    """Whether what needs a step that was given up goes on from what the step started from."""
    decision = journey.deciding.last.get(step.id)
    return bool(decision.factors.get("dependants_run", True)) if decision else True
