"""Every event of the audit log: its name, when it is written, how fast it is on the disk, and how grave it is.

One table, so that a reader, a filter and a test can rely on it: a test walks the code and fails at an event that is
missing here, and docs/audit.md lists them. What is *durable* is chosen by what would be lost: an event that grants,
refuses or ends something has reached the disk when the call returns. What tells of a container is on its way to the
disk by then, because a step would wait for it, and a busy disk was seen to take two seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

When = Literal["now", "soon", "later"]
Severity = Literal["info", "notice", "warning", "alert"]


class Event(NamedTuple):
    """One kind of event."""

    when: str
    """When it is written, as the end of a sentence that begins with "when"."""
    reaches: When = "soon"
    """`now`: on the disk when the call returns. `soon`: on its way. `later`: with the next of those, or in a group."""
    severity: Severity = "info"


EVENTS: Final[dict[str, Event]] = {
    "workflow.started": Event("a flow run takes the workflow over, also after a resume", "now"),
    "workflow.finished": Event("it has ended, or waits for a person; the checkpoint follows", "now"),
    "workflow.cancelled": Event("somebody cancelled the workflow: who", "now", "notice"),
    "workflow.paused": Event("somebody paused the workflow: who", "now", "notice"),
    "plan.compiled": Event("a run was asked for: hashes of prompt and plan, base commit, images"),
    "plan.changed": Event("a resume goes on by an edited prompt: which steps changed", "now", "notice"),
    "settings.effective": Event("a run begins: the settings that differ from their defaults"),
    "claim.taken": Event("a process has begun to work on it"),
    "claim.lost": Event("another process has taken it over, and this one stops", "now", "alert"),
    "claim.released": Event("that process has stopped working on it"),
    "step.started": Event("an attempt of a step begins", "later"),
    "step.finished": Event("a step has its outcome: status, key, commits"),
    "step.refused": Event(
        "a policy or a limit was not kept by the engine, and nothing of the step ran", "now", "alert"
    ),
    "step.retried": Event("a step begins another attempt", "soon", "notice"),
    "steps.rerun": Event("steps that have results run again, and why", "soon", "notice"),
    "result.damaged": Event("a persisted result cannot be believed, and its step runs again", "soon", "warning"),
    "container.created": Event("a container is there and waits for its go"),
    "container.attested": Event("its limits were read back from the kernel"),
    "container.started": Event("it gets its go"),
    "container.finished": Event("it has ended: exit code, usage, what held"),
    "container.removed": Event("it is gone from the engine", "later"),
    "container.adopted": Event("a resume goes on with one that a dead owner sent off: time left, time alone", "soon"),
    "container.harvested": Event("a resume takes in one that ended while nobody watched", "soon"),
    "work.kept": Event("a resume goes on from work that was done and whose result was not yet kept", "soon"),
    "container.abandoned": Event("a dead owner's is removed, and why: its step starts clean", "soon", "notice"),
    "policy.applied": Event("a step's limits are settled", "later"),
    "policy.loosened": Event("a policy grants more than the one it extends, and why", "now", "notice"),
    "policy.changed": Event("the server's document of a policy sets other limits", "now", "notice"),
    "policy.refused": Event("a policy refuses the run, or its document grants too much", "now", "alert"),
    "image.pinned": Event("the policy wants it: what holds an image to its id, and who signed it"),
    "network.started": Event("a proxy runs for the hosts that steps name"),
    "network.attempt": Event("a step has asked for a host, allowed or refused", "later"),
    "secret.used": Event("a container is given secrets: their names", "soon", "notice"),
    "decision": Event("a failure is decided on: verb and reason; abort and escalate are on the disk at once"),
    "question.asked": Event("a person is asked about a step: why, what may be answered, until when", "now", "notice"),
    "question.withdrawn": Event("a question is about what is no more, and nobody has to answer it", "soon", "notice"),
    "approval": Event("a question was answered: which one, how, by whom, with what note and limits", "now", "notice"),
    "approval.refused": Event("an answer from the Prefect UI could not be taken, and why", "soon", "warning"),
    "approval.withdrawn": Event("an answer no longer counts, for the step is another now", "now", "notice"),
    "sandbox.retried": Event("the engine failed before any of the step's code ran", "soon", "warning"),
    "engine.away": Event("the engine does not answer, and the run waits: why, how long at most", "soon", "warning"),
    "engine.back": Event("it has started a container again: after how many seconds", "soon", "notice"),
    "health.low": Event("fewer steps run at a time: the number, its parts, and which are low", "soon", "warning"),
    "health.back": Event("as many run again as may", "soon", "notice"),
    "branch.exported": Event("the branch in the user's repository was written", "now"),
    "forge.written": Event("an issue, a pull request or a review was published", "now"),
    "budget.granted": Event("somebody gives a run, or one of its steps, other limits: which, who", "now", "notice"),
    "budget.low": Event("four fifths of a limit are used: which, with numbers", "soon", "notice"),
    "budget.spent": Event("the run stops for its budget: which limits, with numbers", "now", "warning"),
    "checkpoint.written": Event("a milestone was reached and the state kept: which file, how many steps", "later"),
    "state.repaired": Event("what is kept of the workflow is about to be mended: every flaw", "now", "warning"),
    "state.restored": Event("somebody goes back to a checkpoint: the steps that run again", "now", "notice"),
    "swept": Event("what dead owners left in the engine or on the disk was removed"),
    "anchor.failed": Event("a checkpoint could not be copied to an anchor", "soon", "warning"),
    "audit.rotated": Event("a file of the log was full: its name, head and size", "soon"),
    "audit.dropped": Event("files of the log are past `audit_retention_days`, and go", "now", "notice"),
    "audit.torn_tail": Event("half a record was cut off, which a killed writer had left", "soon", "warning"),
    "audit.damaged": Event("the last record cannot be read, and the chain begins anew behind it", "soon", "alert"),
    "audit.unsigned": Event("a checkpoint could not be signed", "soon", "alert"),
}

GRAVE_VERBS: Final = frozenset({"abort", "escalate"})
"""Decisions that end something, and are on the disk before that happens."""

SEALS: Final = frozenset({"workflow.finished", "audit.dropped"})
"""Events that end an epoch: their record is under a signed checkpoint when the call returns."""

_UNKNOWN = Event("a version of this product that this one does not know wrote it")


def about(event: str) -> Event:
    """Return what is known of an event; an unknown one is information that reaches the disk soon."""
    return EVENTS.get(event, _UNKNOWN)


def reaches(event: str, fields: Mapping[str, Any]) -> When:
    """Return how fast this event has to be on the disk."""
    if event == "decision" and fields.get("verb") in GRAVE_VERBS:
        return "now"
    return about(event).reaches
