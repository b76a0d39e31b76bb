"""What an earlier part of a run has recorded, read once when the run goes on.

The records are read front to back into the few tables that a resume asks: a thousand steps are some thousand lines,
parsed in milliseconds, and nothing here grows with how often a run was resumed. What the tables say is where to look
and what was decided; whether a result still holds is asked of Prefect's persisted one, see `reuse.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workflowmaster.flows.budgets import Ledger
from workflowmaster.flows.journal import read
from workflowmaster.flows.plan import Decision, Limits
from workflowmaster.flows.questions import Book

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from workflowmaster.flows.journal import Entry

DECIDED = frozenset(Decision.model_fields)


@dataclass(frozen=True)
class Finished:
    """A step's last recorded outcome."""

    key: str
    result: Mapping[str, Any]
    """`StepResult` as JSON."""
    task_run: str
    """Prefect's task run that made it, or gave it back; empty where none did."""
    flow_run: str
    """Flow run in whose graph that task run is."""


@dataclass(frozen=True)
class Trial:
    """A failed attempt, as it was recorded with what was decided about it."""

    key: str
    decision: Decision
    had: Limits | None = None
    """What it ran with, where that was more than the step had at first."""
    start: str = ""
    """Commit whose tree it found."""
    left: str = ""
    """Commit of what it left, where `on-retry: keep` asks for that."""

    @property
    def same(self) -> tuple[object, ...]:
        """What it failed with and what it was given: equal for two attempts of which the second told nothing new."""
        failure = self.decision.failure
        return self.key, self.start, self.had, failure.fingerprint if failure else ""

    @property
    def next(self) -> Limits | None:
        """What the attempt after it gets, where that is more than the step had at first."""
        more, had = self.decision.limits or Limits(), self.had or Limits()
        both = Limits(memory=more.memory or had.memory, seconds=more.seconds or had.seconds)
        return None if both == Limits() else both


@dataclass
class Past:
    """Everything that was recorded before this part of the run began; empty for a new run."""

    keyed: dict[str, str] = field(default_factory=dict)
    """Step id → the last key it was given."""
    finished: dict[str, Finished] = field(default_factory=dict)
    """Step id → its last outcome."""
    decisions: list[Decision] = field(default_factory=list)
    approvals: dict[str, str] = field(default_factory=dict)
    """Step id → the last answer; empty where it was withdrawn, because the step was changed after it."""
    book: Book = field(default_factory=Book)
    """What a person was asked and has answered; this part of the run goes on writing in it."""
    generations: dict[str, int] = field(default_factory=dict)
    """Step id → how often somebody, or a lost result, has made it run anew."""
    places: list[str] = field(default_factory=list)
    """Folders that Prefect kept this run's results in, the last one last: a worker's is not the command line's."""
    ledger: Ledger = field(default_factory=Ledger)
    """What the run has used of its budget; this part of it goes on entering."""
    retried: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Step id → key, and failed attempts of it that were to be followed by another one."""
    trials: dict[str, list[Trial]] = field(default_factory=dict)
    """Step id → its failed attempts, in order; this part of the run goes on entering."""

    @property
    def rows(self) -> frozenset[str]:
        """Ids of the task runs that have completed, whatever the server heard of them before the run was killed."""
        return frozenset(one.task_run for one in self.finished.values() if one.result["status"] == "completed")

    def spent(self, step_id: str, key: str) -> int:
        """Return the failed attempts that count against the retries of a step that goes on under this key.

        An attempt that a crash cut short is not one, and a step that had come to its end begins to count anew: whoever
        resumes a failed run wants it tried.
        """
        known, count = self.retried.get(step_id, ("", 0))
        return count if known == key else 0

    def tried(self, counted: Mapping[str, int]) -> dict[str, int]:
        """Return the attempts of each step: those that were counted, and those that failed before anything was kept."""
        failed = {step: max(one.decision.attempt for one in trials) for step, trials in self.trials.items()}
        return {step: max(count, failed.get(step, 0)) for step, count in counted.items()}


def past(path: Path) -> Past:
    """Read the records of a workflow; an empty past where there are none. Damaged lines are left out."""
    found = Past(ledger=Ledger(own=path.parent.name))
    for entry in read(path).entries:
        _take(found, entry)
    return found


def _take(found: Past, entry: Entry) -> None:
    fields = entry.fields
    found.book.take(entry)
    found.ledger.take(entry)
    if entry.kind == "keys":
        found.keyed[fields["step"]] = fields["key"]
    elif entry.kind == "result":
        found.retried.pop(fields["step"], None)
        result = fields["result"]
        rows = fields.get("task_run", ""), fields.get("flow_run", "")
        found.finished[fields["step"]] = Finished(result["key"], result, *rows)
    elif entry.kind == "begun" and fields.get("results_place"):
        found.places = [*(one for one in found.places if one != fields["results_place"]), fields["results_place"]]
    elif entry.kind == "decision":
        # The record's time is the decision's: a wait that a crash cut short goes on from there.
        _decided(found, {**fields, "at": entry.at})
    elif entry.kind == "approval":
        found.approvals[fields["step"]] = fields["answer"]
        found.retried.pop(fields["step"], None)
    elif entry.kind == "rerun":
        for step in fields["steps"]:
            found.generations[step] = max(fields["generation"], found.generations.get(step, 0))


def _decided(found: Past, fields: Mapping[str, Any]) -> None:
    decision = Decision.model_validate({name: value for name, value in fields.items() if name in DECIDED})
    found.decisions.append(decision)
    if "key" not in fields:
        return  # about no attempt: the engine was waited for
    had = Limits.model_validate(fields["had"]) if fields.get("had") else None
    trial = Trial(fields.get("key", ""), decision, had, fields.get("start", ""), fields.get("left", ""))
    found.trials.setdefault(decision.step, []).append(trial)
    if decision.verb == "retry" and fields.get("counted", True):
        key = fields.get("key", "")
        known, count = found.retried.get(decision.step, (key, 0))
        found.retried[decision.step] = (key, count + 1 if known == key else 1)
