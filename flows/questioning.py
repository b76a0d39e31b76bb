"""Asks a person, and writes down what was answered: the only place where questions and answers become records.

A question is on the disk before the outcome of its step, so that a run which is killed in between asks once. It is told
in three ways: in the audit log, as an event on the Prefect server that automations can wait for, and as Markdown beside
the run, which a forge publishes as an issue's comment. None of these is read for what is open; the records are.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from workflowmaster.blocks.forge import LocalForge
from workflowmaster.flows import limiting, obeying
from workflowmaster.flows.journey import keep
from workflowmaster.flows.plaintext import decisive, one_line, tail
from workflowmaster.flows.plan import Limits
from workflowmaster.flows.questions import DERIVED, UNAPPROVED, Question, inputs_of, moot
from workflowmaster.flows.questiontext import comment

if TYPE_CHECKING:
    from workflowmaster.flows.audit import AuditLog
    from workflowmaster.flows.journal import Journal
    from workflowmaster.flows.journey import Journey
    from workflowmaster.flows.plan import Step, StepResult, WorkflowStatus
    from workflowmaster.flows.questions import Answer, Sort

EVENT: Final = "workflowmaster.question.asked"
ANSWERED: Final = "workflowmaster.question.answered"
HOUR: Final = 3600.0


def settle(journey: Journey, step: Step, result: StepResult) -> None:
    """Ask about a step that has come to wait for a person; close what was asked about one that has come to an end.

    Called by the scheduler before the outcome is recorded.
    """
    known = journey.past.book.open_of(step.id)
    if result.status == "waiting" and result.reason.startswith(DERIVED):
        return  # what it needs is asked about, it is not
    if known and (result.status != "waiting" or moot(known, journey)):
        _withdraw(journey, known, "the step has other inputs now")
        known = None
    if result.status == "waiting" and known is None:
        _ask(journey, _question(journey, step, result))


def _question(journey: Journey, step: Step, result: StepResult) -> Question:
    settings, now = journey.settings, time.time()
    sort: Sort = "approval" if result.reason.startswith(UNAPPROVED) else "escalation"
    hours = settings.approval_timeout_hours
    return Question(
        number=journey.past.book.next,
        step=step.id,
        sort=sort,
        why=one_line(_why(step, result) if sort == "approval" else result.reason, 600),
        **(_of_failure(journey, step, result) if sort == "escalation" else {}),
        asked_at=now,
        due=None if hours is None else now + hours * HOUR,
        otherwise=settings.approval_timeout_action,
    )


def _why(step: Step, result: StepResult) -> str:
    if step.description:
        return step.description
    return f"{step.name}: {UNAPPROVED} before it begins" if step.name else result.reason


def _of_failure(journey: Journey, step: Step, result: StepResult) -> dict[str, Any]:
    """Return what is known of the failure that a person is asked about."""
    last = next((one for one in reversed(journey.decisions) if one.step == step.id), None)
    lines = list(last.failure.lines) if last and last.failure else []
    had = most = Limits()
    if step.in_container:
        had = limiting.first(step, journey.policies[step.id])
        had = had.model_copy(update=journey.grown.get(step.id, Limits()).model_dump(exclude_none=True))
        most = journey.caps.get(step.id) or limiting.caps(step, journey.settings)
    return {
        "lines": tuple(lines or _log_lines(journey, step)),
        "attempts": result.attempts,
        "had": had,
        "most": most,
        "dependants_run": bool(last.factors.get("dependants_run", True)) if last else True,
        "inputs": inputs_of(journey, step.id),
    }


def _log_lines(journey: Journey, step: Step) -> list[str]:
    """Return the decisive lines of the last attempt's log, where no decision has named them."""
    found = journey.folder.logs(step.id)
    return decisive("\n".join(tail(found[-1].read_text("utf-8", "replace"), 60))) if found else []


def _ask(journey: Journey, question: Question) -> None:
    fields = question.model_dump(mode="json")
    journey.journal.append("question", durable=True, **fields)
    journey.past.book.asked[question.number] = question
    told = {name: fields[name] for name in ("number", "step", "sort", "why", "due", "otherwise")}
    journey.audit.append("question.asked", **told, verbs=question.verbs)
    _emit(journey, EVENT, {**told, "verbs": list(question.verbs), "lines": list(question.lines)})


def _withdraw(journey: Journey, question: Question, why: str) -> None:
    journey.journal.append("question", durable=True, number=question.number, step=question.step, withdrawn=why)
    journey.past.book.closed[question.number] = why
    journey.audit.append("question.withdrawn", number=question.number, step=question.step, reason=why)


def _emit(journey: Journey, event: str, payload: dict[str, Any]) -> None:
    """Tell the Prefect server's automations; it adds the flow run by itself."""
    from prefect.events import emit_event

    resource = {
        "prefect.resource.id": f"workflowmaster.workflow.{journey.id}",
        "prefect.resource.name": journey.plan.name,
        "workflowmaster.step": payload["step"],
    }
    emit_event(event, resource=resource, payload={"workflow": journey.id, **payload})


def write_down(answer: Answer, journal: Journal, audit: AuditLog) -> None:
    """Make an answer the one that counts. The workflow's claim must be held, and its question be open."""
    fields = answer.fields()
    journal.append("approval", durable=True, **fields)
    audit.append("approval", **fields)


def hear(journey: Journey, answer: Answer) -> None:
    """Take in an answer in the midst of a run: as if it had been there when the run began."""
    write_down(answer, journey.journal, journey.audit)
    journey.past.book.write(answer)
    journey.past.retried.pop(answer.step, None)
    approvals = {**journey.record.approvals, answer.step: answer.sentence}
    keep(journey, journey.record.model_copy(update={"approvals": approvals}))


def aborted(journey: Journey) -> str:
    """Return why a person has ended the whole workflow, or nothing. The step that was asked about has failed by it."""
    answer = obeying.aborted(journey)
    if answer is None:
        return ""
    result = obeying.left(journey.steps[answer.step], journey, "failed", answer.reason)
    journey.results[answer.step] = result
    known: dict[str, Any] = {"result": result.model_dump(mode="json"), "flow_run": journey.record.flow_run_id}
    journey.journal.append("result", step=answer.step, reused=False, task_run="", **known)
    journey.audit.append("step.finished", step=answer.step, reused=False, status=result.status, reason=result.reason)
    return f"step {answer.step}: {answer.reason}"


def publish(journey: Journey, status: WorkflowStatus) -> None:
    """Say where people look what the run waits for; nothing where it has ended."""
    asked = journey.past.book.open if status in ("waiting", "paused") else []
    LocalForge(journey.folder.path).ask(comment(asked, journey.id, journey.plan.name) if asked else "")
