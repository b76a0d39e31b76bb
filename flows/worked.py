"""Work that was done and whose result was not yet persisted when its owner died: it is not done again.

Between a container's end and the step's persisted result lie its removal, perhaps a check, and Prefect. Whoever is
killed there has the work's commit in the store and everything else in memory. So what the work came to is written into
the journal as soon as its tree is a commit, and a resume goes on from there: with the check, or straight to the result.
Like the record of a go it does not wait for the disk. It costs a line and a tenth of a millisecond a step. Only success
is written down; what failed is decided on by whoever knows why it failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from workflowmaster.blocks.layering import tree_of
from workflowmaster.blocks.workspace import WorkspaceError
from workflowmaster.flows.going import Outcome
from workflowmaster.flows.journal import read
from workflowmaster.flows.plan import Noun

if TYPE_CHECKING:
    from pathlib import Path

    from workflowmaster.flows.execution import Attempt
    from workflowmaster.flows.journal import Entry


class Worked(Noun):
    """What the work of an attempt came to, before its check and before anything was persisted."""

    step: str
    attempt: int
    key: str
    container: str
    started: float
    """Unix time, seconds."""
    outcome: Outcome


def note(attempt: Attempt, container: str, started: float, outcome: Outcome) -> None:
    """Write down what a step's work came to. OSError if the disk takes no more."""
    journey, step = attempt.journey, attempt.step
    if outcome.reason or journey.claim.lost:
        return
    record = Worked(
        step=step.id,
        attempt=attempt.number,
        key=journey.keys[step.id],
        container=container,
        started=started,
        outcome=outcome,
    )
    journey.journal.append("worked", **record.model_dump(mode="json", exclude_defaults=True))


def open_work(path: Path) -> dict[str, Worked]:
    """Read, by step, the work that is done and whose step has no result."""
    found: dict[str, Worked] = {}
    for entry in read(path).of("worked", "go", "decision", "result"):
        _take(found, entry)
    return found


def _take(found: dict[str, Worked], entry: Entry) -> None:
    step = str(entry.fields.get("step"))
    # Its check is sent off with a record of its own, which has the work's outcome in it; any other go is a new attempt.
    found.pop(step, None)
    if entry.kind != "worked":
        return
    try:
        found[step] = Worked.model_validate(entry.fields)
    except ValidationError:
        return  # of another version: the step starts clean


def take(attempt: Attempt) -> Worked | None:
    """Return what an earlier owner's work came to, if it holds for this step as it is now. In the store's thread."""
    journey = attempt.journey
    record = journey.adopting.done.pop(attempt.step.id, None)
    if record is None or record.key != journey.keys[attempt.step.id]:
        return None
    try:
        tree_of(journey.store, record.outcome.commit)
    except WorkspaceError:
        return None  # the store was damaged since
    journey.audit.append("work.kept", step=record.step, attempt=record.attempt, commit=record.outcome.commit)
    return record
