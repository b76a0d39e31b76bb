"""What a person's answer means for its step, and what a question that nobody has answered does.

A question that is open keeps its step waiting whoever goes on with the run, a resume by hand and the recovery of
orphans too: with decisions switched off a retry would otherwise come of nothing but a restart. The cost is that a plain
`resume` no longer tries an escalated step again; `approve --retry` says so in words, and `resume --from` still does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflowmaster.flows.execution import host_result
from workflowmaster.flows.plan import Limits, StepResult
from workflowmaster.flows.questions import UNAPPROVED, answer_of, moot, open_of

if TYPE_CHECKING:
    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.plan import Step, StepStatus
    from workflowmaster.flows.questions import Answer


def before(step: Step, journey: Journey) -> StepResult | None:
    """Return the result of a step that an answer, or the lack of one, keeps from running; None where it may run.

    Decided here and not in the step's task: a task's result is kept, and would be the answer for ever.
    """
    answer = answer_of(journey, step.id)
    if answer is None:
        return _unanswered(step, journey)
    if answer.verb in ("approve", "retry"):
        return None
    return left(step, journey, "skipped" if answer.verb == "skip" else "failed", answer.reason)


def _unanswered(step: Step, journey: Journey) -> StepResult | None:
    question = open_of(journey, step.id)
    if question and question.sort == "escalation":
        return left(step, journey, "waiting", question.why)
    if not (step.approval or step.kind == "approval"):
        return None
    asks = f"{UNAPPROVED}: workflowmaster approve {journey.id} --step {step.id}"
    return host_result(journey, step, status="waiting", reason=asks)


def left(step: Step, journey: Journey, status: StepStatus, reason: str) -> StepResult:
    """Return what a failed step left as an earlier part of the run recorded it, with the outcome it has now.

    Its input commit matters most: what goes on although the step was given up builds on that.
    """
    known = journey.past.finished.get(step.id)
    before = StepResult.model_validate(known.result) if known else None
    if before is None or before.status == "completed":
        return host_result(journey, step, status=status, reason=reason)
    return before.model_copy(update={"status": status, "reason": reason})


def given_up(step: Step, journey: Journey) -> bool:
    """Whether a person has skipped a step that failed, and what needs it may go on.

    An approval that is skipped takes those along that need it: nobody has agreed to what they would do.
    """
    for question, answer in reversed(journey.past.book.answered(step.id)):
        if question and not moot(question, journey):
            return answer.verb == "skip" and question.sort == "escalation" and question.dependants_run
    return False


def refused(step: Step, journey: Journey) -> bool:
    """Whether a person has said that the step's failure stands, or that it may not run."""
    answer = answer_of(journey, step.id)
    return answer is not None and answer.verb in ("deny", "abort")


def granted(journey: Journey) -> dict[str, Limits]:
    """Return what answers give the next attempts of steps: step id → limits.

    A decision that came after the answer has seen how little its limits helped, and wins.
    """
    since = {decision.step: decision.at for decision in journey.decisions if decision.limits}
    found = {}
    for step, answer in _last(journey).items():
        if answer.limits and answer.at >= since.get(step, 0.0):
            before = journey.grown.get(step, Limits())
            found[step] = before.model_copy(update=answer.limits.model_dump(exclude_none=True))
    return found


def aborted(journey: Journey) -> Answer | None:
    """Return the answer that ends the whole workflow, if somebody gave one."""
    return next((answer for answer in _last(journey).values() if answer.verb == "abort"), None)


def _last(journey: Journey) -> dict[str, Answer]:
    """Return each step's last answer, before anything has run: what the step's inputs will be is not known yet."""
    book = journey.past.book
    named = {*book.earlier, *(answer.step for answer in book.answers.values())}
    told = {step: book.answered(step) for step in journey.steps if step in named and not book.open_of(step)}
    return {step: answers[-1][1] for step, answers in told.items() if answers}
